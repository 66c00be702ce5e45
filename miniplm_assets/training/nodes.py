"""Training on several machines of a Ray cluster: a launcher on each, and what they say, as if it were one.

    actor          holds the launcher of its node, and hands on what is said; the launcher ends with it
    launcher       as on one machine, but its agent meets those of the other nodes before it starts workers

Ray finds the nodes, all of them or none, and notices that one is lost; torch.distributed does the rest. The workers of
the first node write checkpoints and the result, so the folder of the run must be there on every node.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.stop import Stop
from miniplm_assets.corpus.cores import cores_of_this_process
from miniplm_assets.experiment.models import Training
from miniplm_assets.lm.engine_process import END_SECONDS, EngineFailure, EngineProcess
from miniplm_assets.lm.ray_workers import START_SECONDS, first_line, node_name, nodes_of_cluster, what_there_is

LAUNCHER: Final = "miniplm_assets.training.launcher"
NUM_THREADS: Final = "OMP_NUM_THREADS"
# What a launcher says last whose workers have done all that there was to do.
HAS_ENDED: Final = "ended"
# How long the nodes have to say why they fail, once one has: where one is lost, the others miss it.
SECONDS_TO_HEAR: Final = 30.0
# How often it is looked whether the nodes are free.
POLL_SECONDS: Final = 1.0
# An answer that has begun to come is whole at once.
SILENCE_SECONDS: Final = 60.0


def start_launcher(message: Mapping[str, Any], num_processes: int) -> EngineProcess:
    """Start the launcher of this machine.

    Args:
        message: what it is told.
        num_processes: that it starts here.
    """
    asked = message.get("node", os.environ).get(NUM_THREADS, "")
    return EngineProcess(LAUNCHER, message, environment=_environment(num_processes, asked), called="the training")


def _environment(num_processes: int, asked: str) -> dict[str, str]:
    """Return the environment of the workers: this process's own, its cores dealt out, or as few as are asked for."""
    share = max(1, cores_of_this_process() // num_processes)
    threads = min(share, int(asked)) if asked.isdecimal() and int(asked) else share
    return {**os.environ, NUM_THREADS: str(threads)}


class NodeActor:
    """The launcher of one node, in a process of the cluster."""

    def __init__(self) -> None:
        self._process: EngineProcess | None = None

    def address(self) -> str:
        """Return where the launchers can meet, if they meet here: host and a port that nobody listens at."""
        host = node_name()
        with socket.socket() as free:
            free.bind((host, 0))
            return f"{host}:{free.getsockname()[1]}"

    def begin(self, message: Mapping[str, Any]) -> None:
        """Start the launcher.

        Args:
            message: what it is told; its `node` says the number of all nodes.

        Raises:
            TrainingError: if the folder of the run is not there.
        """
        if not Path(message["work"]).is_dir():
            raise TrainingError(
                f"{message['work']} is not there on node {node_name()}; the nodes that train a model read and write "
                "the warehouse, which must lie at the same path on each, on a shared file system"
            )
        number = message["job"]["training"]["num_processes"] // message["node"]["number"]
        self._process = start_launcher(message, number)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Tell the launcher something."""
        assert self._process is not None
        self._process.send(message)

    def heard(self, seconds: float) -> list[dict[str, Any]]:
        """Return what the launcher has said, waiting this long at most: last of all `HAS_ENDED`, or why it is lost."""
        assert self._process is not None
        messages: list[dict[str, Any]] = []
        try:
            while HAS_ENDED not in (messages[-1] if messages else {}):
                if not self._process.has_message(0.0 if messages else seconds):
                    break
                messages.append(self._process.receive(silence_seconds=SILENCE_SECONDS))
        except EngineFailure as failure:
            messages.append({"lost": f"node {node_name()}: {failure}"})
        return messages

    def end(self, patience_seconds: float) -> None:
        """End the launcher and its workers."""
        if self._process is not None:
            self._process.end(patience_seconds=patience_seconds)


def require_nodes(training: Training, *, name: str) -> dict[str, float]:
    """Return what each node must have for its share of the processes.

    Args:
        training: on how many nodes, by how many processes.
        name: of the training.

    Raises:
        TrainingError: if the cluster, which must be connected, has too few that have it.
    """
    per_node = training.num_processes // training.num_nodes
    nodes = nodes_of_cluster()
    kind = "GPU" if any(node.get("GPU", 0) for node in nodes) else "CPU"
    found = sum(node.get(kind, 0) >= per_node for node in nodes)
    if found < training.num_nodes:
        raise TrainingError(
            f"{name}: training.num_nodes is {training.num_nodes}, each to have {per_node} {kind}{'s' * (per_node > 1)} "
            f"for its share of {training.num_processes} processes, and {what_there_is()}. Name a larger cluster in "
            "RAY_ADDRESS, or lower num_nodes or num_processes (the result stays the same to rounding)"
        )
    return {kind: per_node}


class Launchers:
    """The launchers of all nodes, behind the face of one `EngineProcess`. Ray must be connected."""

    def __init__(
        self,
        message: Mapping[str, Any],
        training: Training,
        *,
        name: str,
        report: Callable[[str], None],
        stop: Stop,
    ) -> None:
        """Wait for the nodes, and start a launcher on each.

        Args:
            message: what a launcher on one machine is told.
            training: on how many nodes, by how many processes.
            name: of the training.
            report: takes a line of progress.
            stop: is looked at while the nodes are waited for.

        Raises:
            TrainingError: if the cluster has too few nodes, they are not free in `START_SECONDS`, or one is not as it
                must be.
            Stopped: if the run has been told to stop.
        """
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._messages: deque[dict[str, Any]] = deque()
        self._actors: list[Any] = []
        self._under_way: set[int] = set(range(training.num_nodes))
        share, number = require_nodes(training, name=name), training.num_nodes
        report(f"{name}: asking Ray for {number} nodes, each with {share}")
        self._group = ray.util.placement_group([share] * number, strategy="STRICT_SPREAD")
        try:
            _wait_for(self._group, training, name=name, stop=stop)
            for rank in range(number):
                place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank)
                options = {"num_cpus": share.get("CPU", 0), "num_gpus": share.get("GPU", 0)}
                actor: Any = ray.remote(NodeActor)
                self._actors.append(actor.options(scheduling_strategy=place, **options).remote())
            endpoint = _answer(self._actors[0].address.remote(), seconds=START_SECONDS)
            # Not the node's own: Ray sets it to the cores that an actor asks for.
            node = {"number": number, "endpoint": endpoint, NUM_THREADS: os.environ.get(NUM_THREADS, "")}
            for rank, actor in enumerate(self._actors):
                _answer(actor.begin.remote({**message, "node": {**node, "rank": rank}}), seconds=START_SECONDS)
        except EngineFailure as failure:
            self.end(patience_seconds=0)
            raise TrainingError(f"{name}: {failure}") from None
        except BaseException:
            self.end(patience_seconds=0)
            raise

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell all launchers something that have not ended.

        Raises:
            EngineFailure: if a node is lost.
        """
        for told in [self._actors[rank].tell.remote(message) for rank in sorted(self._under_way)]:
            _answer(told)

    def has_message(self, seconds: float) -> bool:
        """Wait this long at most for a message of any node; return whether there is one.

        Raises:
            EngineFailure: if a node is lost, or what trains there.
        """
        if not self._messages:
            self._messages += self._heard(seconds)
        return bool(self._messages)

    def receive(self, *, silence_seconds: float) -> dict[str, Any]:
        """Return the next message.

        Args:
            silence_seconds: how long to wait for one, where there is none.

        Raises:
            EngineFailure: if there is none in this time, a node is lost, or what trains there.
        """
        if not self.has_message(silence_seconds):
            raise EngineFailure(f"the nodes have said nothing for {silence_seconds:,.0f} seconds")
        return self._messages.popleft()

    def _heard(self, seconds: float) -> list[dict[str, Any]]:
        messages, losses = self._ask_all(seconds)
        deadline = time.monotonic() + SECONDS_TO_HEAR
        # Whichever was first: each says what it knows.
        while losses and self._under_way and time.monotonic() < deadline:
            more, others = self._ask_all(POLL_SECONDS)
            messages += more
            losses |= others
        if losses and not any("error" in message for message in messages):
            raise EngineFailure("\n".join(losses[rank] for rank in sorted(losses)))
        if not messages and not self._under_way:
            raise EngineFailure("the nodes have ended, and the first said nothing of what came of it")
        return messages

    def _ask_all(self, seconds: float) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """Return what the nodes say that are under way, and of those that are lost, by their rank, how."""
        messages, losses = [], {}
        asked = {rank: self._actors[rank].heard.remote(seconds) for rank in sorted(self._under_way)}
        for rank, one in asked.items():
            try:
                said = _answer(one)
            except EngineFailure as failure:
                said = [{"lost": str(failure)}]
            for message in said:
                if "lost" in message:
                    losses[rank] = message["lost"]
                elif HAS_ENDED not in message:
                    messages.append(message)
                    continue
                self._under_way.discard(rank)
        return messages, losses

    def end(self, *, patience_seconds: float = END_SECONDS) -> None:
        """End the launchers, and give the nodes back; gracefully where they end within this time."""
        import ray

        with suppress(ray.exceptions.RayError):  # where Ray is gone, so are the actors
            ending = [actor.end.remote(patience_seconds) for actor in self._actors]
            if ending:
                ray.wait(ending, num_returns=len(ending), timeout=patience_seconds + END_SECONDS)
        with suppress(ray.exceptions.RayError):
            ray.util.remove_placement_group(self._group)  # which ends the actors, and they their launchers


def _wait_for(group: Any, training: Training, *, name: str, stop: Stop) -> None:
    import ray

    deadline, ready = time.monotonic() + START_SECONDS, group.ready()
    while not ray.wait([ready], timeout=POLL_SECONDS)[0]:
        stop.look()
        require_nodes(training, name=name)  # one may be lost meanwhile
        if time.monotonic() > deadline:
            raise TrainingError(
                f"{name}: the nodes of the Ray cluster were not free in {START_SECONDS:,.0f} s; {what_there_is()}"
            )


def _answer(asked: Any, *, seconds: float | None = None) -> Any:
    """Return what a method of an actor returns, in this time, where one is given.

    Raises:
        TrainingError: as the method raised it.
        EngineFailure: if the actor or its node is lost, or the method fails in another way.
    """
    import ray

    try:
        return ray.get(asked, timeout=seconds)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TrainingError | EngineFailure):
            raise error.cause from None
        raise EngineFailure(str(error)) from None
    except ray.exceptions.RayError as loss:
        words = f"{type(loss).__name__}: {first_line(loss)}"
        raise EngineFailure(f"a node of the Ray cluster was lost: {words}") from None
