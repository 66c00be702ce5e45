with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

-- Sorting all candidates to find one of them is not needed. Counting them in bands of 0.01 nats finds the band that
-- the cutoff lies in, and only that band is sorted. A width far below the spread of the differences keeps the band
-- small; the outcome does not depend on it. Read twice, so it must not be held in memory.
banded as not materialized (
    select
        sequence_id,
        num_tokens,
        rank_difference,
        floor(rank_difference / 0.01) as band
    from difference_scores
),

bands as (
    select
        band,
        count(*) as num_candidates,
        sum(num_tokens) as num_tokens,
        count(*) filter (where rank_difference < 0) as num_below_zero
    from banded
    group by band
),

totals as (
    select
        cast(sum(num_candidates) as bigint) as num_candidates,
        cast(sum(num_tokens) as bigint) as num_candidate_tokens,
        sum(num_below_zero) / sum(num_candidates) as share_below_zero
    from bands
),

-- How many to keep, where a fraction says so. As decimals, for 0.29 * 100 is 28.999999999999996 in binary.
amount as (
    select
        *,
        greatest(
            1,
            coalesce(
                floor(cast(cast($keep_fraction as varchar) as decimal(20, 19)) * cast(num_candidates as decimal(15, 0))),
                0
            )
        ) as num_to_keep,
        cast($token_budget as bigint) as token_budget
    from totals
),

bands_with_better as (
    select
        band,
        sum(num_candidates) over best_band_first - num_candidates as num_better,
        sum(num_tokens) over best_band_first - num_tokens as num_tokens_of_better
    from bands
    window best_band_first as (order by band desc)
),

-- A band is needed as long as the better ones are too few (or, for a token budget, too short).
cutoff_band as (
    select bands_with_better.*
    from bands_with_better
    cross join amount
    where num_better < num_to_keep or num_tokens_of_better < token_budget
    order by band
    limit 1
),

candidates_with_better as (
    select
        banded.sequence_id,
        banded.rank_difference,
        banded.num_tokens,
        cutoff_band.num_better
        + count(*) over best_first - 1 as num_better,
        cutoff_band.num_tokens_of_better
        + sum(banded.num_tokens) over best_first - banded.num_tokens as num_tokens_of_better
    from banded
    inner join cutoff_band on banded.band = cutoff_band.band
    window best_first as (order by banded.rank_difference desc, banded.sequence_id rows unbounded preceding)
),

-- The same rule inside the band: the last candidate that is needed is the cutoff.
cutoff as (
    select
        amount.*,
        candidates_with_better.sequence_id as cutoff_sequence_id,
        candidates_with_better.rank_difference as cutoff_difference,
        cast(candidates_with_better.num_better + 1 as bigint) as num_kept,
        cast(candidates_with_better.num_tokens_of_better + candidates_with_better.num_tokens as bigint)
            as num_kept_tokens
    from candidates_with_better
    cross join amount
    where num_better < num_to_keep or num_tokens_of_better < token_budget
    order by candidates_with_better.num_better desc
    limit 1
),

final as (
    select
        $rank_by as rank_by,
        cast($keep_fraction as double) as keep_fraction,
        token_budget,
        num_candidates,
        num_candidate_tokens,
        num_kept,
        num_kept_tokens,
        cutoff_difference,
        cutoff_sequence_id,
        share_below_zero
    from cutoff
)

select * from final
