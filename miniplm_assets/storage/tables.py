"""The names of the tables inside a result. What holds one table for each corpus file names it the same everywhere."""

from typing import Final

DOCUMENTS: Final = "documents.parquet"
REJECTED: Final = "rejected.parquet"
HASHES: Final = "hashes.parquet"
CONTAMINATED: Final = "contaminated.parquet"
VALIDATION_NGRAMS: Final = "validation_ngrams.parquet"
SEQUENCES: Final = "sequences.parquet"
SCORES: Final = "scores.parquet"
# A column of sequences: places of end-of-document tokens that stand where a text was cut.
CUT_ENDS: Final = "cut_ends"
# A column of sequences: places of tokens that are read, and not asked for.
CONTEXT_PLACES: Final = "context_places"
