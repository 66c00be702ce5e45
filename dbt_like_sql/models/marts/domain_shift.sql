with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

by_domain as (
    select
        domain,
        count(*) as num_candidates,
        cast(sum(num_tokens) as bigint) as num_candidate_tokens,
        count(*) filter (where is_kept) as num_kept,
        cast(coalesce(sum(num_tokens) filter (where is_kept), 0) as bigint) as num_kept_tokens,
        avg(difference_nats_per_token) as mean_difference_nats_per_token
    from marked_candidates
    group by domain
),

shares as (
    select
        *,
        num_candidates / sum(num_candidates) over () as share_of_candidates,
        num_candidate_tokens / sum(num_candidate_tokens) over () as share_of_candidate_tokens,
        num_kept / sum(num_kept) over () as share_of_kept,
        num_kept_tokens / sum(num_kept_tokens) over () as share_of_kept_tokens
    from by_domain
),

final as (
    select
        domain,
        num_candidates,
        num_candidate_tokens,
        num_kept,
        num_kept_tokens,
        share_of_candidates,
        share_of_candidate_tokens,
        share_of_kept,
        share_of_kept_tokens,
        num_kept / num_candidates as kept_share_of_domain,
        share_of_kept_tokens - share_of_candidate_tokens as token_share_change,
        case when num_kept_tokens > 0 then ln(share_of_kept_tokens / share_of_candidate_tokens) end
            as log_token_share_ratio,
        mean_difference_nats_per_token
    from shares
)

select * from final
