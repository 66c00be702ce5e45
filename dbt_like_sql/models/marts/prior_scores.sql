with

prior_statistics as (
    select * from {{ ref('prior_statistics') }}
),

-- Values that are there, and no mean of two: the distances of equal ones stay equal.
medians as (
    select
        quantile_disc(mean_log_prior_nats, 0.5) as median_mean,
        quantile_disc(prior_deviation, 0.5) as median_deviation
    from prior_statistics
),

distances as (
    select
        prior_statistics.*,
        abs(prior_statistics.mean_log_prior_nats - medians.median_mean) as distance_of_mean,
        abs(prior_statistics.prior_deviation - medians.median_deviation) as distance_of_deviation
    from prior_statistics
    cross join medians
),

final as (
    select
        sequence_id,
        shard,
        domain,
        num_tokens,
        num_bytes,
        cast(null as integer) as num_scored_tokens,
        cast(null as double) as teacher_logprob_nats,
        cast(null as double) as reference_logprob_nats,
        cast(null as double) as difference_nats,
        cast(null as double) as difference_nats_per_token,
        -- Published is to drop as many of the largest distances of the one as of the other, until enough are left: the
        -- last to be dropped is where the larger of the two shares is smallest.
        -greatest(
            cume_dist() over (order by distance_of_mean),
            cume_dist() over (order by distance_of_deviation)
        ) as rank_difference
    from distances
)

select * from final
