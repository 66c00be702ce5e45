"""What a result is made of, and the fingerprint that follows from it.

A result is addressed by what goes *into* it, never by when or where it was computed: the fingerprint
hashes the fingerprints of its inputs, the settings that it reads and the code version of its kind. It
is therefore known before anything runs, and the same question always finds the same answer.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

# 128 bits: no two results of any warehouse will ever meet by accident, and a folder name stays short.
FINGERPRINT_HEX_DIGITS = 32
# Made once: `json.dumps` with settings of its own makes one for each value.
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: object) -> str:
    """Return one spelling of a JSON value: sorted keys, no white space, no NaN.

    Raises:
        TypeError: for a value that JSON does not have, such as a path or a set.
        ValueError: for NaN and infinity.
    """
    return _ENCODER.encode(value)


def fingerprint_of(value: object) -> str:
    """Return the fingerprint (32 hexadecimal digits) of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:FINGERPRINT_HEX_DIGITS]


def key_of(kind: str, *names: str) -> str:
    """Return an asset key, its parts joined by "/": the names, then the kind, for example ``large/teacher_scores``.

    The UI labels an asset with the last part of its key, so that part says what it is.
    """
    return "/".join([*names, kind])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one result is made. Its name is not in the fingerprint: the same result under another name is the same.

    Attributes:
        kind: what it is, for example ``teacher_scores``.
        code_version: raised whenever the kind would give another result for the same input.
        names: what the experiment file calls it; none for an asset that there is only one of.
        settings: just those settings that the result depends on; JSON values.
        inputs: the fingerprint of each input, by the role that it plays.
        shard: the corpus file, where the result covers one file alone.
    """

    kind: str
    code_version: str
    names: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    shard: str | None = None

    @property
    def key(self) -> str:
        """The asset key; see `key_of`."""
        return key_of(self.kind, *self.names)

    @property
    def ingredients(self) -> dict[str, Any]:
        """Everything that the fingerprint hashes."""
        return {
            "kind": self.kind,
            "code_version": self.code_version,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "shard": self.shard,
        }

    @cached_property
    def fingerprint(self) -> str:
        """The address of the result."""
        return fingerprint_of(self.ingredients)

    def describe(self) -> str:
        """Return the name that messages use."""
        return self.key if self.shard is None else f"{self.key} (shard {self.shard})"
