with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

score_scales as (
    select * from {{ ref('score_scales') }}
),

logprobs as (
    select
        *,
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

-- Of each candidate its domain's scales, or those of all candidates, in which one regression is.
scaled as (
    select
        logprobs.*,
        score_scales.mean_teacher_logprob,
        score_scales.teacher_deviation,
        score_scales.mean_reference_logprob,
        score_scales.reference_deviation,
        score_scales.slope,
        score_scales.intercept
    from logprobs
    left join score_scales
        on score_scales.is_total = ($scale_correction = 'residual')
        and (score_scales.is_total or score_scales.domain = logprobs.domain)
),

final as (
    select
        sequence_id,
        shard,
        domain,
        num_tokens,
        num_bytes,
        num_scored_tokens,
        teacher_logprob_nats,
        reference_logprob_nats,
        difference_nats,
        difference_nats_per_token,
        case $scale_correction
            -- Where a model's values do not vary, none of them is away from the mean: 0, not 0 / 0.
            when 'standardised' then
                coalesce((teacher_logprob - mean_teacher_logprob) / nullif(teacher_deviation, 0), 0.0)
                - coalesce((reference_logprob - mean_reference_logprob) / nullif(reference_deviation, 0), 0.0)
            when 'residual' then teacher_logprob - (intercept + slope * reference_logprob)
        end as rank_difference
    from scaled
)

select * from final
