with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

-- The bins span all but the outermost thousandths, so that one outlier does not flatten the picture. The quantiles may
-- be approximate: they place the edges; what is counted between them is exact.
limits as (
    select
        min(rank_difference) as lowest,
        max(rank_difference) as highest,
        approx_quantile(rank_difference, 0.001) as first_edge,
        approx_quantile(rank_difference, 0.999) as last_edge
    from marked_candidates
),

-- 200 bins: fine for a plot as wide as a page. Where all differences are equal, a bin still needs a width.
scale as (
    select
        *,
        case when last_edge > first_edge then (last_edge - first_edge) / 200 else 0.01 end as bin_width_nats
    from limits
),

-- Bin 0 holds what is below the first edge, bin 201 what is above the last.
binned as (
    select
        cast(greatest(0, least(201, 1 + floor((rank_difference - first_edge) / bin_width_nats))) as integer) as bin,
        num_tokens,
        is_kept
    from marked_candidates
    cross join scale
),

bins as (
    select
        cast(range as integer) as bin,
        scale.*
    from range(202)
    cross join scale
),

counts as (
    select
        bin,
        count(*) as num_candidates,
        count(*) filter (where is_kept) as num_kept,
        cast(sum(num_tokens) as bigint) as num_candidate_tokens
    from binned
    group by bin
),

final as (
    select
        bins.bin,
        case when bins.bin = 0 then least(lowest, first_edge) else first_edge + (bins.bin - 1) * bin_width_nats end
            as bin_start_nats,
        case
            when bins.bin = 201 then greatest(highest, first_edge + 200 * bin_width_nats)
            else first_edge + bins.bin * bin_width_nats
        end as bin_end_nats,
        coalesce(counts.num_candidates, 0) as num_candidates,
        coalesce(counts.num_kept, 0) as num_kept,
        coalesce(counts.num_candidate_tokens, 0) as num_candidate_tokens
    from bins
    left join counts on bins.bin = counts.bin
)

select * from final
