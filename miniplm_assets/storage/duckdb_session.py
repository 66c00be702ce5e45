"""A DuckDB in memory for one piece of work, and what its errors mean."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from miniplm_assets.core.errors import SqlError


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
            connection.execute("set enable_progress_bar = false")  # it would draw itself into the log of a run
            yield connection
    finally:
        shutil.rmtree(spill, ignore_errors=True)
