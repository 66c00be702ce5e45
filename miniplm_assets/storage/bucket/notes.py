"""Small notes of a warehouse on an object store: objects that are changed by a put on the condition that nobody did."""

import json
from collections.abc import Callable
from typing import Any, Final

from miniplm_assets.storage.bucket.door import Bucket, Content
from miniplm_assets.storage.files import content_of_note, sealed_note

NOTES: Final = "notes"


class BucketNotes:
    """The notes of a warehouse on an object store; see `storage.notes.Notes`.

    Args:
        bucket: of the warehouse.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def read(self, name: str) -> Any:
        """Return a note; None where there is none, or it is damaged."""
        return _content_of(self._bucket.read(f"{NOTES}/{name}"))

    def change(self, name: str, change: Callable[[Any], Any]) -> bool:
        """Write a note in place of the one that is there; see `storage.notes.Notes`."""
        while True:
            there = self._bucket.read(f"{NOTES}/{name}")
            new = change(_content_of(there))
            if new is None:
                return False
            content = json.dumps(sealed_note(new)).encode()
            if there is None:
                version = self._bucket.create(f"{NOTES}/{name}", content)
            else:
                version = self._bucket.replace(f"{NOTES}/{name}", content, there.version)
            if version is not None:
                return True


def _content_of(there: Content | None) -> Any:
    return None if there is None else content_of_note(there.content)
