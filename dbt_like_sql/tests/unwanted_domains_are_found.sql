-- A failure means: no candidate is of a domain that unwanted_domains names, so that nothing of it is put last. Look at
-- the name: `domain` in documents has those that there are.
-- model: labelled_scores
with

labelled_scores as (
    select * from {{ ref('labelled_scores') }}
),

unwanted as (
    select unnest($unwanted_domains) as domain
),

final as (
    select unwanted.domain
    from unwanted
    anti join labelled_scores using (domain)
    order by domain
)

select * from final
