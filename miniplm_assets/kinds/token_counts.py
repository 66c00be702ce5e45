"""`<tokenizer>/token_counts`: how often the candidates of each corpus file hold each token.

Cached by file, so that a new one is counted alone. All together are the frequencies that `score: prior` ranks by: those
change with every file, and so does every mark of such a selection.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.sequences import SEQUENCES, sequences_key
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "token_counts.parquet"
# Of 1,025 tokens each: some 30 MB at once.
SEQUENCES_AT_ONCE: Final = 8_192


class Counting(Settings):
    """Reads no setting: the candidates are an input."""


def _nodes(blueprint: Blueprint) -> Iterator[Node[Counting]]:
    experiment = blueprint.experiment
    counted = {selection.tokenizer for selection in experiment.selections.values() if selection.score == "prior"}
    for name in experiment.tokenizers:
        if name in counted:
            yield Node(
                kind=TOKEN_COUNTS, names=(name,), inputs={SEQUENCES.name: sequences_key(name)}, settings=Counting()
            )


def _make(work: Work[Counting]) -> Result:
    """Count the tokens of each corpus file's candidates."""
    sequences = work.input_pieces(SEQUENCES.name)

    def write(shard: str, draft: Draft) -> None:
        counts = count_tokens(sequences[shard].file(SEQUENCES.table or ""))
        pq.write_table(counts, draft.path / TABLE, compression="zstd")
        draft.facts = {"num_counted_tokens": pc.sum(counts["num_occurrences"]).as_py() or 0}

    return work.make_pieces(write)


def count_tokens(sequences: Path) -> pa.Table:
    """Return token_id and num_occurrences of the candidates of a file of sequences, in the order of the ids."""
    counts: Counter[int] = Counter()
    with pq.ParquetFile(sequences) as file:
        for batch in file.iter_batches(batch_size=SEQUENCES_AT_ONCE, columns=["split", "token_ids"]):
            candidates = batch.filter(pc.equal(batch["split"], CANDIDATE))
            tokens, occurrences = np.unique(candidates["token_ids"].flatten().to_numpy(), return_counts=True)
            counts.update(dict(zip(tokens.tolist(), occurrences.tolist(), strict=True)))
    token_ids = sorted(counts)
    columns = {
        "token_id": pa.array(token_ids, pa.int32()),
        "num_occurrences": pa.array([counts[token] for token in token_ids], pa.int64()),
    }
    return pa.table(columns)


TOKEN_COUNTS = Kind(
    name="token_counts",
    code_version="1",
    section="tokenizer",
    technologies=frozenset({"parquet"}),
    description="""One row for each corpus file and each token that a candidate sequence of it holds.

Counted for selections with `score: prior`, which need no model.""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    table=TABLE,
    is_view=True,
    columns={
        "token_id": "the token",
        "num_occurrences": "how often the candidate sequences of the file hold it",
    },
)


def token_counts_key(tokenizer: str) -> str:
    """Return the key of the counts of a tokenizer's tokens."""
    return key_of(TOKEN_COUNTS.name, tokenizer)
