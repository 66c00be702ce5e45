with

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

sequences as (
    select * from {{ ref('sequences') }}
),

kept as (
    select * from marked_candidates
    where is_kept
),

final as (
    select
        kept.sequence_id,
        kept.shard,
        kept.domain,
        kept.num_tokens,
        kept.num_bytes,
        kept.teacher_logprob_nats,
        kept.reference_logprob_nats,
        kept.difference_nats,
        kept.difference_nats_per_token,
        kept.rank_difference,
        sequences.token_ids,
        sequences.spans,
        sequences.texts
    from sequences
    inner join kept using (sequence_id)
)

select * from final
