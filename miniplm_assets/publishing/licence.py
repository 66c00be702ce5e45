"""The licence of what is published: whoever exports it may state one, and nobody else does."""

import re
from typing import Final

from miniplm_assets.core.errors import PublishingError

LICENCES: Final = "https://huggingface.co/docs/hub/repositories-licenses"
_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def require_license_id(license_id: str) -> None:
    """Make sure that a licence is named as the hub names them; whether it knows that one, it says itself.

    Raises:
        PublishingError: if it is not.
    """
    if not _ID.fullmatch(license_id):
        raise PublishingError(
            f"--license {license_id!r} is no identifier of a licence, which has lower-case letters, digits, dots and "
            f"dashes, such as apache-2.0; they are listed at {LICENCES}"
        )


def licence_section(license_id: str | None) -> str:
    """Return what a card says of the licence."""
    if license_id is not None:
        return f"## Licence\n\n`{license_id}`, as stated by whoever exported this."
    return (
        "## Licence\n\nNo licence is stated, so that nobody has been given any right to use this. Whoever holds the "
        f"rights may state one in the field `license` at the top of this file ([identifiers]({LICENCES})). The rights "
        "of others in the texts and models behind it are not touched by that."
    )
