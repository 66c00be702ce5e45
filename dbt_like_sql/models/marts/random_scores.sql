with

candidates as (
    select * from {{ ref('stg_candidates') }}
),

-- splitmix64 (Steele et al. 2014, doi 10.1145/2660193) of the id, as core/sampling.py: the same number in every run and
-- on every machine. Of 128 bits, the lowest 64 are arithmetic modulo 2^64.
seeded as (
    select
        *,
        (cast(sequence_id as uhugeint) + (cast($seed as uhugeint) + 1) * 11400714819323198485) & 18446744073709551615 as mixed
    from candidates
),

mixed_once as (
    select
        * replace (
            (xor(mixed, mixed >> 30) * cast(13787848793156543929 as uhugeint)) & 18446744073709551615 as mixed
        )
    from seeded
),

mixed_twice as (
    select
        * replace (
            (xor(mixed, mixed >> 27) * cast(10723151780598845931 as uhugeint)) & 18446744073709551615 as mixed
        )
    from mixed_once
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
        -- The upper 53 bits, as many as a double holds, by 2^53.
        cast(xor(mixed, mixed >> 31) >> 11 as double) / 9007199254740992.0 as rank_difference
    from mixed_twice
)

select * from final
