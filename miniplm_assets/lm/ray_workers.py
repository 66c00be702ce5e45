"""Models on a Ray cluster: an actor for each device, each with its model loaded once, that scores or generates.

The caller keeps everything that must not be lost: it reads the sequences, puts what comes of each part away and
publishes each shard. An actor only computes: token ids in, scores or longer sequences out. So an actor that is lost,
with its node or by itself, costs the part in its hands, which the next free actor computes again while a new one is
asked for. Where no node has room for a new one, the others go on without it.

Any thread may ask at any time: it takes a free actor for one part and gives it back.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import MiniplmError, ModelError, ScoringError
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.scores import Scores

# Loading tens of gigabytes from a network disk, after waiting for a node to come up.
START_SECONDS: Final = 1_800.0
# Ray tells of a killed actor within a second.
END_SECONDS: Final = 10.0
# A part that has ended so many actors will end the next one too.
MAX_LOSSES: Final = 3


Compute = Callable[[Sequence[NDArray[np.int32]], NDArray[np.int64]], Any]


class ModelSettings(Protocol):
    """What a model on whichever node needs.

    Attributes:
        does: what it is called: a scorer, a generator.
        hint: what to do where it needs more memory than there is.
    """

    does: ClassVar[str]
    hint: ClassVar[str]

    @property
    def model_folder(self) -> Path:
        """Where the model lies, as `save_pretrained` writes it."""

    @property
    def scoring(self) -> Scoring:
        """Its device, and how many make one."""

    def open(self, report: Callable[[str], None]) -> AbstractContextManager[Compute]:
        """Load it; give what computes with it until the context ends."""


class ModelActor:
    """A model in a process of the cluster."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._lines: list[str] = []

    def open(self) -> list[str]:
        """Load the model; return what there is to report. Ray would not show an error that a constructor raises."""
        folder = self._settings.model_folder
        if not folder.exists():
            raise ModelError(
                f"{folder} is not there on node {node_name()}; the nodes of a Ray cluster read models "
                "from the warehouse, which must lie at the same path on each, on a shared file system"
            )
        self._compute = self._stack.enter_context(self._settings.open(self._lines.append))
        return self._take_lines()

    def compute(
        self, token_ids: NDArray[np.int32], lengths: NDArray[np.int64], sequence_ids: NDArray[np.int64]
    ) -> tuple[Any, list[str]]:
        """Compute with sequences that lie end to end; return what there is to report, too."""
        return self._compute(np.split(token_ids, np.cumsum(lengths)[:-1]), sequence_ids), self._take_lines()

    def _take_lines(self) -> list[str]:
        lines, self._lines[:] = list(self._lines), []
        return [f"{node_name()}: {line}" for line in lines]


def node_name() -> str:
    """Return the address of the node that this process of a cluster is on."""
    import ray

    return str(ray.util.get_node_ip_address())


class _LostError(Exception):
    """An actor is gone, or its node, or what lay there: another one can do its work."""


