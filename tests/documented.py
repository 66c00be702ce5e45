"""What README and docs tell a reader to type or to write: their blocks, told apart by what they are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from miniplm_assets.kinds.registry import PROJECT

PAGES = (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md")))


@dataclass(frozen=True)
class Block:
    """A block of a page that is no prose.

    Attributes:
        language: of a fenced one, as it is named; of an indented one "shell", "yaml" or "folders", by its first line.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced and the indented blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        begin = number
        if fence := re.match(r" *```(\w*)", lines[number]):
            number += 1
            while not lines[number].lstrip().startswith("```"):
                number += 1
            yield Block(page, begin + 2, fence[1] or "none", "\n".join(lines[begin + 1 : number]))
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            text = "\n".join(line[4:] for line in lines[begin:number]).rstrip()
            yield Block(page, begin + 1, _language(text), text)
            continue
        number += 1


def _language(text: str) -> str:
    first = text.split()[0]
    if first.endswith(":"):
        return "yaml"
    return "folders" if "/" in first and not first.startswith((".venv/", "./")) else "shell"


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages that are of these languages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def commands() -> Iterator[tuple[str, str]]:
    """Yield each command line of the pages with its place; a backslash at the end of a line continues it."""
    for block in all_blocks("shell", "bash", "sh", "console"):
        line = block.line
        for text in block.text.replace("\\\n", "  ").splitlines():
            if text.strip() and not text.startswith("#"):
                yield f"{block.page.relative_to(PROJECT)}:{line}", text
            line += 1
    for block in all_blocks("ini"):  # a service of systemd
        for offset, text in enumerate(block.text.splitlines()):
            if found := re.match(r"Exec\w+=(.*)", text):
                yield f"{block.page.relative_to(PROJECT)}:{block.line + offset}", found[1]


def commands_in_prose() -> Iterator[tuple[str, str]]:
    """Yield each command of this project that stands within a sentence, with its page."""
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for found in re.findall(r"`(python -m miniplm_assets\s+[^`]+)`", prose):
            yield str(page.relative_to(PROJECT)), " ".join(found.split())
