with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

random_scores as (
    select * from {{ ref('random_scores') }}
),

-- Gumbel noise: -ln(-ln(u)) of a number u in (0, 1). Of 0 there is no logarithm, so that half the smallest step of u
-- takes its place.
noisy as (
    select
        difference_scores.*,
        -ln(-ln(greatest(random_scores.rank_difference, 5.551115123125783e-17))) as gumbel_noise
    from difference_scores
    inner join random_scores using (sequence_id)
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
        rank_difference / $temperature + gumbel_noise as rank_difference
    from noisy
)

select * from final
