"""What a result is made of, and the fingerprint that follows from it.

A result is addressed by what goes *into* it, never by when or where it was computed: the fingerprint
hashes the fingerprints of its inputs, the settings that it reads and the code version of its step. It
is therefore known before anything runs, and the same question always finds the same answer.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

# 128 bits: no two results of any warehouse will ever meet by accident, and a folder name stays short.
FINGERPRINT_HEX_DIGITS = 32


def canonical_json(value: object) -> str:
    """Return one spelling of a JSON value: sorted keys, no white space, no NaN.

    Raises:
        TypeError: for a value that JSON does not have, such as a path or a set.
        ValueError: for NaN and infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint_of(value: object) -> str:
    """Return the fingerprint (32 hexadecimal digits) of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:FINGERPRINT_HEX_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one result is made.

    Attributes:
        key: the asset key, its parts joined by "/", for example ``teacher_scores/large``.
        code_version: raised whenever the step would give another result for the same input.
        settings: just those settings that the result depends on; JSON values.
        inputs: the fingerprint of each input, by the role that it plays.
        shard: the corpus file, where the result covers one file alone.
    """

    key: str
    code_version: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    shard: str | None = None

    @property
    def step(self) -> str:
        """The kind of result: the first part of the key. A result does not depend on its own name."""
        return self.key.partition("/")[0]

    @property
    def ingredients(self) -> dict[str, Any]:
        """Everything that the fingerprint hashes."""
        return {
            "step": self.step,
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
