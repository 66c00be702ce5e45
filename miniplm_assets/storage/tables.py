"""The names of the tables inside a result. What holds one table for each corpus file names it the same everywhere."""

from typing import Final

DOCUMENTS: Final = "documents.parquet"
REJECTED: Final = "rejected.parquet"
SEQUENCES: Final = "sequences.parquet"
SCORES: Final = "scores.parquet"

# By step; of any other step, all Parquet files are the one table.
TABLE_OF_STEP: Final = {
    "documents": DOCUMENTS,
    "sequences": SEQUENCES,
    **{
        f"{pass_}{who}_scores": SCORES
        for pass_ in ("", "pilot_", "second_", "rescored_")
        for who in ("teacher", "reference")
    },
}
