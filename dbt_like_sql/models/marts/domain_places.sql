with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

placed as (
    select
        *,
        row_number() over best_first as place,
        sum(num_tokens) over best_first - num_tokens as num_tokens_of_better,
        count(*) over of_domain as num_of_domain,
        sum(num_tokens) over of_domain as num_tokens_of_domain,
        count(*) over () as num_candidates,
        sum(num_tokens) over () as num_candidate_tokens
    from difference_scores
    window
        best_first as (partition by domain order by rank_difference desc, sequence_id rows unbounded preceding),
        of_domain as (partition by domain)
),

-- How far a candidate stands above the quota of its domain: places, as decimals, for 0.29 * 100 is 28.999999999999996 in
-- binary; or tokens that the quota still lacks, times all tokens, which keeps them whole numbers.
above_quota as (
    select
        *,
        cast(cast($keep_fraction as varchar) as decimal(20, 19)) * cast(num_of_domain as decimal(15, 0))
        - cast(place as decimal(15, 0)) as places_above_quota,
        cast(least(cast($token_budget as bigint), num_candidate_tokens) as hugeint) * num_tokens_of_domain
        - cast(num_tokens_of_better as hugeint) * num_candidate_tokens as tokens_above_quota
    from placed
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
        coalesce(
            cast(places_above_quota as double) / num_candidates,
            cast(tokens_above_quota as double)
            / (cast(num_candidate_tokens as double) * cast(num_candidate_tokens as double))
        ) as rank_difference
    from above_quota
)

select * from final
