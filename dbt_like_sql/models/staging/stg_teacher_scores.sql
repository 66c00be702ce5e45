with

teacher_scores as (
    select * from {{ ref('teacher_scores') }}
),

final as (
    select
        sequence_id,
        logprob_nats as teacher_logprob_nats,
        num_scored_tokens
    from teacher_scores
)

select * from final
