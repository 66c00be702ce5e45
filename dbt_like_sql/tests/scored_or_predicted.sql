-- A failure means: a candidate has neither scores of both models nor a predicted difference, has both, or one of them is
-- no finite number. It would be lost silently, be there twice, or rank above all others.
-- model: proxy_scores
-- severity: stop
-- scope: shard
with

candidates as (
    select * from {{ ref('stg_candidates') }}
),

teacher_scores as (
    select * from {{ ref('stg_teacher_scores') }}
),

reference_scores as (
    select * from {{ ref('stg_reference_scores') }}
),

proxy_differences as (
    select * from {{ ref('proxy_differences') }}
),

paired as (
    select
        sequence_id,
        candidates.shard,
        candidates.shard is not null as is_candidate,
        teacher_scores.num_scored_tokens as num_teacher_tokens,
        reference_scores.num_scored_tokens as num_reference_tokens,
        proxy_differences.num_scored_tokens as num_predicted_tokens,
        cast(teacher_scores.teacher_logprob_nats - reference_scores.reference_logprob_nats as varchar) as difference,
        cast(proxy_differences.predicted_difference_nats_per_token as varchar) as predicted
    from candidates
    left join teacher_scores using (sequence_id)
    left join reference_scores using (sequence_id)
    full join proxy_differences using (sequence_id)
),

final as (
    select
        sequence_id,
        case
            when not is_candidate then
                format('sequence {} is predicted, but the corpus has no such candidate', sequence_id)
            when (num_teacher_tokens = num_reference_tokens) is not true and num_predicted_tokens is null then
                format('sequence {} of shard {} is not predicted, and was scored over {} tokens by the teacher and {} by '
                || 'the reference', sequence_id, shard, coalesce(cast(num_teacher_tokens as varchar), 'NULL'),
                    coalesce(cast(num_reference_tokens as varchar), 'NULL'))
            when coalesce(num_teacher_tokens, num_reference_tokens) is not null and num_predicted_tokens is not null then
                format('sequence {} of shard {} is scored, and predicted too', sequence_id, shard)
            else
                format('the difference of sequence {} of shard {} is {}, not a finite number', sequence_id, shard,
                    coalesce(difference, predicted, 'NULL'))
        end || '. Materialise the scores and the proxy_differences of this selection again' as problem
    from paired
    where
        not is_candidate
        or ((num_teacher_tokens = num_reference_tokens) is true) = (num_predicted_tokens is not null)
        or coalesce(num_teacher_tokens, num_reference_tokens) is not null and num_predicted_tokens is not null
        -- Not isfinite(), which DuckDB answers from what Parquet notes, of which NaN is none.
        or coalesce(difference, predicted, 'NULL') in ('nan', '-nan', 'inf', '-inf', 'NULL')
    order by sequence_id
)

select * from final
