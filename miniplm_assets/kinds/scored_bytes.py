"""`<selection>/scored_bytes`: the bytes of each candidate that a model is asked for, for `rank_by: nats_per_byte`."""

from collections.abc import Iterator
from typing import Final

import pyarrow.parquet as pq

from miniplm_assets.corpus.retokenised import count_scored_bytes
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment.selections import PER_BYTE
from miniplm_assets.kinds.models import scored_models
from miniplm_assets.kinds.retokenised_sequences import Reading
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "scored_bytes.parquet"


def _nodes(blueprint: Blueprint) -> Iterator[Node[Reading]]:
    experiment = blueprint.experiment
    for name, selection in experiment.selections.items():
        tokenizer = experiment.selection_tokenizer(name)
        if selection.rank_by != PER_BYTE or tokenizer is None:
            continue
        scorings = [scored_models(experiment, who)[model].scoring for who, model in selection.models.items()]
        yield Node(
            kind=SCORED_BYTES,
            names=(name,),
            inputs=packed_by(tokenizer),
            settings=Reading(score_after_end_of_document=scorings[0].score_after_end_of_document),
        )


def _make(work: Work[Reading]) -> Result:
    """Count the bytes of each corpus file's candidates."""
    sequences = work.input_pieces(SEQUENCES.name)
    tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())

    def write(shard: str, draft: Draft) -> None:
        counts = count_scored_bytes(
            sequences[shard].file(SEQUENCES.table or ""),
            tokenizer,
            scores_after_end=work.settings.score_after_end_of_document,
        )
        pq.write_table(counts, draft.path / TABLE, compression="zstd")

    return work.make_pieces(write)


SCORED_BYTES = Kind(
    name="scored_bytes",
    code_version="1",
    section="selection",
    technologies=frozenset({"parquet"}),
    description="""One row for each candidate sequence: the bytes of its text that a model is asked for.

Not those of its first token, nor of the one behind an end of document (unless `score_after_end_of_document`).""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    table=TABLE,
    is_view=True,
    columns={"sequence_id": "of the candidate", "num_scored_bytes": "of its texts in UTF-8"},
)
