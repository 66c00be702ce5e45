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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import MiniplmError, ModelError, ScoringError
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import Scores

# Loading tens of gigabytes from a network disk, after waiting for a node to come up.
START_SECONDS: Final = 1_800.0
# Ray tells of a killed actor within a second.
END_SECONDS: Final = 10.0
# A part that has ended so many actors will end the next one too.
MAX_LOSSES: Final = 3


@dataclass(frozen=True, kw_only=True)
class ScorerSettings:
    """What `open_scorer` needs, on whichever node."""

    model_folder: Path
    scoring: Scoring
    end_of_document_id: int
    begin_of_sequence_id: int | None = None
    max_sequence_tokens: int
    vocab_size: int | None = None


class ScorerActor:
    """A scorer in a process of the cluster."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._lines: list[str] = []

    def open(self) -> list[str]:
        """Load the model; return what there is to report. Ray would not show an error that a constructor raises."""
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
                begin_of_sequence_id=settings.begin_of_sequence_id,
                max_sequence_tokens=settings.max_sequence_tokens,
                report=self._lines.append,
                vocab_size=settings.vocab_size,
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


class _LostError(Exception):
    """An actor is gone, or its node, or what lay there: another one can do its work."""


class RayWorkers:
    """Actors that score, behind the face of one `Scorer`. Ray must be connected.

    Attributes:
        num_devices: how many actors were asked for.
    """

    def __init__(self, settings: ScorerSettings, *, num_workers: int | None, report: Callable[[str], None]) -> None:
        """Ask for the actors.

        Args:
            settings: what each loads.
            num_workers: how many; default: one a device of the cluster, or one a node where it has none.
            report: takes a line of progress.

        Raises:
            ScoringError: if the cluster has no device for one of them.
        """
        import ray

        self._settings = settings
        self._report = report
        self.num_devices, self._resources = _share_out(settings.scoring, num_workers)
        self._actor_class: Any = ray.remote(ScorerActor).options(scheduling_strategy="SPREAD", **self._resources)
        # Actors that have nothing to do; or an error that ends all who wait.
        self._free: queue.Queue[Any] = queue.Queue()
        self._lock = threading.Lock()
        self._asked: list[Any] = []
        self._starting: list[threading.Thread] = []
        self._num_alive = 0
        self._is_closed = False
        report(f"asking Ray for {self.num_devices} scorers, each with {self._resources}")
        for _ in range(self.num_devices):
            self._start()

    def wait_for_one(self) -> None:
        """Return when the first actor has loaded its model, so that nobody's time is counted before.

        Raises:
            ScoringError: if no node had room for one in `START_SECONDS`; or whatever ended them all.
        """
        self._free.put(self._take())

    def score(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Scores:
        """Return the scores of sequences, in the order given; see `Scorer.score`."""
        together = np.concatenate(sequences)
        lengths = np.array([len(token_ids) for token_ids in sequences], dtype=np.int64)
        last_loss = None
        for _ in range(MAX_LOSSES):
            actor = self._take()
            try:
                scores, lines = self._ask(actor.score, together, lengths, sequence_ids)
            except _LostError as loss:
                self._replace(actor, loss)
                last_loss = loss
                continue
            except MiniplmError as error:
                self._end_all(error)
                raise
            self._free.put(actor)
            for line in lines:
                self._report(line)
            return cast("Scores", scores)
        raise ScoringError(
            f"the part that begins with sequence {sequence_ids[0]} has ended {MAX_LOSSES} scorers; it may "
            f"need more memory than they have: lower scoring.tokens_per_batch. The last was lost so: {last_loss}"
        )

    def _ask(self, method: Any, *arguments: Any) -> Any:
        """Return what an actor's method returns.

        Raises:
            _LostError: if the actor, its node or what lay there is gone, whatever Ray calls it.
            MiniplmError: if the method raised, or Ray did in another way.
        """
        import ray

        try:
            return ray.get(method.remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MiniplmError):
                raise cause from None
            raise ScoringError(f"a scorer on the Ray cluster failed: {error}") from None
        except ray.exceptions.RayError as loss:
            raise _LostError(f"{type(loss).__name__}: {_first_line(loss)}") from None
        except Exception as error:  # who waits for an actor must hear of whatever ends it
            raise ScoringError(f"asking a scorer on the Ray cluster failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End the actors, and whoever waits for one."""
        import ray

        with self._lock:
            self._is_closed = True
            asked, self._asked = self._asked, []
        for actor in asked:
            ray.kill(actor)
        for thread in self._starting:  # those who still wait for an actor hear of its end
            thread.join(END_SECONDS)
        self._end_all(ScoringError("scoring was stopped"))

    def _take(self) -> Any:
        """Return an actor that has nothing to do, waiting for one.

        Raises:
            ScoringError: if no node had room for any actor in `START_SECONDS`; or whatever ended the others.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                found = self._free.get(timeout=1.0)
            except queue.Empty:
                if self._num_alive:
                    deadline = time.monotonic() + START_SECONDS
                elif time.monotonic() > deadline:
                    raise ScoringError(
                        f"no node of the Ray cluster had room for a scorer in {START_SECONDS:,.0f} s; each needs "
                        f"{self._resources}, {_what_there_is()}"
                    ) from None
                continue
            if isinstance(found, MiniplmError):
                self._free.put(found)  # for the next who waits
                raise found
            return found

    def _start(self) -> None:
        """Ask for an actor; it is free once it has loaded its model."""
        thread = threading.Thread(target=self._open, name="start-scorer", daemon=True)
        self._starting.append(thread)
        thread.start()

    def _open(self) -> None:
        try:
            self._open_one()
        except MiniplmError as error:
            self._end_all(error)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of what ends a thread
            self._end_all(ScoringError(f"asking Ray for a scorer failed: {type(error).__name__}: {error}"))

    def _open_one(self) -> None:
        last_loss = None
        for _ in range(MAX_LOSSES):
            with self._lock:
                if self._is_closed:
                    return
                actor = self._actor_class.remote(self._settings)
                self._asked.append(actor)
            try:
                lines = self._ask(actor.open)
            except _LostError as loss:
                last_loss = loss
                self._give_up(actor)
                if not self._is_closed:
                    self._report(f"a scorer was lost while it loaded its model: {loss}")
                continue
            for line in lines:
                self._report(line)
            with self._lock:
                self._num_alive += 1
            self._free.put(actor)
            return
        raise ScoringError(
            f"{MAX_LOSSES} scorers in a row were lost while they loaded the model, which may need more memory than a "
            f"node has. The last was lost so: {last_loss}"
        )

    def _replace(self, actor: Any, loss: "_LostError") -> None:
        with self._lock:
            self._num_alive -= 1
        self._give_up(actor)
        if not self._is_closed:
            self._report(f"a scorer was lost, and its part is scored again: {loss}")
            self._start()

    def _give_up(self, actor: Any) -> None:
        """Free what Ray still holds for an actor: that of one which is out of reach, or whose answer was lost, too."""
        import ray

        with self._lock:
            if actor not in self._asked:  # it was closed meanwhile
                return
            self._asked.remove(actor)
        ray.kill(actor)

    def _end_all(self, error: MiniplmError) -> None:
        self._free.put(error)


def _share_out(scoring: Scoring, num_workers: int | None) -> tuple[int, dict[str, float]]:
    """Return how many actors there are to be, and what each asks Ray for."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if num_gpus and scoring.device != "cpu":
        per_worker = scoring.tensor_parallel_size
        if num_gpus < per_worker:
            raise ScoringError(f"tensor_parallel_size is {per_worker}, but {_what_there_is()}")
        return num_workers or num_gpus // per_worker, {"num_gpus": per_worker}
    wanted = num_workers or len(nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ScoringError(f"a scorer needs a GPU or a CPU, but {_what_there_is()}")
    # One that every node has room for, whichever of them goes.
    return wanted, {"num_cpus": max(1, min(sum(cpus) // wanted, min(cpus)))}


def _what_there_is() -> str:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    each = "; ".join(
        f"{int(n['Resources'].get('CPU', 0))} CPUs, {int(n['Resources'].get('GPU', 0))} GPUs" for n in nodes
    )
    return f"the cluster has {len(nodes)} nodes: {each}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
