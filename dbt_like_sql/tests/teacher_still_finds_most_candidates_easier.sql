-- A failure means: the teacher finds more than half of the candidates harder than the reference does, before anything
-- was done to the difference of the two, so that it is the weaker model, or scores other tokens. Take a stronger one.
-- model: score_distribution
-- severity: warn
-- selections: transformed
with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

counted as (
    select
        count(*) as num_candidates,
        count(*) filter (where difference_nats < 0) as num_below_zero
    from difference_scores
),

final as (
    select
        num_candidates,
        num_below_zero / num_candidates as share_below_zero
    from counted
    where num_below_zero > num_candidates / 2
)

select * from final
