"""A real PostgreSQL, as Debian installs it: on the loopback, with a database of its own, gone when the test is."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

# Debian keeps the server's programs out of PATH, by version.
PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)
USER = "dagster"
# PostgreSQL refuses to run as root.
SERVER_USER = "postgres"


@contextmanager
def running_postgres() -> Iterator[int]:
    """Start a server whose user `dagster` needs no password on this machine; give its port."""
    assert PROGRAMS is not None, "PostgreSQL is not installed"
    runs_as = SERVER_USER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if runs_as is not None:
            os.chown(folder, pwd.getpwnam(runs_as).pw_uid, -1)
        port = free_port()

        def run(program: str, *arguments: str) -> None:
            command = [str(PROGRAMS / program), *arguments]
            done = subprocess.run(command, cwd=folder, user=runs_as, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0, done.stdout.decode()

        data = str(folder / "data")
        run("initdb", "--pgdata", data, "--username", USER, "--auth", "trust", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -p {port}"
        run("pg_ctl", "start", "-D", data, "-w", "-o", options, "-l", str(folder / "log"))
        try:
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "dagster")
            yield port
        finally:
            run("pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
