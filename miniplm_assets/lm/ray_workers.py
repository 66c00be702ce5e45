"""Scorers on a Ray cluster: an actor for each device, each with its model loaded once.

The caller keeps everything that must not be lost: it reads the sequences, puts the scores of each part away and
publishes each shard. An actor only computes: token ids in, scores out. So an actor that is lost, with its node or by
itself, costs the part in its hands, which the next free actor computes again while a new one is asked for. Where no
node has room for a new one, the others go on without it.

Any thread may score at any time: it takes a free actor for one part and gives it back.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import MiniplmError, ModelError, ScoringError
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import Scores

# Loading tens of gigabytes from a network disk, after waiting for a node to come up.
START_SECONDS: Final = 1_800.0
# A part that has cost so many actors their lives will cost the next one its own.
MAX_LOSSES: Final = 3


@dataclass(frozen=True, kw_only=True)
class ScorerSettings:
    """What `open_scorer` needs, on whichever node."""

    model_folder: Path
    scoring: Scoring
    end_of_document_id: int
    max_sequence_tokens: int


class ScorerActor:
    """A scorer in a process of the cluster."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._lines: list[str] = []

    def open(self) -> list[str]:
        """Load the model; return what there is to report. Not done at birth, for Ray hides errors of births."""
        settings = self._settings
        if not settings.model_folder.exists():
            raise ModelError(
                f"{settings.model_folder} is not there on node {_node_name()}; the nodes of a Ray cluster read models "
                "from the warehouse, which must lie at the same path on each, on a shared file system"
            )
        self._scorer = self._stack.enter_context(
            open_scorer(
                settings.model_folder,
                scoring=settings.scoring,
                end_of_document_id=settings.end_of_document_id,
                max_sequence_tokens=settings.max_sequence_tokens,
                report=self._lines.append,
            )
        )
        return self._take_lines()

    def score(
        self, token_ids: NDArray[np.int32], lengths: NDArray[np.int64], sequence_ids: NDArray[np.int64]
    ) -> tuple[Scores, list[str]]:
        """Score sequences that lie end to end; return what there is to report, too."""
        return self._scorer.score(np.split(token_ids, np.cumsum(lengths)[:-1]), sequence_ids), self._take_lines()

    def _take_lines(self) -> list[str]:
        lines, self._lines[:] = list(self._lines), []
        return [f"{_node_name()}: {line}" for line in lines]


def _node_name() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


class RayWorkers:
    """Actors that score, behind the face of one `Scorer`. Ray must be connected."""

    def __init__(self, settings: ScorerSettings, *, num_workers: int | None, report: Callable[[str], None]) -> None:
        """Ask for the actors.

        Args:
            settings: what each loads.
            num_workers: how many; default: one a device of the cluster, or one a node where it has none.
            report: takes a line of progress.

        Raises:
            ScoringError: if the cluster has no room for a single one of them.
        """
        import ray

        self._settings = settings
        self._report = report
        self.num_workers, self._resources = _share_out(settings.scoring, num_workers)
        self._actor_class: Any = ray.remote(ScorerActor).options(**self._resources)
        # Free actors; or an error that ends all who wait.
        self._free: queue.Queue[Any] = queue.Queue()
        self._is_closed = threading.Event()
        self._actors: set[Any] = set()
        report(f"asking Ray for {self.num_workers} scorers, each with {self._resources}")
        for _ in range(self.num_workers):
            self._start()

    def score(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Scores:
        """Return the scores of sequences, in the order given; see `Scorer.score`."""
        import ray

        if not sequences:
            return Scores.of_nothing()
        part = ray.put(np.concatenate(sequences))
        lengths = np.array([len(token_ids) for token_ids in sequences], dtype=np.int64)
        for _ in range(MAX_LOSSES):
            actor = self._take()
            try:
                scores, lines = ray.get(actor.score.remote(part, lengths, sequence_ids))
            except ray.exceptions.RayActorError as loss:
                self._replace(actor, loss)
            except ray.exceptions.RayTaskError as error:
                self._free.put(actor)
                raise _own(error) from None
            else:
                self._free.put(actor)
                for line in lines:
                    self._report(line)
                return scores
        raise ScoringError(
            f"the part that begins with sequence {sequence_ids[0]} has lost {MAX_LOSSES} actors in a row; its sequences "
            "may need more memory than a node has: lower scoring.tokens_per_batch"
        )

    def close(self) -> None:
        """End the actors."""
        import ray

        self._is_closed.set()
        for actor in list(self._actors):
            ray.kill(actor)
        self._actors.clear()

    def _take(self) -> Any:
        """Return a free actor, waiting for one."""
        waited = 0.0
        while True:
            try:
                found = self._free.get(timeout=1.0)
            except queue.Empty:
                waited += 1.0
                if self._actors_at_work() or waited < START_SECONDS:
                    continue
                raise ScoringError(_no_room(self._resources)) from None
            if isinstance(found, MiniplmError):
                self._free.put(found)  # for the next who waits
                raise found
            return found

    def _actors_at_work(self) -> int:
        return 0 if not self._actors else len(self._actors)

    def _start(self) -> None:
        """Ask for an actor; it is free once it has loaded its model."""
        threading.Thread(target=self._open, name="start-scorer", daemon=True).start()

    def _open(self) -> None:
        import ray

        for _ in range(MAX_LOSSES):
            actor = self._actor_class.remote(self._settings)
            try:
                for line in ray.get(actor.open.remote()):
                    self._report(line)
            except ray.exceptions.RayActorError as loss:
                if self._is_closed.is_set():
                    return
                self._report(f"a scorer was lost while it loaded its model: {_first_line(loss)}")
            except ray.exceptions.RayTaskError as error:
                self._free.put(_own(error))
                return
            else:
                self._actors.add(actor)
                self._free.put(actor)
                return
        self._free.put(ScoringError(f"{MAX_LOSSES} scorers in a row were lost while they loaded the model"))

    def _replace(self, actor: Any, loss: Exception) -> None:
        self._actors.discard(actor)
        self._report(f"a scorer was lost, its part is scored again: {_first_line(loss)}")
        self._start()
