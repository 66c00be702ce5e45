"""The page: blocks set as HTML. Whatever the blocks hold is text, and stays text."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from miniplm_assets.core.glossary import words_of
from miniplm_assets.evaluation.report.blocks import Bars, Number, Report
from miniplm_assets.evaluation.report.characters import visible

TEMPLATES: Final = Path(__file__).parent


def render(report: Report) -> str:
    """Return a report as one HTML page that loads nothing."""
    return _environment().get_template("report.html.j2").render(report=report)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["anchor"] = _anchor
    environment.filters["prose"] = _prose
    environment.filters["meanings"] = lambda page: words_of(Markup(page).striptags())  # noqa: S704 - is read, not shown
    environment.tests["number"] = lambda cell: isinstance(cell, Number)
    environment.tests["bars"] = lambda cell: isinstance(cell, Bars)
    return environment


def _finalize(value: Any) -> Any:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(value)


def _prose(text: str) -> Markup:
    """Return words in which what stands between backticks is to be written as it stands."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))  # noqa: S704 - escaped before


def _anchor(title: str) -> str:
    """Return a heading as the end of a link to it."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
