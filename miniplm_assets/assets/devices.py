"""The devices and the cores of this machine, shared out among the models that are trained or run at once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from miniplm_assets.assets.device_lock import is_free
from miniplm_assets.corpus.cores import NUM_THREADS

# CUDA's own: which devices a process sees, and in which order; by number, or by an id that no other device has.
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
# What libraries read as they are loaded: OpenMP, and with it torch; polars; tokenizers.
THREADS: Final = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", NUM_THREADS)
# All accelerators of a kind that CUDA does not know.
OTHERS: Final = "all"


def visible_devices() -> tuple[str, ...]:
    """Return the CUDA devices that this process sees, by the names that CUDA knows them by. It loads torch.

    Where two processes name one device differently, by its number and by its id, nobody knows that it is the same.
    """
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    names = map(str, range(count)) if named is None else map(str.strip, named.split(","))
    return tuple(names)[:count]


def may_see_several(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> bool:
    """Whether this process may see several CUDA devices; to ask takes no time, as loading torch does.

    Args:
        environment: of this process.
        devices: the folder of the system's devices.
    """
    named = environment.get(VISIBLE)
    return len(list(devices.glob("nvidia[0-9]*"))) > 1 if named is None else "," in named


@dataclass(frozen=True)
class Share:
    """What one model has of the machine.

    Attributes:
        devices: by name; none on a CPU.
        cores: it computes on no others; none where that is left to the system.
        num_threads: that libraries may start.
    """

    devices: tuple[str, ...]
    cores: tuple[int, ...]
    num_threads: int

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that has this share: this one's, but for what says how much there is."""
        given = os.environ
        threads = {name: str(min(self.num_threads, _number(given.get(name)) or self.num_threads)) for name in THREADS}
        return {**given, **threads, **({VISIBLE: ",".join(self.devices)} if self.devices else {})}


def _number(text: str | None) -> int | None:
    """Return how many threads a variable grants: OpenMP's may be a list, of which the first is meant."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else None


class Shares:
    """Deals out devices, or on a CPU cores, so that no two models have one at the same time.

    Attributes:
        at_once: how many models there may be: never more than devices, or on a CPU cores.
    """

    def __init__(self, models_at_once: int | Literal["auto"], *, devices: Sequence[str], cores: Sequence[int]) -> None:
        """Begin with nobody.

        Args:
            models_at_once: how many are wanted; see `Experiment`.
            devices: that there are; none on a CPU.
            cores: that this process may use.
        """
        wanted = (len(devices) or 1) if models_at_once == "auto" else models_at_once
        self.at_once = max(1, min(wanted, len(devices) or len(cores)))
        self._num_threads = max(1, len(cores) // self.at_once)
        self._devices = tuple(devices)
        self._cores = _split(cores, self.at_once)
        self._taken: list[Share] = []

    def take(self, num_devices: int) -> Share | None:
        """Return a share, first of devices that no other run has; None where too few are left.

        Args:
            num_devices: of one model, which gets all where it wants more than there are. On a CPU there is one to a
                model, whatever it wants.
        """
        if len(self._taken) == self.at_once:
            return None
        if self._devices:
            used = {device for share in self._taken for device in share.devices}
            free = sorted((device for device in self._devices if device not in used), key=_is_taken)
            wanted = min(num_devices, len(self._devices))
            share = Share(tuple(free[:wanted]), (), self._num_threads) if len(free) >= wanted else None
        else:
            cores = next(cores for cores in self._cores if all(cores != share.cores for share in self._taken))
            share = Share((), cores, self._num_threads)
        if share is not None:
            self._taken.append(share)
        return share

    def give_back(self, share: Share) -> None:
        """Let others have a share."""
        self._taken.remove(share)


def _is_taken(device: str) -> bool:
    return not is_free(device)


def _split(cores: Sequence[int], num_parts: int) -> list[tuple[int, ...]]:
    """Return parts of equal size, of neighbours; what is left over nobody has."""
    size = max(1, len(cores) // num_parts)
    return [tuple(cores[part * size : (part + 1) * size]) for part in range(num_parts)]
