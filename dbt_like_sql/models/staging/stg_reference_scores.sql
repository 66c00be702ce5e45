with

reference_scores as (
    select * from {{ ref('reference_scores') }}
),

final as (
    select
        sequence_id,
        logprob_nats as reference_logprob_nats,
        num_scored_tokens
    from reference_scores
)

select * from final
