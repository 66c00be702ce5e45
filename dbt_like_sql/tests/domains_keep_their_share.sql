-- A failure means: a domain keeps another share than the selection asks for, by a whole sequence or more. With a token
-- budget, by more tokens than the longest candidate has.
-- model: domain_shift
-- selections: within_domain
with

domain_shift as (
    select * from {{ ref('domain_shift') }}
),

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

longest as (
    select max(num_tokens) as max_num_tokens from difference_scores
),

quotas as (
    select
        domain_shift.domain,
        domain_shift.num_kept,
        domain_shift.num_kept_tokens,
        selection_cutoff.keep_fraction * domain_shift.num_candidates as quota,
        -- Not least() of a budget that is NULL, which is the other one.
        case
            when selection_cutoff.token_budget < selection_cutoff.num_candidate_tokens then selection_cutoff.token_budget
            when selection_cutoff.token_budget is not null then selection_cutoff.num_candidate_tokens
        end * domain_shift.share_of_candidate_tokens as token_quota,
        longest.max_num_tokens
    from domain_shift
    cross join selection_cutoff
    cross join longest
    -- Of so few candidates that only the one is kept that every selection keeps, there is no share.
    where selection_cutoff.num_kept > 1
),

final as (
    select * from quotas
    -- A millionth of a token: what multiplying in binary may be off by.
    where abs(num_kept - quota) >= 1 or abs(num_kept_tokens - token_quota) > max_num_tokens + 0.000001
)

select * from final
