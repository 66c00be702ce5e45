-- Scores are written in the order of the sequences: each stands at the place of its sequence, so that none needs to be
-- looked up. Still by key: a score of another sequence at that place pairs with nothing.
-- screen: scores_pair_one_to_one
with

scorable as (
    select * from {{ ref('sequences') }}
    where split in ('candidate', 'validation')
),

teacher_scores as (
    select * from {{ ref('stg_teacher_scores') }}
),

reference_scores as (
    select * from {{ ref('stg_reference_scores') }}
),

final as (
    select
        scorable.sequence_id,
        scorable.shard,
        scorable.domain,
        scorable.num_tokens,
        scorable.num_bytes,
        teacher_scores.num_scored_tokens,
        teacher_scores.teacher_logprob_nats,
        reference_scores.reference_logprob_nats
    from scorable
    positional join teacher_scores
    positional join reference_scores
    where
        scorable.split = 'candidate'
        and teacher_scores.sequence_id = scorable.sequence_id
        and reference_scores.sequence_id = scorable.sequence_id
        and reference_scores.num_scored_tokens = teacher_scores.num_scored_tokens
)

select * from final
