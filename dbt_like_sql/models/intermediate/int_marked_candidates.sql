with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

final as (
    select
        difference_scores.sequence_id,
        difference_scores.shard,
        difference_scores.domain,
        difference_scores.num_tokens,
        difference_scores.num_bytes,
        difference_scores.num_scored_tokens,
        difference_scores.teacher_logprob_nats,
        difference_scores.reference_logprob_nats,
        difference_scores.difference_nats,
        difference_scores.difference_nats_per_token,
        difference_scores.rank_difference,
        -- The best first: the larger difference, then the smaller id. Kept is all down to the cutoff itself.
        difference_scores.rank_difference > selection_cutoff.cutoff_difference
        or (
            difference_scores.rank_difference = selection_cutoff.cutoff_difference
            and difference_scores.sequence_id <= selection_cutoff.cutoff_sequence_id
        ) as is_kept
    from difference_scores
    cross join selection_cutoff
)

select * from final
