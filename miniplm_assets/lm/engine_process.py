"""A helper process of our own, that cannot outlive, hang or silently lose its owner.

An inference engine starts processes of its own, changes the environment and handles signals. All of that
happens in a child in a session of its own, which this module starts, talks to and ends:

- The child watches its parent and ends the whole session when the parent is gone, even by kill -9.
- The parent ends the whole session when the child is gone, fails, or says nothing for too long.
- What the child and its children print goes to a log file, from which a failure quotes its cause.
- What they leave in the folder for temporary files, such as sockets, goes with them: that folder is theirs alone.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Final

import miniplm_assets

PARENT_POLL_SECONDS: Final = 1.0
# A graceful end takes vLLM about 3 seconds; what is left after that is killed.
END_SECONDS: Final = 20.0
# An engine prints its own traceback first, and then those of everybody who was waiting for it.
CAUSE: Final = re.compile(r"\b(?:\w+\.)*(?:\w+Error|\w+Exception)\b: .*")
# Whose engines warn of much that is harmless, and as they end most of all: Python's loggers and warnings, and glog.
HARMLESS: Final = re.compile(
    r"\b(?:DEBUG|INFO|WARNING|\w*Warning)\b|^\s*(?:\[\w+\]:)?\[?[IW]\d{4} |^\s*warnings\.warn\("
)
LAST_LOG_LINES: Final = 15


class EngineFailure(Exception):  # noqa: N818 - what the caller turns into an error for people
    """The helper process failed, ended or fell silent; the text says how."""


class Sender:
    """The sending half of a connection, for any thread: a message and the bytes behind it stay together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, Any], payload: bytes | None = None, *, patience_seconds: float = -1) -> None:
        """Send a message, and behind it bytes.

        Args:
            message: JSON values.
            payload: bytes.
            patience_seconds: how long to wait for another thread's message to be read; for ever where negative.

        Raises:
            OSError: if the other side is gone, or does not read.
        """
        if not self._lock.acquire(timeout=patience_seconds):
            raise TimeoutError(f"the other side has read nothing for {patience_seconds:,.0f} seconds")
        try:
            self._connection.send_bytes(json.dumps(message).encode())
            if payload is not None:
                self._connection.send_bytes(payload)
        finally:
            self._lock.release()


