with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

-- Counted in bands of 0.01, of which only those that a cutoff may lie in are sorted, as in selection_cutoff. A pool is
-- what is kept the best of: all candidates, or those of a domain. Read twice, so it must not be held in memory.
banded as not materialized (
    select
        case when $within = 'domain' then domain else '' end as pool,
        domain,
        sequence_id,
        num_tokens,
        is_kept,
        rank_difference,
        floor(rank_difference / 0.01) as band
    from marked_candidates
),

bands as (
    select
        pool,
        domain,
        band,
        count(*) as num_candidates,
        sum(num_tokens) as num_tokens,
        count(*) filter (where is_kept) as num_kept_now,
        coalesce(sum(num_tokens) filter (where is_kept), 0) as num_kept_tokens_now,
        min(rank_difference) as lowest_difference
    from banded
    group by pool, domain, band
),

domains as (
    select
        domain,
        pool,
        sum(num_tokens) as num_tokens,
        sum(num_kept_now) as num_kept_now,
        sum(num_kept_tokens_now) as num_kept_tokens_now
    from bands
    group by domain, pool
),

pools as (
    select
        pool,
        cast(sum(num_candidates) as bigint) as num_candidates
    from bands
    group by pool
),

-- Keep fractions in twentieths, so that all that is rounded is rounded in whole numbers. Beside its quota, a pool may
-- keep one more, where that of all others is rounded down too.
quotas as (
    select
        steps.range as step,
        pools.pool,
        steps.range * pools.num_candidates // 20 as quota,
        steps.range * pools.num_candidates % 20 as remainder,
        greatest(1, steps.range * sum(pools.num_candidates) over (partition by steps.range) // 20) as num_to_keep
    from range(1, 20) as steps
    cross join pools
),

pool_bands as (
    select
        pool,
        band,
        sum(num_candidates) as num_candidates,
        sum(sum(num_candidates)) over (partition by pool order by band desc) - sum(num_candidates) as num_better
    from bands
    group by pool, band
),

bands_near_a_cutoff as (
    select distinct
        pool_bands.pool,
        pool_bands.band,
        pool_bands.num_better
    from pool_bands
    inner join quotas
        on
            pool_bands.pool = quotas.pool
            and pool_bands.num_better <= quotas.quota
            and pool_bands.num_better + pool_bands.num_candidates >= quotas.quota
),

near as (
    select
        banded.*,
        bands_near_a_cutoff.num_better + row_number() over (
            partition by banded.pool, banded.band order by banded.rank_difference desc, banded.sequence_id
        ) as place
    from banded
    inner join bands_near_a_cutoff on banded.pool = bands_near_a_cutoff.pool and banded.band = bands_near_a_cutoff.band
),

-- One more go to the largest remainders, of equal ones to the smaller id, as in domain_places.
kept_of_pools as (
    select
        quotas.step,
        quotas.pool,
        quotas.quota + cast(
            row_number() over (partition by quotas.step order by quotas.remainder desc, near.sequence_id)
            <= quotas.num_to_keep - sum(quotas.quota) over (partition by quotas.step) as integer
        ) as num_kept
    from quotas
    inner join near on quotas.pool = near.pool and quotas.quota + 1 = near.place
),

cutoffs as (
    select
        kept_of_pools.*,
        near.band
    from kept_of_pools
    inner join near on kept_of_pools.pool = near.pool and kept_of_pools.num_kept = near.place
),

kept as (
    select
        cutoffs.step,
        bands.domain,
        bands.num_candidates as num_kept,
        bands.num_tokens as num_kept_tokens,
        bands.num_kept_now as num_kept_now_too,
        bands.lowest_difference as cutoff_difference
    from cutoffs
    inner join bands on cutoffs.pool = bands.pool and cutoffs.band < bands.band
    union all
    select
        cutoffs.step,
        near.domain,
        1 as num_kept,
        near.num_tokens as num_kept_tokens,
        cast(near.is_kept as integer) as num_kept_now_too,
        near.rank_difference as cutoff_difference
    from cutoffs
    inner join near on cutoffs.pool = near.pool and cutoffs.band = near.band and cutoffs.num_kept >= near.place
),

kept_of_domains as (
    select
        step,
        domain,
        sum(num_kept) as num_kept,
        sum(num_kept_tokens) as num_kept_tokens,
        sum(num_kept_now_too) as num_kept_now_too,
        min(cutoff_difference) as cutoff_difference
    from kept
    group by step, domain
),

by_domain_and_over_all as (
    select
        steps.range as step,
        domains.domain,
        sum(domains.num_tokens) as num_tokens,
        sum(domains.num_kept_now) as num_kept_now,
        sum(domains.num_kept_tokens_now) as num_kept_tokens_now,
        coalesce(sum(kept_of_domains.num_kept), 0) as num_kept,
        coalesce(sum(kept_of_domains.num_kept_tokens), 0) as num_kept_tokens,
        coalesce(sum(kept_of_domains.num_kept_now_too), 0) as num_kept_now_too,
        min(kept_of_domains.cutoff_difference) as cutoff_difference
    from range(1, 20) as steps
    cross join domains
    left join kept_of_domains on domains.domain = kept_of_domains.domain and steps.range = kept_of_domains.step
    group by grouping sets ((steps.range, domains.domain), (steps.range))
),

final as (
    select
        step / 20 as keep_fraction,
        domain,
        cast(num_kept as bigint) as num_kept,
        cast(num_kept_tokens as bigint) as num_kept_tokens,
        num_kept_tokens / num_tokens as kept_share_of_tokens,
        num_kept_tokens / max(num_kept_tokens) over (partition by step) as share_of_kept_tokens,
        num_kept_tokens_now / max(num_kept_tokens_now) over (partition by step) as share_of_kept_tokens_now,
        cutoff_difference,
        cast(num_kept_now_too as bigint) as num_kept_now_too,
        coalesce(num_kept_now_too / nullif(num_kept + num_kept_now - num_kept_now_too, 0), 1.0) as overlap
    from by_domain_and_over_all
)

select * from final
