with

difference_scores as (
    select * from {{ ref('difference_scores') }}
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
        -- Not a minus alone, which makes a zero of its own of 0.
        0.0 - rank_difference as rank_difference
    from difference_scores
)

select * from final
