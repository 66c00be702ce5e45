"""Files that a training run makes for itself, and finds again after a crash: whole and undamaged, or made anew."""

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from miniplm_assets.storage.files import flush_to_disk, read_note, sha256_of, write_note

CONTENTS: Final = "contents.json"


def keep_files(
    folder: Path,
    names: Collection[str],
    *,
    data: Mapping[str, Any],
    write: Callable[[], Mapping[str, Any] | None],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Make sure that a folder holds the files of some data, byte for byte as they were written.

    Args:
        folder: where they lie; what it holds of other data is replaced.
        names: of the files.
        data: JSON values that tell these data from others.
        write: makes the files in the folder, which is empty then; may return JSON values to be kept with them.
        report: told where what an earlier run left is damaged, and made anew.

    Returns:
        What `write` returned when the files were made.
    """
    contents = read_note(folder / CONTENTS)
    if contents is not None and _is_of(contents, names, data) and _is_whole(folder, contents, report):
        return dict(contents["facts"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = dict(write() or {})
    for name in names:
        flush_to_disk(folder / name)
    checksums = {name: sha256_of(folder / name) for name in names}
    write_note(folder / CONTENTS, {"data": dict(data), "facts": facts, "sha256": checksums})
    return facts


def _is_of(contents: Mapping[str, Any], names: Collection[str], data: Mapping[str, Any]) -> bool:
    if contents.keys() != {"data", "facts", "sha256"}:
        return False
    return bool(contents["data"] == data and contents["sha256"].keys() == set(names))


def _is_whole(folder: Path, contents: Mapping[str, Any], report: Callable[[str], None]) -> bool:
    try:
        damaged = [name for name, digest in contents["sha256"].items() if sha256_of(folder / name) != digest]
    except OSError as error:
        damaged = [str(error)]
    if damaged:
        report(f"{folder} is damaged ({', '.join(damaged)}) and is made anew")
    return not damaged
