-- A failure means: a score is NaN, infinite or missing. DuckDB sorts NaN above every number, so it would be selected first.
-- model: difference_scores
-- severity: stop
-- scope: shard
with

teacher_scores as (
    select * from {{ ref('stg_teacher_scores') }}
),

reference_scores as (
    select * from {{ ref('stg_reference_scores') }}
),

scores as (
    select
        sequence_id,
        'teacher' as model,
        teacher_logprob_nats as logprob_nats
    from teacher_scores
    union all
    select
        sequence_id,
        'reference' as model,
        reference_logprob_nats as logprob_nats
    from reference_scores
),

final as (
    select
        sequence_id,
        format('the {} score of sequence {} is {}, not a finite number. Delete that result and materialise {}_scores; '
        || 'should it come again, score in float32', model, sequence_id, coalesce(cast(logprob_nats as varchar), 'NULL'), model)
            as problem
    from scores
    where isfinite(logprob_nats) is distinct from true
    order by sequence_id, model desc
)

select * from final
