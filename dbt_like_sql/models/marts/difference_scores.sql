with

candidates as (
    select * from {{ ref('stg_candidates') }}
),

teacher_scores as (
    select * from {{ ref('stg_teacher_scores') }}
),

reference_scores as (
    select * from {{ ref('stg_reference_scores') }}
),

-- By key, never by position; over the same tokens, or the two would be of unlike things.
paired as (
    select
        candidates.*,
        teacher_scores.num_scored_tokens,
        teacher_scores.teacher_logprob_nats,
        reference_scores.reference_logprob_nats
    from candidates
    inner join teacher_scores using (sequence_id)
    inner join reference_scores using (sequence_id, num_scored_tokens)
),

-- log p_teacher(x) - log p_reference(x): positive where the teacher finds the text easier (arXiv 2410.17215, eq. 5).
differences as (
    select
        *,
        teacher_logprob_nats - reference_logprob_nats as difference_nats
    from paired
),

-- A sequence in which nothing was scored says nothing for either model: 0, not 0 / 0.
differences_per_token as (
    select
        *,
        coalesce(difference_nats / nullif(num_scored_tokens, 0), 0.0) as difference_nats_per_token
    from differences
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
        case $rank_by
            when 'nats_per_token' then difference_nats_per_token
            when 'nats_per_sequence' then difference_nats
        end as rank_difference
    from differences_per_token
)

select * from final
