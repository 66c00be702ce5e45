"""Run by `launcher`, not imported: one of the processes that train a model together."""

import json
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, NoReturn

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.core.progressed import Progressed
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.lm.engine_process import Sender, end_with
from miniplm_assets.storage.curves import Curves, NoCurves
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.launch import HERE, error_message
from miniplm_assets.training.processes import brought_together
from miniplm_assets.training.train import train_in_this_process


class ToldCurves(Curves):
    """Curves that another process draws.

    Args:
        told: what takes the messages.
    """

    def __init__(self, told: Sender) -> None:
        self._told = told

    def begin(self, first_step: int) -> None:
        """Let what an earlier try has said of this step, and of those after it, be forgotten."""
        self._told.send({"begin": first_step})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step, by the name of their curve."""
        self._told.send({"step": step, "values": {name: float(value) for name, value in values.items()}})


def _work(job_file: str) -> None:
    """Train, and tell how it ends."""
    # Its own folder for temporary files is the launcher's, which goes with the launcher.
    end_with(os.getppid(), Path(tempfile.mkdtemp()))
    content = json.loads(Path(job_file).read_text())
    connection = Client((HERE, content["port"]), authkey=bytes.fromhex(content["key"]))
    told, stop = Sender(connection), Stop()
    threading.Thread(target=_listen, args=(connection.recv_bytes, stop), daemon=True).start()
    rank = int(os.environ["RANK"])
    try:
        with brought_together() as processes:
            facts = train_in_this_process(
                TrainingJob.from_json(content["job"]),
                work=Path(content["work"]),
                target=Path(content["target"]),
                report=lambda line: _report(told, line) if processes.is_first else None,
                stop=stop,
                curves=ToldCurves(told) if processes.is_first else NoCurves(),
                processes=processes,
            )
        ending: Mapping[str, Any] = {"facts": facts}
    except Stopped:
        ending = {"stopped": True}
    except MiniplmError as error:
        told.send(error_message(error))
        _give_up()
    except Exception as error:  # noqa: BLE001 - the launcher hears of it, and the process ends
        traceback.print_exc()
        told.send({"failed": f"process {rank} failed: {type(error).__name__}: {error}"})
        _give_up()
    if rank == 0:
        told.send(ending)


def _give_up() -> NoReturn:
    """End at once: what torch has under way with the other processes would not end by itself."""
    sys.stderr.flush()
    os._exit(1)


def _listen(receive: Callable[[], bytes], stop: Stop) -> None:
    """Note that the run is told to stop: the training looks after each step."""
    try:
        while True:
            if "stop" in json.loads(receive()):
                stop.is_asked = True
    except (EOFError, OSError):  # the launcher is gone, which ends this process
        return


def _report(told: Sender, line: str) -> None:
    more = {"done": line.done, "total": line.total} if isinstance(line, Progressed) else {}
    told.send({"line": str(line), **more})


if __name__ == "__main__":
    _work(*sys.argv[1:])
