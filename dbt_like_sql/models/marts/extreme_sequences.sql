with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

sequences as (
    select * from {{ ref('sequences') }}
),

ten_highest as (
    select * from marked_candidates
    order by rank_difference desc, sequence_id
    limit 10
),

ten_lowest as (
    select * from marked_candidates
    order by rank_difference, sequence_id desc
    limit 10
),

extremes as (
    select
        'highest' as extreme,
        row_number() over (order by rank_difference desc, sequence_id) as place,
        *
    from ten_highest
    union all
    select
        'lowest' as extreme,
        row_number() over (order by rank_difference, sequence_id desc) as place,
        *
    from ten_lowest
),

final as (
    select
        extremes.extreme,
        extremes.place,
        extremes.sequence_id,
        extremes.shard,
        extremes.domain,
        extremes.num_tokens,
        -extremes.teacher_logprob_nats / nullif(extremes.num_scored_tokens, 0) as teacher_nll_nats_per_token,
        -extremes.reference_logprob_nats / nullif(extremes.num_scored_tokens, 0) as reference_nll_nats_per_token,
        extremes.difference_nats,
        extremes.difference_nats_per_token,
        extremes.rank_difference,
        extremes.is_kept,
        -- Between two documents of one sequence: an empty line.
        array_to_string(sequences.texts, chr(10) || chr(10)) as text
    from extremes
    inner join sequences using (sequence_id)
)

select * from final
