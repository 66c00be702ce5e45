-- A failure means: the candidates down to the cutoff are not as many, or hold not as many tokens, as it says.
-- model: selection_cutoff
with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

counted as (
    select
        count(*) as num_counted,
        coalesce(sum(num_tokens), 0) as num_counted_tokens
    from marked_candidates
    where is_kept
),

final as (
    select
        selection_cutoff.num_kept,
        counted.num_counted,
        selection_cutoff.num_kept_tokens,
        counted.num_counted_tokens
    from selection_cutoff
    cross join counted
    where num_kept != num_counted or num_kept_tokens != num_counted_tokens
)

select * from final
