with

candidates as (
    select * from {{ ref('stg_candidates') }}
),

sequences as (
    select * from {{ ref('sequences') }}
),

token_priors as (
    select * from {{ ref('token_priors') }}
),

-- Whole numbers, so that the sums are the same in whatever order threads deliver them: logarithms in units of 2^-40
-- nats, occurrences and their squares.
priors as (
    select
        token_id,
        cast(round(log_prior_nats * 1099511627776) as bigint) as log_prior_units,
        num_occurrences,
        cast(num_occurrences as hugeint) * num_occurrences as squared_occurrences
    from token_priors
),

all_occurrences as (
    select cast(sum(num_occurrences) as double) as num_all from token_priors
),

tokens as (
    select
        sequence_id,
        unnest(token_ids) as token_id
    from sequences
    where split = 'candidate'
),

sums as (
    select
        tokens.sequence_id,
        count(*) as num_counted,
        sum(priors.log_prior_units) as sum_of_units,
        cast(sum(priors.num_occurrences) as hugeint) as sum_of_occurrences,
        sum(priors.squared_occurrences) as sum_of_squares
    from tokens
    inner join priors using (token_id)
    group by tokens.sequence_id
),

final as (
    select
        candidates.sequence_id,
        candidates.shard,
        candidates.domain,
        candidates.num_tokens,
        candidates.num_bytes,
        cast(sums.num_counted as integer) as num_counted_tokens,
        cast(sums.sum_of_units as double) / 1099511627776 / sums.num_counted as mean_log_prior_nats,
        -- One token has no deviation.
        coalesce(
            sqrt(
                cast(
                    sums.num_counted * sums.sum_of_squares - sums.sum_of_occurrences * sums.sum_of_occurrences as double
                )
                / nullif(sums.num_counted * (sums.num_counted - 1), 0)
            )
            / all_occurrences.num_all,
            0.0
        ) as prior_deviation
    from candidates
    left join sums using (sequence_id)
    cross join all_occurrences
)

select * from final
