-- A failure means: a candidate has no teacher or no reference score, the two were scored over different tokens, or a
-- score belongs to no sequence. The difference would then be of two unlike things, or a sequence would be lost silently.
-- model: difference_scores
-- severity: stop
-- scope: shard
with

sequences as (
    select * from {{ ref('sequences') }}
),

teacher_scores as (
    select * from {{ ref('stg_teacher_scores') }}
),

reference_scores as (
    select * from {{ ref('stg_reference_scores') }}
),

scored_pairs as (
    select
        sequence_id,
        teacher_logprob_nats is not null as has_teacher_score,
        reference_logprob_nats is not null as has_reference_score,
        teacher_scores.num_scored_tokens as num_teacher_tokens,
        reference_scores.num_scored_tokens as num_reference_tokens
    from teacher_scores
    full join reference_scores using (sequence_id)
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
        coalesce(scored_pairs.has_teacher_score, false) as has_teacher_score,
        coalesce(scored_pairs.has_reference_score, false) as has_reference_score,
        scored_pairs.num_teacher_tokens,
        scored_pairs.num_reference_tokens
    from scorable
    full join scored_pairs using (sequence_id)
),

final as (
    select
        sequence_id,
        shard,
        case
            when not is_scorable and has_teacher_score then
                format('sequence {} has a teacher score, but the corpus has no such candidate or validation sequence: '
                || 'the scores are of other sequences. Materialise teacher_scores again', sequence_id)
            when not is_scorable then
                format('sequence {} has a reference score, but the corpus has no such candidate or validation '
                || 'sequence: the scores are of other sequences. Materialise reference_scores again', sequence_id)
            when not has_teacher_score then
                format('sequence {} of shard {} has no teacher score. Materialise teacher_scores', sequence_id, shard)
            when not has_reference_score then
                format('sequence {} of shard {} has no reference score. Materialise reference_scores',
                    sequence_id, shard)
            else
                format('sequence {} of shard {}: the teacher scored {} tokens, the reference {}. Score both with the '
                || 'same score_after_end_of_document', sequence_id, shard,
                    coalesce(cast(num_teacher_tokens as varchar), 'NULL'),
                    coalesce(cast(num_reference_tokens as varchar), 'NULL'))
        end as problem
    from paired
    where
        not is_scorable
        or (is_candidate and not (has_teacher_score and has_reference_score))
        or (is_candidate and (num_teacher_tokens = num_reference_tokens) is not true)
    order by sequence_id
)

select * from final
