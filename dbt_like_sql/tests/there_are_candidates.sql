-- A failure means: there is nothing to select from.
-- model: difference_scores,likelihood_scores,proxy_scores,random_scores,prior_statistics
-- severity: stop
with

candidates as (
    select * from {{ ref('stg_candidates') }}
),

final as (
    select
        'no sequence is a candidate, so there is nothing to select from. Either all documents fell into the other '
        || 'splits, or the corpus is too small for its shares: add documents, or lower corpus.splits in the '
        || 'experiment file' as problem
    where not exists (select * from candidates)
)

select * from final
