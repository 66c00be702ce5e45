"""What is installed is pinned: the versions, and the hash of every file but torch's."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def test_every_pinned_version_but_that_of_torch_has_hashes() -> None:
    constraints = dict(PIN.findall((PROJECT / "constraints.txt").read_text(encoding="utf-8")))
    hashes = (PROJECT / "hashes.txt").read_text(encoding="utf-8")
    hashed = dict(PIN.findall(hashes))
    assert constraints.pop("torch")

    def in_one_spelling(pins: dict[str, str]) -> dict[str, str]:
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}

    assert in_one_spelling(hashed) == in_one_spelling(constraints)
    entries = PIN.split(hashes)[3::3]
    assert len(entries) == len(hashed)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_what_builds_the_package_is_one_version() -> None:
    build = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert build and all(re.fullmatch(r"[a-z]+==[0-9.]+", requirement) for requirement in build)
