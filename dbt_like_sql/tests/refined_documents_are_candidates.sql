-- A failure means: a document that a student would learn from is in the reference, teacher or validation split: either
-- `documents` says so, or a sequence of that split contains it. Its difference is biased, or the held-out loss is.
-- model: refined_corpus
with

refined_corpus as (
    select * from {{ ref('refined_corpus') }}
),

documents as (
    select * from {{ ref('documents') }}
),

sequences as (
    select * from {{ ref('sequences') }}
),

refined_spans as (
    select
        sequence_id,
        unnest(spans) as span
    from refined_corpus
),

refined_documents as (
    select distinct
        sequence_id,
        span.document_id as document_id
    from refined_spans
),

other_spans as (
    select
        split,
        unnest(spans) as span
    from sequences
    where split != 'candidate'
),

other_documents as (
    select
        document_id,
        split,
        'documents' as found_in
    from documents
    where split != 'candidate'
    union
    select
        span.document_id as document_id,
        split,
        'sequences' as found_in
    from other_spans
),

final as (
    select
        refined_documents.document_id,
        refined_documents.sequence_id,
        other_documents.split,
        other_documents.found_in
    from refined_documents
    inner join other_documents using (document_id)
    order by document_id, sequence_id, found_in
)

select * from final
