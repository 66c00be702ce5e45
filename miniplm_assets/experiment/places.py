"""Paths and URLs of an experiment file: made absolute, and refused where they would mean something else in silence."""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_VARIABLE: Final = re.compile(r"\$(\w+|\{[^}]*\})")
_SECRET_PARAMETER: Final = re.compile(r"sig|token|secret|passw|pwd|credential|auth|key", re.IGNORECASE)
OBJECT_STORES: Final = ("s3", "gs", "az")
# What every store and file system takes as it stands.
_PREFIX: Final = re.compile(r"[\w.=-]+(/[\w.=-]+)*/?", re.ASCII)
_MAX_CHARACTERS: Final = 1_000


def place_of(text: str, folder: Path, *, is_warehouse: bool) -> str:
    """Return a URL as it stands, or the absolute form of a path.

    Args:
        text: as the file has it; ``~`` and ``$VARIABLE`` in a path are expanded.
        folder: what a relative path is relative to.
        is_warehouse: whether it is where results are written.

    Raises:
        ValueError: if it is empty or too long, a variable is not set, a URL holds a secret, or the place cannot be a
            warehouse.
    """
    if "://" in text:
        if secret_in(text):
            raise ValueError(
                "holds a user, a password, a key or a signature, which would be stored with every result. Leave it out "
                "here; give it in the environment or the configuration file of fsspec (FSSPEC_<PROTOCOL>_<OPTION>), or "
                "in that of the store's own client (AWS_ACCESS_KEY_ID, HF_TOKEN ...)"
            )
        if is_warehouse:
            _require_object_store(text)
        return text
    if not text.strip() or "\0" in text or len(text) > _MAX_CHARACTERS:
        raise ValueError(f"{text[:40]!r} is no path: empty, longer than {_MAX_CHARACTERS:,} characters, or with a NUL")
    expanded = _VARIABLE.sub(_value_of_variable, text)
    place = os.path.expanduser(expanded)  # noqa: PTH111 - of ./~x, pathlib would ask for the home of a user x
    if expanded.startswith("~") and place == expanded:
        raise ValueError(f"{text}: there is no such user; write ./{text} for a name that begins with ~")
    absolute = Path(os.path.normpath(folder / place))
    if is_warehouse:
        _require_place_for_warehouse(absolute)
    return str(absolute)


def _require_object_store(url: str) -> None:
    scheme, _, place = url.partition("://")
    if scheme not in OBJECT_STORES:
        raise ValueError(
            f"{url} is no place for a warehouse: that is a folder, or a prefix of an object store "
            f"({', '.join(f'{known}://bucket/prefix' for known in OBJECT_STORES)})"
        )
    if not _PREFIX.fullmatch(place) or {".", ".."} & set(place.split("/")):
        raise ValueError(
            f"{url}: name a bucket and a prefix in it by letters, digits and . _ - =, as in {scheme}://bucket/warehouse"
        )


def secret_in(text: str) -> bool:
    """Whether a URL holds what should not be stored: a user, a password, a key, a token or a signature."""
    for url in text.split("::"):
        try:
            parts = urlsplit(url)
            parameters = parse_qsl(parts.query)
        except ValueError:  # no URL; whoever opens it says so
            continue
        if "@" in parts.netloc or any(_SECRET_PARAMETER.search(name) for name, _ in parameters):
            return True
    return False


def _value_of_variable(match: re.Match[str]) -> str:
    name = match[1].strip("{}")
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"{match[0]} is an environment variable that is not set; set it, or write the path out")
    return value


def _require_place_for_warehouse(place: Path) -> None:
    if place == Path(place.anchor):
        raise ValueError(f"{place} is the root of the file system; name a folder for the warehouse")
    if "?" in str(place):
        raise ValueError(f"{place}: DuckDB takes what follows a ? in the path of a database for options; rename it")
    existing = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not existing.is_dir():
        what = "is a file" if existing == place else f"lies below {existing}, which is no folder"
        raise ValueError(f"{place} {what}; name a folder for the warehouse, it is made when it is needed")