class EngineProcess:
    """The parent's side. Any thread may send; one at a time receives."""

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any],
        *,
        environment: Mapping[str, str],
        called: str = "the engine",
        is_heard: bool = False,
    ) -> None:
        """Start `python -m module` with `settings` as its first message.

        Args:
            module: a module whose main calls `serve`.
            settings: JSON values.
            environment: the child's whole environment.
            called: what messages call it.
            is_heard: whether what it prints is printed here, and its temporary files lie with those of this process.
        """
        self._called = called
        self._folder = Path(tempfile.mkdtemp(prefix="miniplm-engine-"))  # for this user's eyes alone
        self._log = self._folder / "engine.log"
        self._is_ending = self._is_killed = False
        self._is_heard = is_heard
        self._connection, theirs = Pipe()
        self._sender = Sender(self._connection)
        # The package as it is here, wherever the child looks for modules.
        package_root = str(Path(miniplm_assets.__file__).parents[1])
        search_path = os.pathsep.join(filter(None, [package_root, environment.get("PYTHONPATH")]))
        own = {} if is_heard else {"TMPDIR": str(self._temporary_folder())}
        with theirs, self._log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid()), str(self._folder)],
                env={**environment, "PYTHONPATH": search_path, **own},
                stdin=subprocess.DEVNULL,
                stdout=None if is_heard else output,
                stderr=None if is_heard else subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.send(settings)

    def _temporary_folder(self) -> Path:
        folder = self._folder / "tmp"
        folder.mkdir()
        return folder

    def send(self, message: Mapping[str, Any], payload: bytes | None = None) -> None:
        """Send a message, and behind it bytes.

        Raises:
            EngineFailure: if the process has ended.
        """
        try:
            self._sender.send(message, payload)
        except OSError:
            raise self._gone() from None

    def has_message(self, seconds: float) -> bool:
        """Wait this long at most for a message, or the end of the process; return whether there is one."""
        return self._connection.poll(seconds)

    def receive(self, *, silence_seconds: float) -> dict[str, Any]:
        """Return the next message.

        Args:
            silence_seconds: without a message for this long, the process counts as hung.

        Raises:
            EngineFailure: if the process reports a failure, has ended or is silent.
        """
        try:
            if not self._connection.poll(silence_seconds):
                raise self._failure("was ended", f"it has said nothing for {silence_seconds:,.0f} seconds")
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._gone() from None
        if "failed" in message:
            raise self._failure("failed", message["failed"], is_explained=True)
        return message

    def receive_bytes(self) -> bytes:
        """Return the bytes behind the last message.

        Raises:
            EngineFailure: if the process has ended.
        """
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._gone() from None

    @property
    def connection(self) -> Connection:
        """What its messages come by: for whoever waits for several processes."""
        return self._connection

    def interrupt(self) -> None:
        """Ask the child, and nobody that it started, to put down what it does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    @property
    def session(self) -> int:
        """The session, and process group, that holds the child and all that it starts."""
        return self._process.pid

    def end(self, *, patience_seconds: float = END_SECONDS) -> None:
        """End the process and all that it started; gracefully where it listens within this time."""
        if self._is_killed:  # after a failure, whose log stays
            return
        self._is_ending = True
        with contextlib.suppress(OSError):
            self._sender.send({"end": True}, patience_seconds=patience_seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_seconds)
        self._kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        if self._is_killed:  # one thread ends it while another waits for its answer
            return
        self._is_killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.session, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + END_SECONDS
        while self._is_running() and time.monotonic() < deadline:  # until the device's memory is free again
            time.sleep(0.05)
        self._connection.close()
        shutil.rmtree(self._folder / "tmp", ignore_errors=True)

    def _is_running(self) -> bool:
        try:
            os.killpg(self.session, 0)
        except ProcessLookupError:
            return False
        return True

    def _gone(self) -> EngineFailure:
        if not self._is_ending:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its connection goes a moment before
                self._process.wait(PARENT_POLL_SECONDS)
        status = self._process.poll()
        # Nothing that it printed explains a kill.
        return self._failure("has ended", how_it_ended(status), is_explained=status == -signal.SIGKILL)

    def _failure(self, how: str, reason: str, *, is_explained: bool = False) -> EngineFailure:
        """End the process and return what is to be raised.

        Args:
            how: it came to this.
            reason: for that.
            is_explained: whether the reason says enough where it printed no cause; else its last lines may say more.
        """
        if self._is_ending:  # by another thread, which sees to the process and its log
            return EngineFailure(f"{self._called} has ended, as it was told to")
        self._kill()
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        lines = [line for line in lines if line.strip() and not HARMLESS.search(line)]
        causes = [found.group() for line in lines if (found := CAUSE.search(line))]
        quoted = causes[:1] or ([] if is_explained else lines[-LAST_LOG_LINES:])
        printed = "; it printed:\n" + "\n".join(quoted) if quoted else ""
        if self._is_heard:  # nothing is in its log
            shutil.rmtree(self._folder, ignore_errors=True)
            return EngineFailure(f"{self._called} {how}: {reason}")
        return EngineFailure(f"{self._called} {how}: {reason}{printed}\nIts whole log: {self._log}")


def serve(answer: Callable[[Connection, dict[str, Any]], None]) -> None:
    """Be the child: answer until the parent says the end. The process's arguments are those `EngineProcess` gave.

    Args:
        answer: takes the connection and the settings, and works until the parent sends ``{"end": true}``.
    """
    descriptor, parent, folder = sys.argv[1:]
    end_with(int(parent), Path(folder))
    connection = Connection(int(descriptor))
    try:
        answer(connection, json.loads(connection.recv_bytes()))
    except Exception as error:  # noqa: BLE001 - the parent hears of it, and the process ends
        traceback.print_exc()
        sys.stderr.flush()
        try:
            connection.send_bytes(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
        except OSError:  # the parent is gone
            shutil.rmtree(folder, ignore_errors=True)
        _kill_session()  # nobody else may be left to do it


def end_with(parent: int, folder: Path) -> None:
    """End this process's session, and remove a folder, once its parent is gone.

    Args:
        parent: its process.
        folder: of the session.
    """
    threading.Thread(target=_end_with_parent, args=(parent, folder), daemon=True).start()


def _end_with_parent(parent: int, folder: Path) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    _kill_session()


def _kill_session() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def how_it_ended(status: int | None) -> str:
    """Say what the exit status of a process means, negative where a signal ended it, None where nobody knows it."""
    if status is None or status >= 0:
        return f"exit status {'unknown' if status is None else status}"
    name = signal.Signals(-status).name
    return f"{name} ended it" + (", as a machine does that is out of memory" if -status == signal.SIGKILL else "")
