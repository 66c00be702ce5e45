"""Small tables as the other steps of the pipeline write them, for the tests of the SQL."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miniplm_assets.storage.sql_checks import PLAIN
from miniplm_assets.storage.sql_project import SqlProject, load_sql_project
from miniplm_assets.storage.sql_run import Spread, run_model

SQL_FOLDER = Path(__file__).parents[1] / "dbt_like_sql"
SPAN = pa.struct([("document_id", pa.int64()), ("char_start", pa.int64()), ("char_end", pa.int64())])
SCHEMAS = {
    "documents": pa.schema(
        [
            ("document_id", pa.int64()),
            ("shard", pa.string()),
            ("line", pa.int64()),
            ("domain", pa.string()),
            ("split", pa.string()),
            ("text", pa.string()),
            ("num_bytes", pa.int64()),
        ]
    ),
    "sequences": pa.schema(
        [
            ("sequence_id", pa.int64()),
            ("shard", pa.string()),
            ("domain", pa.string()),
            ("split", pa.string()),
            ("num_tokens", pa.int32()),
            ("num_bytes", pa.int64()),
            ("token_ids", pa.list_(pa.int32())),
            ("spans", pa.list_(SPAN)),
            ("texts", pa.list_(pa.string())),
        ]
    ),
    "scores": pa.schema(
        [("sequence_id", pa.int64()), ("logprob_nats", pa.float64()), ("num_scored_tokens", pa.int32())]
    ),
    "scored_bytes": pa.schema([("sequence_id", pa.int64()), ("num_scored_bytes", pa.int64())]),
    "proxy_differences": pa.schema(
        [
            ("sequence_id", pa.int64()),
            ("predicted_difference_nats_per_token", pa.float64()),
            ("num_scored_tokens", pa.int32()),
        ]
    ),
}
Rows = list[dict[str, Any]]


def project() -> SqlProject:
    return load_sql_project(SQL_FOLDER)


def document(sequence_id: int, *, shard: str = "a", domain: str = "web", split: str = "candidate") -> dict[str, Any]:
    """The one document of a sequence; its id is the sequence's plus 1,000,000."""
    text = f"text of {sequence_id}"
    return {
        "document_id": sequence_id + 1_000_000,
        "shard": shard,
        "line": 1,
        "domain": domain,
        "split": split,
        "text": text,
        "num_bytes": len(text),
    }


def sequence(
    sequence_id: int, *, shard: str = "a", domain: str = "web", split: str = "candidate", num_tokens: int = 3
) -> dict[str, Any]:
    text = f"text of {sequence_id}"
    return {
        "sequence_id": sequence_id,
        "shard": shard,
        "domain": domain,
        "split": split,
        "num_tokens": num_tokens,
        "num_bytes": len(text),
        "token_ids": list(range(num_tokens)),
        "spans": [{"document_id": sequence_id + 1_000_000, "char_start": 0, "char_end": len(text)}],
        "texts": [text],
    }


def score(sequence_id: int, logprob_nats: float, *, num_scored_tokens: int = 2) -> dict[str, Any]:
    return {"sequence_id": sequence_id, "logprob_nats": logprob_nats, "num_scored_tokens": num_scored_tokens}


class Tables:
    """Input tables in a folder, written with their rows in a random order, a file a shard where they have one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: dict[str, Sequence[Path]] = {}

    def write(self, table: str, rows: Rows, *, num_files: int = 1, seed: int | None = 0) -> None:
        """Write a table; as it is, and so in one file, where no seed shuffles it."""
        schema = SCHEMAS["scores" if table.endswith("_scores") else table]
        order = range(len(rows)) if seed is None else np.random.default_rng(seed).permutation(len(rows))
        shuffled = [rows[place] for place in order]
        self.paths[table] = []
        for number in range(num_files):
            path = self.folder / f"{table}-{number}.parquet"
            pq.write_table(pa.Table.from_pylist(shuffled[number::num_files], schema=schema), path)
            self.paths[table] = [*self.paths[table], path]

    def write_all(self, sequences: Rows, teacher: Mapping[int, float], reference: Mapping[int, float]) -> None:
        """Write all four, each sequence with one document of its own and each score over `num_tokens - 1` tokens."""
        self.write("sequences", sequences, num_files=2)
        tokens = {row["sequence_id"]: row["num_tokens"] for row in sequences}
        keys = ("shard", "domain", "split")
        self.write("documents", [document(row["sequence_id"], **{key: row[key] for key in keys}) for row in sequences])
        for table, scores in (("teacher_scores", teacher), ("reference_scores", reference)):
            rows = [score(key, nats, num_scored_tokens=tokens.get(key, 2) - 1) for key, nats in scores.items()]
            self.write(table, rows, num_files=3, seed=len(table))

    def run(
        self,
        sql: SqlProject,
        name: str,
        *,
        traits: frozenset[str] = PLAIN,
        spread: Spread | None = None,
        **parameters: object,
    ) -> dict[str, Any]:
        """Run a model on what is there, make its result an input of the next, and return its checks by name."""
        target = self.folder / name
        target.mkdir()
        nothing = dict.fromkeys(("keep_fraction", "token_budget", "within"))
        settings = {"rank_by": "nats_per_token", **nothing, **parameters}
        outcomes = run_model(
            sql, name, inputs=self.paths, parameters=settings, target=target, traits=traits, spread=spread
        )
        self.paths[name] = sorted(target.glob("*.parquet"))
        return {outcome.name: outcome for outcome in outcomes}

    def rows(self, table: str) -> Rows:
        return [row for path in self.paths[table] for row in pq.read_table(path).to_pylist()]
