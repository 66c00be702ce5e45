"""`<selection>/proxy_differences`: what a proxy predicts of every candidate that the models did not score."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.flops import scoring_flops
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import scoring_cost
from miniplm_assets.kinds.engines import MODEL, already_stored
from miniplm_assets.kinds.proxy import REFERENCE, proxies, sampled_scores
from miniplm_assets.kinds.proxy_agreement import PROXY_AGREEMENT, proxy_key
from miniplm_assets.kinds.scores import BYTES_PER_SCORE, max_sequence_tokens, scored_by
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.storage.tables import SCORES as SCORES_TABLE

if TYPE_CHECKING:
    from miniplm_assets.training.regression import Predictor

NAME: Final = "proxy_differences"
TABLE: Final = "proxy_differences.parquet"
SCHEMA: Final = pa.schema(
    [
        ("sequence_id", pa.int64()),
        ("predicted_difference_nats_per_token", pa.float64()),
        ("num_scored_tokens", pa.int32()),
    ]
)
# Put into batches of like length together.
SEQUENCES_AT_ONCE: Final = 4_096


class Predicting(Settings):
    """How a proxy is asked; what it is, its inputs say.

    Attributes:
        dtype: of the matrix products.
        device: a torch device, or auto.
        tokens_per_batch: padded tokens at once.
        share: of the candidates that are scored; for the cost alone: the scores are an input.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"device", "tokens_per_batch", "share", "max_sequence_tokens"})

    dtype: str
    device: str
    tokens_per_batch: int
    share: float
    max_sequence_tokens: int


def _nodes(blueprint: Blueprint) -> Iterator[Node[Predicting]]:
    experiment = blueprint.experiment
    learning = {node.key: node.settings for node in blueprint.nodes}
    for name, proxy in proxies(experiment):
        _, reference = scored_by(experiment, experiment.selections[name], "reference")
        learnt = learning[proxy_key(name)]
        yield Node(
            kind=PROXY_DIFFERENCES,
            names=(name,),
            inputs={MODEL: proxy_key(name), **packed_by(reference.tokenizer), **sampled_scores(name)},
            settings=Predicting(
                dtype=proxy.training.dtype,
                device=learnt.device,
                tokens_per_batch=learnt.tokens_per_batch,
                share=proxy.share,
                max_sequence_tokens=max_sequence_tokens(experiment),
            ),
            gates=(key_of(PROXY_AGREEMENT.name, name),),
        )


def _make(work: Work[Predicting]) -> Result:
    """Predict the candidates of each corpus file that have no scores."""
    if work.is_stored:
        return work.make_pieces(already_stored)
    from miniplm_assets.training.regression import Predictor, load_regression

    sequences, scored = work.input_pieces(SEQUENCES.name), work.input_pieces("teacher_scores")
    settings = work.settings
    with work.run.device():
        folder = work.input(MODEL).verified_folder()
        model, form = load_regression(folder, device=settings.device, report=work.report)
        predictor = Predictor(
            model=model,
            form=form,
            dtype=settings.dtype,
            tokens_per_batch=settings.tokens_per_batch,
            look=work.run.stop.look,
        )

        def write(shard: str, draft: Draft) -> None:
            of_shard = sequences[shard].file(SEQUENCES.table or "")
            draft.facts = predict_file(
                of_shard, scored[shard].file(SCORES_TABLE), draft.path / TABLE, predictor=predictor, shard=shard
            )
            work.report(f"{work.node.key}: {draft.facts['num_predicted']:,} candidates of {shard} predicted")

        return work.make_pieces(write)


def predict_file(sequences: Path, scores: Path, target: Path, *, predictor: "Predictor", shard: str) -> dict[str, Any]:
    """Write what is predicted of the candidates of a corpus file that have no score, one row each.

    Args:
        sequences: of the file.
        scores: of those that have one.
        target: the table, columns as in `SCHEMA`.
        predictor: gives the values.
        shard: its name, for the messages.

    Returns:
        Facts: num_predicted, num_scored_tokens (of those).

    Raises:
        ScoringError: if not every candidate is either scored or predicted, or a value is not finite.
    """
    done = pl.read_parquet(scores, columns=["sequence_id"], glob=False)["sequence_id"].sort().to_numpy()
    num_candidates = num_known = num_predicted = num_tokens = 0
    with pq.ParquetFile(sequences) as file, pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        for batch in file.iter_batches(batch_size=SEQUENCES_AT_ONCE, columns=["sequence_id", "split", "token_ids"]):
            candidates = batch.filter(pc.equal(batch["split"], CANDIDATE))
            is_known = np.isin(candidates["sequence_id"].to_numpy(), done)
            num_candidates, num_known = num_candidates + len(candidates), num_known + int(is_known.sum())
            wanted = candidates.filter(pa.array(~is_known))
            if not wanted.num_rows:
                continue
            ids = wanted["sequence_id"].to_numpy()
            tokens = [one.values.to_numpy().astype(np.int32, copy=False) for one in wanted["token_ids"]]
            values, num_scored = predictor.predict(tokens, ids)
            writer.write_table(pa.table([ids, values, num_scored], schema=SCHEMA))
            num_predicted, num_tokens = num_predicted + len(values), num_tokens + int(num_scored.sum())
    if num_predicted + num_known != num_candidates:
        raise ScoringError(
            f"{shard}: {num_candidates:,} candidates, of which {num_known:,} are scored and {num_predicted:,} "
            "predicted; each needs exactly one of both"
        )
    return {"num_predicted": num_predicted, "num_scored_tokens": num_tokens}


def _spent_flops(facts: Mapping[str, Any], num_parameters: int | None) -> int | None:
    return None if num_parameters is None else scoring_flops(num_parameters, facts["num_scored_tokens"])


def _cost(node: Node[Predicting], sizes: Sizes, shards: Collection[str] | None) -> Cost:
    per_split = sizes.tokens_per_split(node.inputs[SEQUENCES.name], shards)
    if per_split is None:
        return Cost()
    settings = node.settings
    num_tokens = round(per_split[CANDIDATE] * (1 - settings.share))
    return scoring_cost(
        sizes.input_node(sizes.input_node(node, MODEL), REFERENCE),
        sizes,
        num_tokens=num_tokens,
        dtype=settings.dtype,
        num_bytes=num_tokens // (settings.max_sequence_tokens - 1) * BYTES_PER_SCORE,
    )


PROXY_DIFFERENCES = Kind(
    name=NAME,
    code_version="1",
    section="selection",
    technologies=frozenset({"pytorch", "parquet"}),
    description="""One row for each candidate that teacher and reference did not score, with what a proxy predicts.

The difference, in nats a token. What both scored keeps its true difference.""",
    nodes=_nodes,
    make=_make,
    num_devices=lambda _: 1,
    pieces="shard",
    table=TABLE,
    is_view=True,
    columns={
        "sequence_id": "of the candidate",
        "predicted_difference_nats_per_token": "of the difference of teacher and reference, for each scored token",
        "num_scored_tokens": "how many tokens would be scored",
    },
    cost=_cost,
    spent_flops=_spent_flops,
)
