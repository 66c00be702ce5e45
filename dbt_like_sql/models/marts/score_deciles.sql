with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

sequences as (
    select * from {{ ref('sequences') }}
),

-- Counted in bands, of which only those that lie across the border of two tenths are sorted, as in selection_cutoff. Read
-- twice, so it must not be held in memory.
banded as not materialized (
    select
        *,
        floor(rank_difference / 0.01) as band
    from marked_candidates
),

bands as (
    select
        band,
        count(*) as num_candidates
    from banded
    group by band
),

-- Place p of n is in the tenth ceil(10 p / n).
bands_with_tenths as (
    select
        band,
        sum(num_candidates) over best_band_first - num_candidates as num_better,
        cast(sum(num_candidates) over () as bigint) as num_all,
        (10 * (num_better + 1) + num_all - 1) // num_all as first_decile,
        (10 * (num_better + num_candidates) + num_all - 1) // num_all as last_decile
    from bands
    window best_band_first as (order by band desc)
),

across_a_border as (
    select
        banded.* exclude (band),
        (
            10 * (
                bands_with_tenths.num_better + row_number() over (
                    partition by banded.band order by banded.rank_difference desc, banded.sequence_id
                )
            )
            + bands_with_tenths.num_all - 1
        ) // bands_with_tenths.num_all as decile
    from banded
    inner join bands_with_tenths on banded.band = bands_with_tenths.band
    where bands_with_tenths.first_decile != bands_with_tenths.last_decile
),

within_a_tenth as (
    select
        banded.* exclude (band),
        bands_with_tenths.first_decile as decile
    from banded
    inner join bands_with_tenths on banded.band = bands_with_tenths.band
    where bands_with_tenths.first_decile = bands_with_tenths.last_decile
),

in_tenths as (
    select * from across_a_border
    union all
    select * from within_a_tenth
),

by_decile as (
    select
        decile,
        count(*) as num_candidates,
        count(*) filter (where is_kept) as num_kept,
        sum(num_tokens) as num_tokens,
        avg(num_tokens) as mean_num_tokens,
        max(rank_difference) as highest_difference,
        min(rank_difference) as lowest_difference,
        -sum(teacher_logprob_nats) / nullif(sum(num_scored_tokens) filter (where teacher_logprob_nats is not null), 0)
            as teacher_nll_nats_per_token,
        -sum(reference_logprob_nats) / nullif(sum(num_scored_tokens) filter (where reference_logprob_nats is not null), 0)
            as reference_nll_nats_per_token,
        -- Drawn by the hash of the id, so that they are the same ones in every run.
        min_by(sequence_id, md5(cast(sequence_id as varchar)), 3) as example_ids
    from in_tenths
    group by decile
),

domains_of_deciles as (
    select
        decile,
        domain,
        sum(num_tokens) / sum(sum(num_tokens)) over (partition by decile) as share,
        row_number() over (partition by decile order by sum(num_tokens) desc, domain) as place
    from in_tenths
    group by decile, domain
),

domains_in_words as (
    select
        decile,
        string_agg(format('{} {:.1f} %', domain, 100 * share), ', ' order by place) as domains
    from domains_of_deciles
    where place <= 5
    group by decile
),

example_places as (
    select
        decile,
        unnest(example_ids) as sequence_id,
        generate_subscripts(example_ids, 1) as place
    from by_decile
),

-- Between two documents of one sequence: an empty line.
examples as (
    select
        example_places.decile,
        example_places.place,
        left(array_to_string(sequences.texts, chr(10) || chr(10)), 200) as text
    from example_places
    inner join sequences using (sequence_id)
),

examples_of_deciles as (
    select
        decile,
        any_value(text) filter (where place = 1) as example_1,
        any_value(text) filter (where place = 2) as example_2,
        any_value(text) filter (where place = 3) as example_3
    from examples
    group by decile
),

final as (
    select
        cast(by_decile.decile as integer) as decile,
        by_decile.num_candidates,
        cast(by_decile.num_tokens as bigint) as num_tokens,
        by_decile.mean_num_tokens,
        by_decile.num_kept / by_decile.num_candidates as share_kept,
        by_decile.highest_difference,
        by_decile.lowest_difference,
        by_decile.teacher_nll_nats_per_token,
        by_decile.reference_nll_nats_per_token,
        domains_in_words.domains,
        examples_of_deciles.example_1,
        examples_of_deciles.example_2,
        examples_of_deciles.example_3
    from by_decile
    inner join domains_in_words on by_decile.decile = domains_in_words.decile
    inner join examples_of_deciles on by_decile.decile = examples_of_deciles.decile
)

select * from final
