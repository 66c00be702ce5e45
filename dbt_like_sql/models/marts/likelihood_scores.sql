with

candidates as (
    select * from {{ ref('stg_candidates') }}
),

model_scores as (
    select * from {{ ref('model_scores') }}
),

scored as (
    select
        candidates.*,
        model_scores.num_scored_tokens,
        model_scores.logprob_nats
    from candidates
    inner join model_scores using (sequence_id)
),

final as (
    select
        sequence_id,
        shard,
        domain,
        num_tokens,
        num_bytes,
        num_scored_tokens,
        case when $score = 'teacher' then logprob_nats end as teacher_logprob_nats,
        case when $score = 'reference' then logprob_nats end as reference_logprob_nats,
        cast(null as double) as difference_nats,
        cast(null as double) as difference_nats_per_token,
        case $rank_by
            -- A sequence in which nothing was scored has no likelihood: 0, not 0 / 0.
            when 'nats_per_token' then coalesce(logprob_nats / nullif(num_scored_tokens, 0), 0.0)
            when 'nats_per_sequence' then logprob_nats
        end as rank_difference
    from scored
)

select * from final
