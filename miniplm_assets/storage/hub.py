"""Downloading from the Hugging Face hub, and which failures of a network may pass."""

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import ModelError, UnreachableModelError

_TIMED_OUT: Final = 408
_TOO_MANY_REQUESTS: Final = 429
_SERVER_FAILED: Final = 500


def download(what: str, *, repository: str, revision: str, patterns: Sequence[str], folder: Path | None) -> Path:
    """Download the files of a repository that match one of the patterns, and return their folder.

    Args:
        what: model or tokenizer, for messages.
        repository: its id on the hub.
        revision: the commit.
        patterns: glob patterns of the files.
        folder: where they go; None for the hub's own cache, which also serves without a network.

    Raises:
        ModelError: if the hub has no such repository or commit, or it may not be read.
        UnreachableModelError: if the hub cannot be reached.
        OSError: if the disk is full.
    """
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=list(patterns), local_dir=folder)
    except Exception as error:  # the hub's client, and the libraries below it, raise errors of many kinds
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        kind = UnreachableModelError if may_pass(error) else ModelError
        raise kind(
            f"{what} {repository} at revision {revision} cannot be downloaded ({type(error).__name__}: {error}). Check "
            f"the id, the revision and the network. Without a network, fetch it elsewhere (hf download {repository} "
            f"--revision {revision} --local-dir <folder>) and use source: folder."
        ) from error
    if folder is not None:
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub's own notes on the download
    return Path(found)


def may_pass(error: Exception) -> bool:
    """Whether an error of a remote file is one of a network or a server, not of what it was asked for."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):  # the hub is out of reach, and there is no copy
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status in (_TIMED_OUT, _TOO_MANY_REQUESTS) or status >= _SERVER_FAILED
    # Clients of remote stores have errors of their own for a lost connection; a ValueError is a name that cannot be.
    return not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | ValueError | ImportError)
