-- A failure means: a sequence of the refined corpus names a document that `documents` does not have, so that its split
-- cannot be shown. The sequences were packed from other documents: materialise them again.
-- model: refined_corpus
with

refined_corpus as (
    select * from {{ ref('refined_corpus') }}
),

documents as (
    select * from {{ ref('documents') }}
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

final as (
    select
        refined_documents.document_id,
        refined_documents.sequence_id
    from refined_documents
    anti join documents using (document_id)
    order by document_id, sequence_id
)

select * from final
