-- A failure means: the refined corpus has lost sequences, or has more than the cutoff keeps.
-- model: refined_corpus
with

refined_corpus as (
    select * from {{ ref('refined_corpus') }}
),

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

counted as (
    select
        count(*) as num_written,
        coalesce(sum(num_tokens), 0) as num_written_tokens
    from refined_corpus
),

final as (
    select
        selection_cutoff.num_kept,
        counted.num_written,
        selection_cutoff.num_kept_tokens,
        counted.num_written_tokens
    from selection_cutoff
    cross join counted
    where num_kept != num_written or num_kept_tokens != num_written_tokens
)

select * from final