class RayWorkers:
    """Actors, behind the face of one `Scorer` or `Generator`. Ray must be connected.

    Attributes:
        num_devices: how many actors were asked for.
    """

    def __init__(self, settings: ModelSettings, *, num_workers: int | None, report: Callable[[str], None]) -> None:
        """Ask for the actors.

        Args:
            settings: what each loads.
            num_workers: how many; default: one a device of the cluster, or one a node where it has none.
            report: takes a line of progress.

        Raises:
            ScoringError: if the cluster has no device for one of them.
        """
        import ray

        self._settings, self._does = settings, settings.does
        self._report = report
        self.num_devices, self._resources = _share_out(settings.scoring, num_workers)
        self._actor_class: Any = ray.remote(ModelActor).options(scheduling_strategy="SPREAD", **self._resources)
        # Actors that have nothing to do; or an error that ends all who wait.
        self._free: queue.Queue[Any] = queue.Queue()
        self._lock = threading.Lock()
        self._asked: list[Any] = []
        self._starting: list[threading.Thread] = []
        self._num_alive = 0
        self._is_closed = False
        report(f"asking Ray for {self.num_devices} {self._does}s, each with {self._resources}")
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
        return cast("Scores", self._compute(sequences, sequence_ids))

    def continued(
        self, prompts: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]
    ) -> list[NDArray[np.int32]]:
        """Return each prompt with what follows it; see `Generator.continued`."""
        return cast("list[NDArray[np.int32]]", self._compute(prompts, sequence_ids))

    def _compute(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Any:
        together = np.concatenate(sequences)
        lengths = np.array([len(token_ids) for token_ids in sequences], dtype=np.int64)
        last_loss = None
        for _ in range(MAX_LOSSES):
            actor = self._take()
            try:
                computed, lines = self._ask(actor.compute, together, lengths, sequence_ids)
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
            return computed
        raise ScoringError(
            f"the part that begins with sequence {sequence_ids[0]} has ended {MAX_LOSSES} {self._does}s; it "
            f"may need more memory than they have: {self._settings.hint}. The last was lost so: {last_loss}"
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
            raise ScoringError(f"a {self._does} on the Ray cluster failed: {error}") from None
        except ray.exceptions.RayError as loss:
            raise _LostError(f"{type(loss).__name__}: {first_line(loss)}") from None
        except Exception as error:  # who waits for an actor must hear of whatever ends it
            name = type(error).__name__
            raise ScoringError(f"asking a {self._does} on the Ray cluster failed: {name}: {error}") from error

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
        self._end_all(ScoringError(f"the {self._does} was stopped"))

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
                        f"no node of the Ray cluster had room for a {self._does} in {START_SECONDS:,.0f} s; each needs "
                        f"{self._resources}, {what_there_is()}"
                    ) from None
                continue
            if isinstance(found, MiniplmError):
                self._free.put(found)  # for the next who waits
                raise found
            return found

    def _start(self) -> None:
        """Ask for an actor; it is free once it has loaded its model."""
        thread = threading.Thread(target=self._open, name="start-actor", daemon=True)
        self._starting.append(thread)
        thread.start()

    def _open(self) -> None:
        try:
            self._open_one()
        except MiniplmError as error:
            self._end_all(error)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of what ends a thread
            self._end_all(ScoringError(f"asking Ray for a {self._does} failed: {type(error).__name__}: {error}"))

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
                    self._report(f"a {self._does} was lost while it loaded its model: {loss}")
                continue
            for line in lines:
                self._report(line)
            with self._lock:
                self._num_alive += 1
            self._free.put(actor)
            return
        raise ScoringError(
            f"{MAX_LOSSES} {self._does}s in a row were lost while they loaded the model, which may need more "
            f"memory than a node has. The last was lost so: {last_loss}"
        )

    def _replace(self, actor: Any, loss: "_LostError") -> None:
        with self._lock:
            self._num_alive -= 1
        self._give_up(actor)
        if not self._is_closed:
            self._report(f"a {self._does} was lost, and its part is computed again: {loss}")
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
    nodes = nodes_of_cluster()
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if num_gpus and scoring.device != "cpu":
        per_worker = scoring.tensor_parallel_size
        if num_gpus < per_worker:
            raise ScoringError(f"tensor_parallel_size is {per_worker}, but {what_there_is()}")
        return num_workers or num_gpus // per_worker, {"num_gpus": per_worker}
    wanted = num_workers or len(nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ScoringError(f"a model needs a GPU or a CPU, but {what_there_is()}")
    # One that every node has room for, whichever of them goes.
    return wanted, {"num_cpus": max(1, min(sum(cpus) // wanted, min(cpus)))}


def nodes_of_cluster() -> list[Mapping[str, float]]:
    """Return what each node of the cluster has, which must be connected: CPU, GPU."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def what_there_is() -> str:
    """Say what the cluster has, which must be connected."""
    nodes = nodes_of_cluster()
    each = "; ".join(f"{int(node.get('CPU', 0))} CPUs, {int(node.get('GPU', 0))} GPUs" for node in nodes)
    return f"the cluster has {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}: {each}"


def first_line(error: Exception) -> str:
    """Return the first line of what an error says: Ray's go on for a page."""
    return next(iter(str(error).strip().splitlines()), "")
