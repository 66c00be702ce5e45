with

documents as (
    select * from {{ ref('documents') }}
),

sequences as (
    select * from {{ ref('sequences') }}
),

document_counts as (
    select
        domain,
        split,
        count(*) as num_documents,
        cast(sum(num_bytes) as bigint) as num_document_bytes
    from documents
    group by domain, split
),

sequence_counts as (
    select
        domain,
        split,
        count(*) as num_sequences,
        cast(sum(num_tokens) as bigint) as num_tokens,
        cast(sum(num_bytes) as bigint) as num_sequence_bytes
    from sequences
    group by domain, split
),

-- Full, so that documents without a sequence show as such instead of vanishing.
final as (
    select
        domain,
        split,
        coalesce(num_documents, 0) as num_documents,
        coalesce(num_document_bytes, 0) as num_document_bytes,
        coalesce(num_sequences, 0) as num_sequences,
        coalesce(num_tokens, 0) as num_tokens,
        num_document_bytes / num_documents as mean_bytes_per_document,
        num_tokens / num_sequences as mean_tokens_per_sequence,
        num_sequence_bytes / num_tokens as bytes_per_token
    from document_counts
    full join sequence_counts using (domain, split)
)

select * from final
