-- A failure means: a candidate was lost, or was there twice, on the way from its score to its rank.
-- model: selection_cutoff
-- severity: stop
-- selections: ranked
with

candidates as (
    select * from {{ ref('stg_candidates') }}
),

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

counted as (
    select
        (select count(*) from candidates) as num_candidates,
        (select count(*) from difference_scores) as num_ranked
),

final as (
    select
        format('there are {} candidates, and {} are ranked. Materialise the scores of this selection again',
            num_candidates, num_ranked) as problem
    from counted
    where num_candidates != num_ranked
)

select * from final
