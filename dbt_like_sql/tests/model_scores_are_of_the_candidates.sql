-- A failure means: a candidate has no score, or a score belongs to no sequence, so that it would be lost silently.
-- model: likelihood_scores
-- severity: stop
-- scope: shard
with

sequences as (
    select * from {{ ref('sequences') }}
),

model_scores as (
    select * from {{ ref('model_scores') }}
),

-- Candidates and validation sequences are scored, the others never.
scorable as (
    select
        sequence_id,
        shard,
        split = 'candidate' as is_candidate
    from sequences
    where split in ('candidate', 'validation')
),

paired as (
    select
        sequence_id,
        scorable.shard,
        coalesce(scorable.is_candidate, false) as is_candidate,
        scorable.sequence_id is not null as is_scorable,
        model_scores.num_scored_tokens is not null as is_scored
    from scorable
    full join model_scores using (sequence_id)
),

final as (
    select
        sequence_id,
        case
            when not is_scorable then
                format('sequence {} has a score, but the corpus has no such candidate or validation sequence: the scores '
                || 'are of other sequences. Materialise the scores of the model again', sequence_id)
            else
                format('sequence {} of shard {} has no score. Materialise the scores of the model', sequence_id, shard)
        end as problem
    from paired
    where not is_scorable or (is_candidate and not is_scored)
    order by sequence_id
)

select * from final
