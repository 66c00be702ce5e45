"""Telling somebody who is not looking: an e-mail, a chat, a webhook, by apprise. Off unless an experiment asks for it.

The URLs of apprise hold passwords and tokens: they stand in the environment alone, and are in no message, log or error.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from miniplm_assets.core.errors import ExperimentError

MAX_CHARACTERS: Final = 1_500
# What they log, at DEBUG too, has the URL, or its path.
_LOGGERS: Final = ("apprise", "urllib3", "requests")


class NotToldError(RuntimeError):
    """A message was not taken by those to whom it was sent."""


def require_messages(variables: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Make sure that messages can be sent, before a run that is to send one.

    Args:
        variables: of the environment, each with URLs of apprise, parted by blanks.
        environment: with their values.

    Raises:
        ExperimentError: if a variable is not set, or apprise is not installed or does not know a URL.
    """
    if variables and importlib.util.find_spec("apprise") is None:
        raise ExperimentError(
            "automation.on_failure: apprise is not installed here; run: pip install 'miniplm_assets[messages]' (or "
            "take the setting out)"
        )
    for variable in variables:
        urls = environment.get(variable, "").split()
        if not urls:
            raise ExperimentError(
                f"automation.on_failure: the environment variable {variable} is not set here; set it to URLs of "
                "apprise, such as mailtos://user:password@host or json://host/path, or take it out of the file"
            )
        for place, url in enumerate(urls, start=1):
            if not _is_known(url):
                raise ExperimentError(
                    f"automation.on_failure: number {place} of the URLs in {variable} is none that apprise knows (it "
                    "is not shown here, since it may hold a password); python -m apprise --help lists the services"
                )


def send(variables: Sequence[str], *, title: str, text: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a message to every URL.

    Args:
        variables: as `require_messages` has them.
        title: a line.
        text: of which `MAX_CHARACTERS` are sent.
        environment: with their values.

    Raises:
        NotToldError: if one did not take it; the others have got it.
    """
    shown = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} …"
    refused = [
        f"number {place} in {variable}"
        for variable in variables
        for place, url in enumerate(environment.get(variable, "").split(), start=1)
        if not _is_taken(url, title, shown)
    ]
    if refused:
        raise NotToldError(f"the message was not taken by {', '.join(refused)}")


def _is_known(url: str) -> bool:
    import apprise

    with _silence():
        return bool(apprise.Apprise().add(url))


def _is_taken(url: str, title: str, text: str) -> bool:
    import apprise

    with _silence():
        service = apprise.Apprise()
        return bool(service.add(url) and service.notify(title=title, body=text, body_format=apprise.NotifyFormat.TEXT))


@contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
