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

-- log p_teacher(x) - log p_reference(x), of the share that both have scored; over the same tokens.
scored as (
    select
        teacher_scores.sequence_id,
        teacher_scores.num_scored_tokens,
        teacher_scores.teacher_logprob_nats,
        reference_scores.reference_logprob_nats,
        teacher_scores.teacher_logprob_nats - reference_scores.reference_logprob_nats as difference_nats
    from teacher_scores
    inner join reference_scores using (sequence_id, num_scored_tokens)
),

-- What is scored keeps its difference; of all others the prediction counts, and no log-probability is known.
mixed as (
    select
        candidates.*,
        coalesce(scored.num_scored_tokens, proxy_differences.num_scored_tokens) as num_scored_tokens,
        scored.teacher_logprob_nats,
        scored.reference_logprob_nats,
        scored.difference_nats,
        -- A sequence in which nothing was scored says nothing for either model: 0, not 0 / 0.
        case
            when scored.difference_nats is not null
                then coalesce(scored.difference_nats / nullif(scored.num_scored_tokens, 0), 0.0)
        end as difference_nats_per_token,
        proxy_differences.predicted_difference_nats_per_token
    from candidates
    left join scored using (sequence_id)
    left join proxy_differences using (sequence_id)
),

final as (
    select
        sequence_id,
        shard,
        domain,
        num_tokens,
        num_bytes,
        num_scored_tokens,
        teacher_logprob_nats,
        reference_logprob_nats,
        difference_nats,
        difference_nats_per_token,
        case $rank_by
            when 'nats_per_token' then coalesce(difference_nats_per_token, predicted_difference_nats_per_token)
            when 'nats_per_sequence'
                then coalesce(difference_nats, predicted_difference_nats_per_token * num_scored_tokens)
        end as rank_difference
    from mixed
)

select * from final
