with

sequences as (
    select * from {{ ref('sequences') }}
),

marked_candidates as (
    select * from {{ ref('int_marked_candidates') }}
),

kept as (
    select sequence_id from marked_candidates
    where is_kept
),

-- Those of validation too, on which a model's held-out loss is measured.
final as (
    select
        sequences.sequence_id,
        sequences.shard,
        sequences.domain,
        sequences.split,
        sequences.num_tokens,
        sequences.num_bytes
    from sequences
    left join kept using (sequence_id)
    where sequences.split = 'validation' or (sequences.split = 'candidate' and kept.sequence_id is not null)
)

select * from final
