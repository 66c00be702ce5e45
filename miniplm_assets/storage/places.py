"""Where results lie on this machine: in the folder of the warehouse; of one on an object store, copies of them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import StoreError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.storage.store import Store

CACHE_VARIABLE: Final = "MINIPLM_CACHE"
_NAME_CHARACTERS: Final = 40


def is_url(warehouse: str) -> bool:
    """Whether a warehouse is on an object store."""
    return "://" in warehouse


def local_folder(warehouse: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of a warehouse on this machine.

    Args:
        warehouse: a folder, or a URL.
        environment: `MINIPLM_CACHE` names the folder that holds the copies of all warehouses that are URLs; without
            it they are where the user's caches are.

    Raises:
        StoreError: if there is no such place for this user.
    """
    if not is_url(warehouse):
        return Path(warehouse)
    url = warehouse.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", url)[:_NAME_CHARACTERS]
    return _caches(environment) / f"{name}-{fingerprint_of(url)[:8]}"


def _caches(environment: Mapping[str, str]) -> Path:
    if environment.get(CACHE_VARIABLE):
        return Path(environment[CACHE_VARIABLE]).expanduser().absolute()
    try:
        home = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # of a user without a home, as in a container
        raise StoreError(f"there is no home for copies of the warehouse; set {CACHE_VARIABLE} to a folder") from None
    return home / "miniplm_assets" / "warehouses"


def open_store(warehouse: str) -> Store:
    """Open a warehouse: a folder, or a URL of an object store. Nothing is asked of that as yet."""
    if not is_url(warehouse):
        return Store(Path(warehouse))
    from miniplm_assets.storage.bucket.store import BucketStore

    return BucketStore(warehouse, local_folder(warehouse))
