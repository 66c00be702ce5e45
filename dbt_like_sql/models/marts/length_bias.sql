with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

longest as (
    select max(num_tokens) as max_num_tokens from marked_candidates
),

-- Tenths of the longest candidate.
bucketed as (
    select
        marked_candidates.*,
        cast(ceil(10 * marked_candidates.num_tokens / longest.max_num_tokens) as integer) as length_bucket
    from marked_candidates
    cross join longest
),

by_bucket_and_over_all as (
    select
        coalesce(length_bucket, 0) as length_bucket,
        min(num_tokens) as min_num_tokens,
        max(num_tokens) as max_num_tokens,
        count(*) as num_candidates,
        count(*) filter (where is_kept) as num_kept,
        avg(difference_nats) as mean_difference_nats,
        avg(difference_nats_per_token) as mean_difference_nats_per_token,
        -- corr() of what does not vary is NaN, which no reader expects in a table.
        nullif(corr(num_tokens, difference_nats), cast('nan' as double)) as length_difference_correlation,
        nullif(corr(num_tokens, difference_nats_per_token), cast('nan' as double))
            as length_difference_per_token_correlation
    from bucketed
    group by grouping sets ((length_bucket), ())
),

final as (
    select
        length_bucket,
        min_num_tokens,
        max_num_tokens,
        num_candidates,
        num_kept,
        num_kept / num_candidates as share_kept,
        mean_difference_nats,
        mean_difference_nats_per_token,
        length_difference_correlation,
        length_difference_per_token_correlation
    from by_bucket_and_over_all
)

select * from final
