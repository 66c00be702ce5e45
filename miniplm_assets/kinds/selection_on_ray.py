"""The corpus files of a selection's tables, as tasks of a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from miniplm_assets.corpus.cores import cores_of_this_process, memory_of_this_machine
from miniplm_assets.corpus.progress import Report
from miniplm_assets.experiment import Processing
from miniplm_assets.lineage.ray_crew import RayCrew, cores_of_cluster, is_cluster_named
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.part_threads import PartThreads
from miniplm_assets.storage.sql_run import ShardRun, Spread
from miniplm_assets.storage.sql_testing import Failures

# What DuckDB takes by itself of a machine; beyond its part of that, a task works through files.
SHARE_OF_MEMORY: Final = 0.8


def spread_of(work: Work[Any], processing: Processing) -> Spread | None:
    """Return what has the corpus files of a table done by a cluster; None where DuckDB does them, on all cores of here.

    Args:
        work: the table.
        processing: where. A Ray that is started on this machine has no more cores than DuckDB.
    """
    return partial(_on_ray, work, processing) if processing.engine == "ray" and is_cluster_named() else None


def _on_ray(
    work: Work[Any], processing: Processing, shards: Sequence[ShardRun], target: Path
) -> Iterator[dict[str, Failures]]:
    """Do each corpus file in a task, several at once; yield what the checks found, in the order of the files."""
    work.run.connect_ray()
    crew = RayCrew(min(processing.num_processes or cores_of_cluster(), len(shards)), {})
    work.report(f"{work.node.key}: {len(shards)} corpus files by Ray, {crew.num_at_once} at once")

    def task_of(number: int, shard: ShardRun) -> Callable[[], dict[str, Failures]]:
        # A task that is done again begins with an empty folder.
        folder = target / f".shard-{number}"
        folder.mkdir()

        def do() -> dict[str, Failures]:
            found: dict[str, Failures] = crew.do(
                partial(write_shard, shard, folder), shard.ids.shard, folder, work.report
            )
            (folder / shard.ids.file_name).rename(target / shard.ids.file_name)
            folder.rmdir()
            return found

        return do

    works = ((shard, task_of(number, shard)) for number, shard in enumerate(shards))
    error: BaseException | None = None
    with PartThreads(crew.num_at_once - 1) as threads:
        try:
            for _, found in threads.in_order(works, work.run.errands):
                assert found is not None, "each corpus file is a work"
                work.run.stop.look()
                yield found
        except BaseException as raised:  # noqa: BLE001 - raised below
            crew.close(is_at_once=True)
            error = raised
    # All threads have ended: nobody writes into a draft that is given up.
    if error is not None:
        raise error
    crew.close()


def write_shard(shard: ShardRun, folder: Path, *, report: Report) -> dict[str, Failures]:  # noqa: ARG001 - a Task's
    """Write a corpus file's rows into a folder, by the core that a task asks Ray for, and a core's share of memory."""
    from miniplm_assets.kinds.registry import SQL

    share = SHARE_OF_MEMORY * memory_of_this_machine() / cores_of_this_process()
    return replace(shard, project=SQL).write(folder, num_threads=1, memory_limit=f"{share / 1e6:.0f}MB")
