with

sequences as (
    select * from {{ ref('sequences') }}
),

final as (
    select
        sequence_id,
        shard,
        domain,
        num_tokens,
        num_bytes
    from sequences
    where split = 'candidate'
)

select * from final
