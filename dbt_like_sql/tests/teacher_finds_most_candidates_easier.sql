-- A failure means: the teacher finds more than half of the candidates harder than the reference does, so that it is the
-- weaker model, or scores other tokens; of the Pile in the paper it was 6 in 100. What is kept is then no choice of the
-- teacher. Take a stronger one; a pilot would have said so before everything was scored.
-- model: score_distribution
-- severity: warn
-- selections: plain
with

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

final as (
    select
        num_candidates,
        share_below_zero
    from selection_cutoff
    where share_below_zero > 0.5
)

select * from final
