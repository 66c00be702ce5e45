"""Where sequences are scored: by one model in this process, or by many on a Ray cluster."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Scoring
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.ray_workers import RayWorkers, ScorerSettings
from miniplm_assets.lm.scorer import Scorer, open_scorer

MODEL = "model"


def devices_for(work: Work[Any], scoring: Scoring) -> AbstractContextManager[None]:
    """Have the accelerators of this machine, if it is them that score: not a CPU, and not a cluster."""
    is_elsewhere = scoring.engine == "ray" or scoring.device == "cpu"
    return nullcontext() if is_elsewhere else work.run.device()


def open_engine(work: Work[Any], scoring: Scoring, max_sequence_tokens: int) -> AbstractContextManager[Scorer]:
    """Load the model of an asset's input `model`, here or on the cluster; it is closed when the context ends.

    Args:
        work: the asset; its input `tokenizer` says which token ends a document.
        scoring: engine, backend, dtype and the like.
        max_sequence_tokens: of the longest sequence.
    """
    settings = ScorerSettings(
        model_folder=work.input(MODEL).verified_folder(),
        scoring=scoring,
        end_of_document_id=load_tokenizer(work.input(TOKENIZER.name).verified_folder()).end_of_document_id,
        max_sequence_tokens=max_sequence_tokens,
    )
    if scoring.engine == "ray":
        return _on_ray(work, settings)
    return open_scorer(
        settings.model_folder,
        scoring=scoring,
        end_of_document_id=settings.end_of_document_id,
        max_sequence_tokens=max_sequence_tokens,
        report=work.report,
    )


@contextmanager
def _on_ray(work: Work[Any], settings: ScorerSettings) -> Iterator[Scorer]:
    work.run.connect_ray()
    workers = RayWorkers(settings, num_workers=settings.scoring.num_workers, report=work.report)
    with closing(workers):
        workers.wait_for_one()
        yield workers
