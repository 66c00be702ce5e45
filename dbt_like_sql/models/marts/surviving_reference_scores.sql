with

sequences as (
    select * from {{ ref('sequences') }}
),

model_scores as (
    select * from {{ ref('model_scores') }}
),

final as (
    select
        model_scores.sequence_id,
        model_scores.logprob_nats,
        model_scores.num_scored_tokens
    from model_scores
    semi join sequences using (sequence_id)
)

select * from final
