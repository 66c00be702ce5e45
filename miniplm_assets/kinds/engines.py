"""Where sequences are scored: by one model in this process, or by many on a Ray cluster."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Decoding, Scoring
from miniplm_assets.kinds.models import OwnModel, require_fit
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.causality import require_causal
from miniplm_assets.lm.generator import Generator
from miniplm_assets.lm.ray_workers import ModelSettings, RayWorkers
from miniplm_assets.lm.scorer import Scorer, ScorerSettings
from miniplm_assets.storage.curves import Curves, EventFile, curves_folder
from miniplm_assets.storage.store import Draft, Result

MODEL = "model"


def _devices_for(work: Work[Any], scoring: Scoring) -> AbstractContextManager[None]:
    """Have the accelerators of this machine, if it is them that score: not a CPU, and not a cluster."""
    is_elsewhere = scoring.engine == "ray" or scoring.device == "cpu"
    return nullcontext() if is_elsewhere else work.run.device()


def num_devices_here(scoring: Scoring | Decoding) -> int:
    """Return how many devices of this machine a model has; none where a cluster runs it."""
    return 0 if scoring.engine == "ray" else scoring.tensor_parallel_size


def device_in_words(scoring: Scoring) -> str:
    """Return what a model runs on, as a person calls it: cpu, the name of a GPU, or a Ray cluster."""
    if scoring.engine == "ray":
        return "a Ray cluster"
    import torch

    if scoring.device == "cpu" or not torch.accelerator.is_available():
        return "cpu"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else str(torch.accelerator.current_accelerator())


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
    with opened(work, settings, settings.open_scorer) as scorer:
        require_causal(
            scorer,
            named=work.node.inputs[MODEL],
            vocab_size=tokenizer.vocab_size,
            end_of_document_id=tokenizer.end_of_document_id,
            max_sequence_tokens=max_sequence_tokens,
            dtype=scoring.dtype,
        )
        yield scorer


Model = TypeVar("Model", Scorer, Generator)


def opened(
    work: Work[Any],
    settings: ModelSettings,
    open_here: Callable[[Callable[[str], None], Callable[[], None]], AbstractContextManager[Model]],
) -> AbstractContextManager[Model]:
    """Load a model where the settings say: in this process, or on the cluster.

    Args:
        work: the asset.
        settings: of the model.
        open_here: loads it in this process, given what takes a line of progress, and what is asked after each batch.
    """
    if settings.scoring.engine == "ray":
        return cast("AbstractContextManager[Model]", _on_ray(work, settings))
    return open_here(work.report, work.run.stop.look)


def made_on_devices(
    work: Work[Any],
    scoring: Scoring,
    make: Callable[[], Result],
    finish: Callable[[Draft], None] | None = None,
) -> Result:
    """Make an asset in pieces with the devices; nobody loads a model to find that everything is stored.

    Args:
        work: the asset.
        scoring: where its model runs.
        make: makes what is missing.
        finish: as in `Work.make_pieces`.
    """
    if not work.is_stored:
        with _devices_for(work, scoring):
            if not work.is_stored:  # of two runs the second has waited here, and then finds what the first has made
                return make()
    return work.make_pieces(already_stored, finish)


def already_stored(shard: str, _draft: Draft) -> None:
    """Is what writes the pieces of an asset that is stored."""
    raise AssertionError(f"{shard} was stored a moment ago")


class ShardParts(Protocol):
    """The parts that a model makes of one corpus file.

    Attributes:
        num_tokens: that the parts so far hold, scored or written.
        device_seconds: what the parts so far took of a device.
    """

    num_tokens: int
    device_seconds: float

    def works(self) -> Iterator[Callable[[], Any]]:
        """Go through what gives each part."""

    def add(self, part: Any, /) -> None:
        """Write the next part."""

    def close(self) -> dict[str, Any]:
        """Complete the file, and return facts of it."""


class PassCurves:
    """The curves of a model's way through the corpus files of an asset: its pace, and how many files are done.

    Their step is the number of tokens that the model went through for the asset, in this run or before.
    """

    def __init__(self, work: Work[Any], curves: Curves) -> None:
        """Begin.

        Args:
            work: the asset.
            curves: take the values.
        """
        self._tally, self._curves = work.tally, curves
        self._num_tokens = 0

    def add(self, *, num_tokens: int, device_seconds: float) -> None:
        """Take a part.

        Args:
            num_tokens: of the part.
            device_seconds: that it took.
        """
        self._num_tokens += num_tokens
        self._show({"pass/tokens_per_device_second": num_tokens / max(1e-9, device_seconds)})

    def finish_shard(self) -> None:
        """Take that all parts of a corpus file are there."""
        self._show({"pass/shards_done": self._tally.num_reused + self._tally.num_computed + 1})

    def _show(self, values: dict[str, float]) -> None:
        self._curves.add(self._tally.tokens_saved + self._num_tokens, values)


@dataclass(frozen=True)
class ShardInTheMaking:
    """The parts of one corpus file, and what completes its draft.

    Attributes:
        parts: of the file.
        draft: holds it.
        num_devices: of one model.
        curves: are told how it goes.
        afterwards: done when all parts are in the file.
    """

    parts: ShardParts
    draft: Draft
    num_devices: int
    curves: PassCurves
    afterwards: Callable[[], object] | None = None

    def works(self) -> Iterator[Callable[[], Any]]:
        """Go through what gives each part."""
        return self.parts.works()

    def add(self, part: Any) -> None:
        """Write the next part."""
        num_tokens, seconds = self.parts.num_tokens, self.parts.device_seconds
        self.parts.add(part)
        self.curves.add(
            num_tokens=self.parts.num_tokens - num_tokens, device_seconds=self.parts.device_seconds - seconds
        )

    def finish(self) -> None:
        """Complete the draft."""
        seconds = self.parts.device_seconds
        self.draft.facts = self.parts.close() | {"device_seconds": seconds * self.num_devices}
        self.draft.seconds = seconds
        self.curves.finish_shard()
        if self.afterwards is not None:
            self.afterwards()


@contextmanager
def pass_curves(work: Work[Any]) -> Iterator[PassCurves]:
    """Open the curves of a model's way through the corpus files of an asset."""
    with EventFile(curves_folder(work.pipeline.store.root, work.recipe), work.report) as curves:
        yield PassCurves(work, curves)


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
def _on_ray(work: Work[Any], settings: ModelSettings) -> Iterator[RayWorkers]:
    """Load a model on the cluster, on as many nodes as are asked for; they are closed when the context ends."""
    work.run.connect_ray()
    with closing(RayWorkers(settings, num_workers=settings.scoring.num_workers, report=work.report)) as workers:
        workers.wait_for_one()
        yield workers
