with

token_counts as (
    select * from {{ ref('token_counts') }}
),

added_up as (
    select
        token_id,
        cast(sum(num_occurrences) as bigint) as num_occurrences
    from token_counts
    group by token_id
),

final as (
    select
        token_id,
        num_occurrences,
        ln(num_occurrences / sum(num_occurrences) over ()) as log_prior_nats
    from added_up
)

select * from final
