"""The door to an object store: S3, Google Cloud Storage or Azure by the same few verbs, and errors in our words.

All that publishing and leases rest on is two conditional puts, which the stores themselves decide: one that succeeds
where there is no object of that name as yet, and one where the object is still the one that was read. A put whose
answer is lost on the way is tried again, and then refused because of itself: what is there is compared.

What a server or a client says of a failure may hold a key or a token. Nothing of it is shown but the status and the
server's own code.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from miniplm_assets.core.errors import StoreError, UnreachableStoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

T = TypeVar("T")
# What a store names a version of an object by: S3 and Azure by its ETag, Google by a number of its own.
Version = Mapping[str, str]
SCHEMES: Final = ("s3", "gs", "az")
# A request that a server does not answer, or answers with 5xx or "slow down", is tried again for so long.
PATIENCE: Final = timedelta(seconds=60)
# One request moves at most so much, so that a slow line needs no longer than its time limit, and memory stays small.
PIECE_BYTES: Final = 8 << 20
REQUEST_TIMEOUT: Final = timedelta(seconds=120)
_STATUS: Final = re.compile(r"status code: (\d{3})|(\d{3}) [A-Z][a-z]+")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
# What servers answer to a key or a token that is wrong or has run out, under whatever status.
_OF_CREDENTIALS: Final = re.compile(
    r"ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|RequestTimeTooSkewed"
    r"|AccessDenied|AuthenticationFailed|AuthorizationFailure"
)


@dataclass(frozen=True)
class Listed:
    """One object, as a listing has it: its name below the warehouse, its size, and when it was written there."""

    name: str
    num_bytes: int
    written_at: datetime


@dataclass(frozen=True)
class Content:
    """A small object: its bytes, what names this version of it, and when the server wrote it by its own clock."""

    content: bytes
    version: Version
    written_at: datetime


class Bucket:
    """The objects of one warehouse, by their names below it.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``; credentials, region and
            endpoint come from the environment, as the store's own client takes them.
        patience: for how long a request is tried again.
    """

    def __init__(self, url: str, patience: timedelta = PATIENCE) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        # Of an ETag in If-Match. Ceph's gateway (16.2) takes them for a part of it, and no version for the one named.
        self._takes_quotes = True

    def address(self, name: str) -> str:
        """Return where an object is, as messages show it."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> Content | None:
        """Return a small object; None where there is none.

        Raises:
            StoreError: if this user may not read it, or there is no such bucket.
            UnreachableStoreError: if the store does not answer.
        """
        import obstore

        def get() -> Content:
            got = obstore.get(self._store, name)
            return Content(bytes(got.bytes()), _version_of(got.meta), got.meta["last_modified"])

        return self._unless_missing("read", name, get)

    def size(self, name: str) -> int | None:
        """Return the bytes of an object; None where there is none."""
        import obstore

        try:
            return self._unless_missing("looked at", name, lambda: obstore.head(self._store, name)["size"])
        except UnreachableStoreError:
            # The answer to this request has no words, so that a key that ran out looks like any other fault: ask again.
            self._unless_missing("read", name, lambda: obstore.get_range(self._store, name, start=0, end=1))
            raise

    def create(self, name: str, content: bytes) -> Version | None:
        """Write a small object where there is none of that name; return its version, None where there is one."""
        return self._put_if(name, content, "create")

    def replace(self, name: str, content: bytes, version: Version) -> Version | None:
        """Write a small object in place of one version of it; return the new one, None where that is gone."""
        return self._put_if(name, content, dict(version))

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, whatever was there."""
        import obstore

        self._asked("written", name, lambda: obstore.put(self._store, name, content))

    def upload(self, name: str, path: Path) -> None:
        """Write a file, in parts where it is large; the object is there once all of them are.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        import obstore

        try:
            self._asked("written", name, lambda: obstore.put(self._store, name, path, chunk_size=PIECE_BYTES))
        except StoreError:
            path.stat()  # the client has the same word for a file and for a bucket that is not there
            raise

    def download(self, name: str, num_bytes: int, file: IO[bytes], on_piece: Callable[[bytes], object]) -> bool:
        """Read an object into a file, piece by piece.

        Args:
            name: of the object.
            num_bytes: that it has.
            file: takes them.
            on_piece: is given each piece, in their order.

        Returns:
            Whether it is there.
        """
        import obstore

        for start in range(0, num_bytes, PIECE_BYTES):
            end = min(start + PIECE_BYTES, num_bytes)

            def get(start: int = start, end: int = end) -> bytes:
                return bytes(obstore.get_range(self._store, name, start=start, end=end))

            piece = self._unless_missing("read", name, get)
            if piece is None:
                return False
            on_piece(piece)
            file.write(piece)
        return num_bytes > 0 or self.size(name) is not None

    def list(self, prefix: str) -> Iterator[Listed]:
        """Go through the objects whose names begin with a prefix, which ends with a slash."""
        import obstore

        def get() -> list[Listed]:
            found = (one for batch in obstore.list(self._store, prefix.rstrip("/")) for one in batch)
            return [Listed(one["path"], one["size"], one["last_modified"]) for one in found]

        yield from sorted(self._asked("listed", prefix, get), key=lambda one: one.name)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are gone already are no error."""
        import obstore

        for name in names:
            self._unless_missing("deleted", name, lambda name=name: obstore.delete(self._store, name))  # type: ignore[misc]

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        retry: RetryConfig = {
            "max_retries": 20,
            "retry_timeout": self._patience,
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
        }
        client: ClientConfig = {"timeout": REQUEST_TIMEOUT, "connect_timeout": timedelta(seconds=10)}
        if os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://"):
            client["allow_http"] = True  # whoever names such an endpoint wants it: a server of their own
        return self._asked("opened", "", lambda: from_url(self.url, client_options=client, retry_config=retry))

    def _put_if(self, name: str, content: bytes, mode: Any) -> Version | None:
        is_quoted = self._takes_quotes
        version = self._put_as(name, content, mode, is_quoted=is_quoted)
        if version is None:
            there = self.read(name)
            if there is not None and there.content == content:  # by this put, whose answer was lost
                return there.version
            if there is not None and there.version == mode:  # refused, though nobody has written since
                version = self._put_as(name, content, mode, is_quoted=not is_quoted)
                if version is not None:
                    self._takes_quotes = not is_quoted
        return version

    def _put_as(self, name: str, content: bytes, mode: Any, *, is_quoted: bool) -> Version | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        sent: Any = mode
        if mode != "create" and not is_quoted:
            sent = {key: value.strip('"') for key, value in mode.items()}

        def put() -> Version | None:
            try:
                return _version_of(obstore.put(self._store, name, content, mode=sent))
            except (AlreadyExistsError, PreconditionError):
                return None
            except (NotFoundError, FileNotFoundError):
                if mode == "create":
                    raise
                return None  # what was to be replaced is gone

        return self._asked("written", name, put)

    def _unless_missing(self, what: str, name: str, action: Callable[[], T]) -> T | None:
        from obstore.exceptions import NotFoundError

        def unless_missing() -> T | None:
            try:
                return action()
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                    raise
                return None

        return self._asked(what, name, unless_missing)

    def _asked(self, what: str, name: str, action: Callable[[], T]) -> T:
        """Do something with the store; a failure becomes an error of ours.

        Raises:
            StoreError: if the store refuses; says what to do.
            UnreachableStoreError: if it does not answer, or not as it should, for as long as it was tried again.
        """
        from obstore.exceptions import BaseError

        try:
            return action()
        except (BaseError, FileNotFoundError, PermissionError, ValueError, OSError) as error:
            if isinstance(error, StoreError) or getattr(error, "filename", None) is not None:
                raise  # of a local file, which a put reads or a download writes
            problem = error
        # Not in the clause: what the client says of it is no part of the new error.
        raise self._explained(what, name, type(problem).__name__, str(problem))

    def _explained(self, what: str, name: str, kind: str, words: str) -> StoreError:
        from_server = _CODE.search(words)
        status = _STATUS.search(words)
        code = from_server[1] if from_server else ""
        shown = " ".join(part for part in (next(filter(None, status.groups()), "") if status else "", code) if part)
        place = f"{self.address(name)} cannot be {what}"
        if _OF_CREDENTIALS.search(words) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
            return StoreError(
                f"{place}: the store refuses these credentials ({shown or kind}). Renew them, or give this user the "
                "rights to read, write, list and delete there; what is stored stays, and the work goes on where it "
                "stopped."
            )
        if "NoSuchBucket" in words or "ContainerNotFound" in words or kind in ("NotFoundError", "FileNotFoundError"):
            return StoreError(f"{place}: there is no such bucket ({shown or kind}). Make it, or correct `warehouse`.")
        if kind == "ValueError" or kind.startswith(("Unknown", "Invalid", "NotSupported")):
            return StoreError(f"{place}: the address or a setting of the environment is wrong ({kind}).")
        return UnreachableStoreError(
            f"{place}: the store does not answer as it should ({shown or kind}), tried for "
            f"{self._patience.total_seconds():.0f} s. What is stored stays; try again when it can be reached."
        )


def _version_of(meta: Mapping[str, Any]) -> Version:
    version = {name: str(meta[name]) for name in ("e_tag", "version") if meta.get(name)}
    if not version:
        raise StoreError("the object store tells the versions of an object not apart, so that two runs could not be")
    return version
