"""Training by the nodes of a Ray cluster: the steps of one process, an end that names who was lost, and going on.

The oracle: the run of one process that nothing disturbed. The nodes are Ray's own on one machine.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.training import TrainingJob
from tests.test_training import NO_DROPOUT, every_step, train
from tests.test_training import job as job
from tests.test_training_launch import wait_until, workers
from tests.test_training_processes import require_same

pytestmark = [
    pytest.mark.long,
    # Ray's own processes and sockets, left open in its own tests too.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes with a CPU each, and this process connected to them."""
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", root)  # for the processes of the cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def on_nodes(job: TrainingJob, number: int = 2) -> TrainingJob:
    nodes = {"num_processes": number, "num_nodes": number}
    return replace(job, architecture=NO_DROPOUT, training=job.training.model_copy(update=nodes))


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "work").glob("checkpoint-*"))


def test_two_nodes_take_the_steps_of_one_process_and_go_on_where_a_worker_a_node_or_a_stop_broke_them_off(
    job: TrainingJob, cluster: Cluster, tmp_path: Path
) -> None:
    alone = train(replace(job, architecture=NO_DROPOUT), tmp_path / "alone")
    lines: list[str] = []
    together = train(on_nodes(job), tmp_path / "together", report=lines.append)
    require_same(tmp_path / "alone", tmp_path / "together")
    assert together["num_processes"] == 2 and together["num_steps"] == alone["num_steps"]
    assert lines[0] == "tiny/student_checkpoint: asking Ray for 2 nodes, each with {'CPU': 1}"
    assert any("by 2 processes" in line for line in lines)
    wait_until(lambda: ray.available_resources().get("CPU") == 2)  # they are given back
    assert not workers()

    cut = tmp_path / "cut"

    def kill_one() -> None:
        wait_until(lambda: checkpoints(cut))
        workers()[1].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(TrainingError) as lost:
        train(every_step(on_nodes(job)), cut)
    killer.join()
    text = str(lost.value)
    assert "process 1 of 2 has ended: SIGKILL ended it" in text and "node " in text, text
    assert "The last checkpoint is kept; run again to go on from there" in text
    wait_until(lambda: not workers())

    [before] = checkpoints(cut)
    stop = Stop()

    def ask() -> None:
        wait_until(lambda: not before.exists())  # a later one is there
        stop.is_asked = True

    asker = threading.Thread(target=ask)
    asker.start()
    with pytest.raises(Stopped):
        train(every_step(on_nodes(job)), cut, stop=stop)
    asker.join()
    [stopped] = checkpoints(cut)
    assert stopped != before

    def end_node() -> None:
        wait_until(lambda: not stopped.exists())
        cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)

    ender = threading.Thread(target=end_node)
    ender.start()
    with pytest.raises(TrainingError, match="a node of the Ray cluster was lost"):
        train(every_step(on_nodes(job)), cut)
    ender.join()
    wait_until(lambda: not workers())
    with pytest.raises(
        TrainingError,
        match=r"training.num_nodes is 2, each to have 1 CPU for its share of 2 processes, and the cluster has 1 node",
    ):
        train(on_nodes(job), cut)
    assert train(replace(job, architecture=NO_DROPOUT), cut)["resumed_from_step"] > 0
    require_same(tmp_path / "alone", cut)
