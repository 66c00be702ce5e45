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
        -- A random number is at least 0 and below 1: by one less, the unwanted come after all others.
        rank_difference - cast(list_contains($unwanted_domains, domain) as double) as rank_difference
    from difference_scores
)

select * from final
