"""Builds the site of README and docs into build/site: python -m docs.build_site.

The pages are laid out as in the repository, with the files that they link to, so that a link leads to the same place on
the site as on a code host. A link that leads nowhere ends it with 1: zensical looks for pages and headings, this for
files.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

PROJECT = Path(__file__).parents[1]
BUILD = PROJECT / "build"
# Pages, and what they link to.
LAID_OUT = (
    "CONTRIBUTING.md",
    "README.md",
    "docs",
    "examples",
    "experiments",
    "tests/model_types.json",
)


class _Links(HTMLParser):
    """The places that a page links to, or shows."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - as it is called
        """Keep what stands in href and src."""
        self.places.update(value for name, value in attrs if name in ("href", "src") and value)


def dead_links(site: Path) -> Iterator[str]:
    """Name each link of a built site that leads to no file of it, with its page."""
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # its links begin at the root of wherever it will lie
            continue
        links = _Links()
        links.feed(page.read_text(encoding="utf-8"))
        for place in sorted(links.places):
            parts = urlsplit(place)
            if not parts.scheme and parts.path and not (page.parent / unquote(parts.path)).is_file():
                yield f"{page.relative_to(site)}: {place} is not there; a folder is no page"


def build() -> int:
    """Lay the pages out and build the site; return 0, or 1 where a link leads nowhere."""
    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name in LAID_OUT:
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(
                PROJECT / name, place, ignore=shutil.ignore_patterns("__pycache__", "mkdocs.yml", "warehouse")
            )
        else:
            shutil.copy(PROJECT / name, place)
    configuration = shutil.copy(PROJECT / "docs" / "mkdocs.yml", BUILD)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", configuration]
    built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if built.returncode:
        # Behind what is wrong comes a trace of zensical's own.
        print((built.stdout + built.stderr).partition("Traceback")[0], file=sys.stderr)
        return 1
    dead = list(dead_links(BUILD / "site"))
    print("\n".join(dead) or BUILD / "site" / "index.html", file=sys.stderr if dead else sys.stdout)
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(build())
