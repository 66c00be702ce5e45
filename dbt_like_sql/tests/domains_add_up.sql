-- A failure means: the domains together are not the candidates and the kept sequences that the cutoff counted.
-- model: domain_shift
with

domain_shift as (
    select * from {{ ref('domain_shift') }}
),

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

added_up as (
    select
        sum(num_candidates) as num_candidates_of_domains,
        sum(num_kept) as num_kept_of_domains,
        sum(num_kept_tokens) as num_kept_tokens_of_domains
    from domain_shift
),

final as (
    select
        added_up.*,
        selection_cutoff.num_candidates,
        selection_cutoff.num_kept,
        selection_cutoff.num_kept_tokens
    from selection_cutoff
    cross join added_up
    where
        num_candidates_of_domains != num_candidates
        or num_kept_of_domains != num_kept
        or num_kept_tokens_of_domains != num_kept_tokens
)

select * from final
