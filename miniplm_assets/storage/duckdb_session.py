"""A DuckDB in memory for one piece of work, threads that share it, and what its errors mean."""

import errno
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import duckdb

from miniplm_assets.core.errors import SqlError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

INTERRUPT_SECONDS: Final = 0.1


@contextmanager
def explained_duckdb(name: str, memory_limit: str | None) -> Iterator[None]:
    """Turn the errors of DuckDB into ones for people.

    Args:
        name: the model that is run.
        memory_limit: that DuckDB has.

    Raises:
        SqlError: if the SQL does not run, or needs more memory.
        OSError: if the disk is full.
    """
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise SqlError(f"{name}: more memory is needed than {memory_limit or 'this machine has'} ({error})") from error
    except duckdb.Error as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise SqlError(f"{name}: {error}") from error


@contextmanager
def duckdb_in_memory(
    target: Path, memory_limit: str | None, num_threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB of its own.

    Args:
        target: where work goes beyond the memory limit; nothing is left there.
        memory_limit: for example "4GB"; None: what DuckDB takes by itself.
        num_threads: None: as many as there are cores.
    """
    spill = target / ".spill"
    config: dict[str, Any] = {"temp_directory": str(spill)} | ({} if num_threads is None else {"threads": num_threads})
    if memory_limit is not None:
        config["memory_limit"] = memory_limit
    try:
        with duckdb.connect(config=config) as connection:
            yield _without_progress(connection)
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def each_beside(
    connection: duckdb.DuckDBPyConnection,
    begin: Callable[[duckdb.DuckDBPyConnection], Callable[[Item], Answer]],
    items: Sequence[Item],
    *,
    num_at_once: int,
) -> Generator[Answer, None, None]:
    """Do something with each item in threads, each with a connection of its own; give the answers in their order.

    Args:
        connection: whose memory and threads the others share.
        begin: is given such a connection, with a schema of its own for views, and returns what does it.
        items: what it is done with.
        num_at_once: how many threads.

    Raises:
        Whatever the first item raises that does; the others have ended then, in the middle of their queries.
    """
    sessions = [_beside(connection, f"beside_{number}") for number in range(num_at_once)]
    free: SimpleQueue[Callable[[Item], Answer]] = SimpleQueue()
    for session in sessions:
        free.put(begin(session))

    def do(item: Item) -> Answer:
        one = free.get()
        try:
            return one(item)
        finally:
            free.put(one)

    with ThreadPoolExecutor(num_at_once, thread_name_prefix="duckdb") as pool:
        done = [pool.submit(do, item) for item in items]
        try:
            for one in done:
                yield one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while running := [one for one in done if not one.done()]:
                for session in sessions:
                    session.interrupt()  # the query, and not the one after it
                wait(running, timeout=INTERRUPT_SECONDS)
            raise
    for session in sessions:
        session.close()


def _beside(connection: duckdb.DuckDBPyConnection, schema: str) -> duckdb.DuckDBPyConnection:
    beside = _without_progress(connection.cursor())
    beside.execute(f"create schema {schema}")
    beside.execute(f"set schema = '{schema}'")
    return beside


@contextmanager
def limited_threads(connection: duckdb.DuckDBPyConnection, num_threads: int | None) -> Iterator[None]:
    """Let a DuckDB use fewer threads for a while; None: as many as it has."""
    if num_threads is None:
        yield
        return
    before = num_threads_of(connection)
    connection.execute(f"set threads = {num_threads}")
    try:
        yield
    finally:
        connection.execute(f"set threads = {before}")  # and not reset, which would be all cores


def num_threads_of(connection: duckdb.DuckDBPyConnection) -> int:
    """Return how many threads a DuckDB uses."""
    [(num_threads,)] = connection.execute("select current_setting('threads')").fetchall()
    return int(num_threads)


def _without_progress(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Keep a progress bar out of the log of a run."""
    return connection.execute("set enable_progress_bar = false")
