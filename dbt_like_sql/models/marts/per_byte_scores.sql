with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

scored_bytes as (
    select * from {{ ref('scored_bytes') }}
),

final as (
    select
        difference_scores.sequence_id,
        difference_scores.shard,
        difference_scores.domain,
        difference_scores.num_tokens,
        difference_scores.num_bytes,
        difference_scores.num_scored_tokens,
        difference_scores.teacher_logprob_nats,
        difference_scores.reference_logprob_nats,
        difference_scores.difference_nats,
        difference_scores.difference_nats_per_token,
        -- Of a sequence of which no byte is asked for, nothing is known: 0, not 0 / 0.
        coalesce(difference_scores.rank_difference / nullif(scored_bytes.num_scored_bytes, 0), 0.0) as rank_difference
    from difference_scores
    inner join scored_bytes using (sequence_id)
)

select * from final
