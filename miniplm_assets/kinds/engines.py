"""Where sequences are scored: by one model in this process, or by many on a Ray cluster."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Scoring
from miniplm_assets.kinds.models import OwnModel, require_fit
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.causality import require_causal
from miniplm_assets.lm.ray_workers import ModelSettings, RayWorkers
from miniplm_assets.lm.scorer import Scorer, ScorerSettings

MODEL = "model"


def devices_for(work: Work[Any], scoring: Scoring) -> AbstractContextManager[None]:
    """Have the accelerators of this machine, if it is them that score: not a CPU, and not a cluster."""
    is_elsewhere = scoring.engine == "ray" or scoring.device == "cpu"
    return nullcontext() if is_elsewhere else work.run.device()


@contextmanager
def open_engine(work: Work[Any], scoring: Scoring, max_sequence_tokens: int) -> Iterator[Scorer]:
    """Load the model of an asset's input `model`, here or on the cluster; it is closed when the context ends.

    It is asked first whether its scores stand by themselves.

    Args:
        work: the asset; its input `tokenizer` says which token ends a document.
        scoring: engine, backend, dtype and the like.
        max_sequence_tokens: of the longest sequence.
    """
    model_folder = work.input(MODEL).verified_folder()
    tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())
    settings = ScorerSettings(
        model_folder=model_folder,
        scoring=scoring,
        end_of_document_id=tokenizer.end_of_document_id,
        begin_of_sequence_id=begin_of_sequence_id(work, MODEL, scoring),
        max_sequence_tokens=max_sequence_tokens,
        vocab_size=tokenizer.vocab_size,
    )
    with _opened(work, settings) as scorer:
        require_causal(
            scorer,
            named=work.node.inputs[MODEL],
            vocab_size=tokenizer.vocab_size,
            end_of_document_id=tokenizer.end_of_document_id,
            max_sequence_tokens=max_sequence_tokens,
            dtype=scoring.dtype,
        )
        yield scorer


def _opened(work: Work[Any], settings: ScorerSettings) -> AbstractContextManager[Scorer]:
    if settings.scoring.engine == "ray":
        return on_ray(work, settings)
    return settings.open_scorer(work.report, work.run.stop.look)


def begin_of_sequence_id(work: Work[Any], role: str, scoring: Scoring) -> int | None:
    """Return the token to read in front of every sequence, once it is sure that model and tokenizer belong together.

    Args:
        work: the asset; its input `tokenizer` is the one that the sequences are made with.
        role: of the input that is the model.
        scoring: whether the model reads one.

    Raises:
        ModelError: if the model knows the pieces of another tokenizer.
    """
    model = work.input_node(role).settings
    if isinstance(model, OwnModel):  # it has learnt from the sequences as they are
        return None
    first = require_fit(
        model.model,
        scoring,
        model_folder=work.input(role).verified_folder(),
        tokenizer_folder=work.input(TOKENIZER.name).verified_folder(),
        tokenizer=work.node.inputs[TOKENIZER.name],
    )
    if first is None:
        return None
    work.report(
        f"{work.node.key}: {first.piece!r} (id {first.token_id}) is read in front of every sequence, as the model's "
        "own tokenizer puts it there (scoring.begin_of_sequence: none reads nothing)"
    )
    return first.token_id


@contextmanager
def on_ray(work: Work[Any], settings: ModelSettings) -> Iterator[RayWorkers]:
    """Load a model on the cluster, on as many nodes as are asked for; they are closed when the context ends."""
    work.run.connect_ray()
    with closing(RayWorkers(settings, num_workers=settings.scoring.num_workers, report=work.report)) as workers:
        workers.wait_for_one()
        yield workers
