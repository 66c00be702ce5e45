-- A failure means: a score is NaN, infinite or missing. DuckDB sorts NaN above every number, so it would be selected first.
-- model: likelihood_scores
-- severity: stop
-- scope: shard
with

model_scores as (
    select * from {{ ref('model_scores') }}
),

final as (
    select
        sequence_id,
        format('the score of sequence {} is {}, not a finite number. Delete that result and materialise the scores of the '
        || 'model again; should it come again, score in float32', sequence_id, coalesce(cast(logprob_nats as varchar), 'NULL'))
            as problem
    from model_scores
    -- Not isfinite(): DuckDB answers that from the least and the largest value that Parquet notes, of which NaN is none,
    -- where the two are equal.
    where coalesce(cast(logprob_nats as varchar), 'NULL') in ('nan', 'inf', '-inf', 'NULL')
    order by sequence_id
)

select * from final
