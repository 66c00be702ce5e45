"""Training by several processes, started and watched by the process that makes the asset.

    this process   starts, reports what it is told, passes a request to stop on, ends all of them if it must
    launcher       torchrun's agent, in a session of its own: starts a process for each device; one lost ends all
    worker         trains its share of each step; the first of them writes checkpoints and the result, and reports

All that is handed over is JSON, by paths. Whatever ends the workers, the folder of the run holds the last checkpoint,
from which any number of processes goes on.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from miniplm_assets.core import errors
from miniplm_assets.core.errors import MiniplmError, TrainingError
from miniplm_assets.core.progressed import Progressed
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment.models import Training
from miniplm_assets.experiment.objectives import MiniLlm
from miniplm_assets.lm.engine_process import EngineFailure, EngineProcess
from miniplm_assets.storage.curves import Curves
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.nodes import SILENCE_SECONDS, Launchers, start_launcher

# How soon a request to stop is passed on.
POLL_SECONDS: Final = 0.2
HERE: Final = "127.0.0.1"


def train_by_processes(
    job: TrainingJob, *, work: Path, target: Path, report: Callable[[str], None], stop: Stop, curves: Curves
) -> dict[str, Any]:
    """Train a model by several processes; as `train_language_model`, whose arguments these are.

    Raises:
        TrainingError: if the machine, or the cluster, has too few devices, or a process is lost.
    """
    for problem in parallelism_problems(job.training, job.objective):
        raise TrainingError(f"{job.name}: {problem}")
    message = {"job": job.to_json(), "work": str(work), "target": str(target)}
    process: EngineProcess | Launchers
    if job.training.num_nodes > 1:
        process = Launchers(message, job.training, name=job.name, report=report, stop=stop)
    else:
        require_devices(job.training.num_processes, name=job.name)
        process = start_launcher(message, job.training.num_processes)
    try:
        with stop.held():  # the workers look after each step
            facts = follow(process, report=report, stop=stop, curves=curves)
    except EngineFailure as failure:
        process.end(patience_seconds=0)
        raise TrainingError(
            f"{job.name}: {failure}\nThe last checkpoint is kept; run again to go on from there, by any number of "
            "processes"
        ) from None
    except BaseException:
        process.end(patience_seconds=0)
        raise
    process.end()
    return facts


def parallelism_problems(training: Training, objective: Any) -> Iterator[str]:
    """Say why a model cannot be trained as the settings ask for, if it cannot: whatever the machine has.

    Args:
        training: how many processes, and what each holds.
        objective: settings of the loss.
    """
    if training.num_processes > 1 and training.parallelism == "fsdp" and isinstance(objective, MiniLlm):
        yield (
            "training.parallelism fsdp gathers each layer in all processes at once, and objective minillm reads texts "
            "of different lengths a token at a time in each; set parallelism to ddp"
        )


def require_devices(num_processes: int, *, name: str) -> None:
    """Make sure that there is a device for each process, or that all share a CPU.

    Raises:
        TrainingError: if not.
    """
    import torch

    if not torch.accelerator.is_available():
        return
    kind = torch.accelerator.current_accelerator()
    if kind is None or kind.type != "cuda":
        raise TrainingError(
            f"{name}: training.num_processes is {num_processes}, which takes CUDA devices or a CPU alone, and this "
            f"machine has {kind}; set it to 1"
        )
    found = torch.cuda.device_count()
    if found < num_processes:
        raise TrainingError(
            f"{name}: training.num_processes is {num_processes}, and this machine has {found} "
            f"{'device' if found == 1 else 'devices'} to train on; lower it to {found} (the result stays the same to "
            "rounding), or make more of them visible"
        )


def follow(
    process: "EngineProcess | Launchers", *, report: Callable[[str], None], stop: Stop, curves: Curves
) -> dict[str, Any]:
    """Return the facts that the workers end with; hand on what they report, and the request to stop.

    Raises:
        EngineFailure: if the launcher or a worker is lost.
        MiniplmError: as a worker raised it.
        Stopped: if they have put their work down.
    """
    is_told = False
    while True:
        if stop.is_asked and not is_told:
            process.send({"stop": True})
            is_told = True
        if not process.has_message(POLL_SECONDS):
            continue
        match process.receive(silence_seconds=SILENCE_SECONDS):
            case {"line": str(line), "done": int(done), "total": int(total)}:
                report(Progressed(line, done=done, total=total))
            case {"line": str(line)}:
                report(line)
            case {"begin": int(step)}:
                curves.begin(step)
            case {"step": int(step), "values": dict(values)}:
                curves.add(step, values)
            case {"error": str(kind), "message": str(text)}:
                _raise(kind, text)
            case {"stopped": _}:
                raise Stopped
            case {"facts": dict(facts)}:
                return facts
            case message:
                raise AssertionError(f"no worker says {message}")


def _raise(kind: str, text: str) -> NoReturn:
    found: type[MiniplmError] = getattr(errors, kind)
    raise found(text)


def error_message(error: MiniplmError) -> Mapping[str, str]:
    """Return an error as a message, of its class or the nearest that `core.errors` has."""
    kind = next(one.__name__ for one in type(error).__mro__ if hasattr(errors, one.__name__))
    return {"error": kind, "message": str(error)}
