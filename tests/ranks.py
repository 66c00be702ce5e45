"""Several processes that train together, forked from one that has the libraries: starting one takes no time."""

import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from miniplm_assets.core.stop import Stop
from miniplm_assets.storage.curves import NoCurves
from miniplm_assets.training import TrainingJob
from tests.ports import free_port

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.ranks_libraries"])


def train_by_ranks(
    job: TrainingJob, folder: Path, number: int, *, patch: Callable[[int, Stop], None] | None = None, **training: Any
) -> dict[str, Any]:
    """Train as the workers of a launch do; return the facts of the first.

    Args:
        job: with any number of processes.
        folder: holds `work` and `target`.
        number: of processes.
        patch: called in each, with its rank and what tells it to stop.
        training: settings to change.

    Raises:
        RankError: with what the first rank that failed has to say.
    """
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "target").mkdir(exist_ok=True)
    job = replace(job, training=job.training.model_copy(update={"num_processes": number, **training}))
    port = free_port()
    ours, theirs = zip(*(FORKS.Pipe(duplex=False) for _ in range(number)), strict=True)
    ranks = [
        FORKS.Process(target=_rank, args=(rank, number, port, job, folder, patch, end), daemon=True)
        for rank, end in enumerate(theirs)
    ]
    for rank in ranks:
        rank.start()
    for end in theirs:
        end.close()
    try:
        answers = [end.recv() for end in ours]
    finally:
        for rank in ranks:
            rank.join(60)
            rank.kill()
    for answer in answers:
        if isinstance(answer, str):
            raise RankError(answer)
    return answers[0]


class RankError(Exception):
    """A rank failed."""


def _rank(rank: int, number: int, port: int, job: TrainingJob, folder: Path, patch: Any, answer: Connection) -> None:
    from miniplm_assets.training.processes import brought_together
    from miniplm_assets.training.train import train_in_this_process

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    stop = Stop()
    try:
        if patch is not None:
            patch(rank, stop)
        with brought_together() as processes:
            facts = train_in_this_process(
                job,
                work=folder / "work",
                target=folder / "target",
                report=lambda _: None,
                stop=stop,
                curves=NoCurves(),
                processes=processes,
            )
        answer.send(facts)
    except BaseException as error:  # noqa: BLE001 - the test hears of it
        answer.send(f"rank {rank}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
