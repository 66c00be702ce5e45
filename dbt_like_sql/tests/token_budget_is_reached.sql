-- A failure means: all candidates together hold fewer tokens than the token budget, so nothing was selected at all. Add
-- corpus, or lower token_budget.
-- model: selection_cutoff
-- severity: warn
with

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

final as (
    select
        token_budget,
        num_kept_tokens
    from selection_cutoff
    where num_kept_tokens < token_budget
)

select * from final
