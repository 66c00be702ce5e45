with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

logprobs as (
    select
        domain,
        case $rank_by
            when 'nats_per_token' then coalesce(teacher_logprob_nats / nullif(num_scored_tokens, 0), 0.0)
            when 'nats_per_sequence' then teacher_logprob_nats
        end as teacher_logprob,
        case $rank_by
            when 'nats_per_token' then coalesce(reference_logprob_nats / nullif(num_scored_tokens, 0), 0.0)
            when 'nats_per_sequence' then reference_logprob_nats
        end as reference_logprob
    from difference_scores
),

by_domain_and_over_all as (
    select
        grouping(domain) = 1 as is_total,
        domain,
        count(*) as num_candidates,
        avg(teacher_logprob) as mean_teacher_logprob,
        stddev_pop(teacher_logprob) as teacher_deviation,
        avg(reference_logprob) as mean_reference_logprob,
        stddev_pop(reference_logprob) as reference_deviation,
        -- Of a reference whose values do not vary, nothing follows for the teacher's.
        coalesce(covar_pop(teacher_logprob, reference_logprob) / nullif(var_pop(reference_logprob), 0), 0.0) as slope
    from logprobs
    group by grouping sets ((domain), ())
),

final as (
    select
        is_total,
        coalesce(domain, '') as domain,
        num_candidates,
        mean_teacher_logprob,
        teacher_deviation,
        mean_reference_logprob,
        reference_deviation,
        slope,
        mean_teacher_logprob - slope * mean_reference_logprob as intercept
    from by_domain_and_over_all
)

select * from final
