"""Sending a folder to the Hugging Face hub."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import PublishingError

TOKEN_VARIABLE: Final = "HF_TOKEN"  # noqa: S105 - the name of it

RepositoryType = Literal["model", "dataset"]
# What an earlier export may have left there under other names, and would be read with the new: the rest stays.
STALE: Final[dict[RepositoryType, list[str]]] = {
    "model": ["*.safetensors", "*.safetensors.index.json"],
    "dataset": ["data/*.parquet"],
}


def token_in(environment: Mapping[str, str]) -> str:
    """Return the token of the hub, from the environment alone.

    Raises:
        PublishingError: if there is none.
    """
    token = environment.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise PublishingError(
            f"--push needs a token of the hub, and {TOKEN_VARIABLE} is not set; nothing was written. Make one that may "
            f"write at https://huggingface.co/settings/tokens and set {TOKEN_VARIABLE} to it, or export without --push"
        )
    return token


def require_repository_id(repository: str) -> None:
    """Make sure that a name can be that of a repository.

    Raises:
        PublishingError: if it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise PublishingError(
            f"--push {repository}: no name of a repository ({cause_of(error)}); expected <user or organisation>/<name>"
        ) from None


def push(folder: Path, *, repository: str, kind: RepositoryType, token: str) -> str:
    """Send a folder to a repository of the hub, in one commit; return its address.

    A repository that is not there is made, and is private: whoever owns it makes it public.

    Args:
        folder: complete.
        repository: its id.
        kind: of the repository.
        token: that may write there; it goes to the hub, and into no message and no file.

    Raises:
        PublishingError: if the hub does not take it; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        made = api.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            repo_type=kind,
            commit_message="Export by miniplm_assets",
            delete_patterns=STALE[kind],
        )
    except Exception as error:  # noqa: BLE001 - the hub's client, and the libraries below it, raise errors of many kinds
        cause = type(error).__name__ if token in str(error) else cause_of(error)
    else:
        return str(made)
    # Not while the error is handled: it would hang on ours, and its request holds the token.
    raise PublishingError(
        f"{folder} is complete, and the hub did not take it as {kind} {repository} ({cause}). Check the name, what the "
        f"token in {TOKEN_VARIABLE} may do, and the network; then send the folder again: hf upload {repository} "
        f"{shlex.quote(str(folder))} . --repo-type {kind}"
    )
