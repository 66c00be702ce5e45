"""Real text that every machine with Python has: the running interpreter's own library.

    code    its sources, without their docstrings
    docs    those docstrings
    tests   the sources of its test suite, where it is installed
    prose   the language reference (`help()` topics), licences, and the text files beside the sources

The same documents for the same interpreter: nothing depends on what is installed beside it, on file times, or on
the order in which a folder lists its files.
"""

import ast
import math
import random
import re
import warnings
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from miniplm_assets.corpus.demo_filler import seeded_random

CODE: Final = "code"
DOCS: Final = "docs"
TESTS: Final = "tests"
PROSE: Final = "prose"

MIN_CHARACTERS: Final = 200
MAX_CHARACTERS: Final = 8_000
# Installed packages and caches differ between machines, tables of character codes and build settings are no text.
_SKIPPED_FOLDERS: Final = {"site-packages", "dist-packages", "__pycache__", "encodings", "lib-dynload"}
_SKIPPED_NAMES: Final = re.compile(r"_sysconfigdata|config-\d|topics\.py$")
_TEST_FOLDERS: Final = {"test", "tests", "idle_test"}
_BLANK_LINES: Final = re.compile(r"\n[ \t]*\n+")


class Library:
    """The texts of one interpreter's library.

    Args:
        folder: the library, for example sysconfig.get_path("stdlib").
        seed: of the order in which files are taken and of the documents' lengths.

    Attributes:
        not_utf8: names of the files that were left out, because they are not UTF-8.
    """

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.not_utf8: set[str] = set()
        self._seed = seed
        self._sources: list[Path] = []
        self._tests: list[Path] = []
        self._prose: list[Path] = []
        for path in sorted(_files(folder)):
            if path.suffix == ".py":
                is_test = bool(_TEST_FOLDERS & set(path.relative_to(folder).parts))
                (self._tests if is_test else self._sources).append(path)
            elif path.suffix in (".txt", ".rst"):
                self._prose.append(path)
        for paths in (self._sources, self._tests, self._prose):
            seeded_random(seed, "files").shuffle(paths)
        self._modules: dict[Path, tuple[list[str], list[str]]] = {}

    def documents(self, domain: str) -> Iterator[str]:
        """Go through all documents of a domain, in an order that the seed decides."""
        rng = seeded_random(self._seed, domain)
        for blocks in self._blocks(domain):
            yield from merged(blocks, rng)

    def _blocks(self, domain: str) -> Iterator[list[str]]:
        if domain == CODE:
            yield from (self._module(path)[0] for path in self._sources)
        elif domain == DOCS:
            yield from (self._module(path)[1] for path in self._sources)
        elif domain == TESTS:
            yield from (self._module(path)[0] for path in self._tests)
        else:
            yield from ([topic] for _, topic in sorted(_topics().items()))
            yield from ([text] for text in map(self._read, self._prose) if text is not None)

    def _module(self, path: Path) -> tuple[list[str], list[str]]:
        """Return the top-level blocks of a source file, and its docstrings."""
        if path not in self._modules:
            source = self._read(path)
            try:
                self._modules[path] = ([], []) if source is None else split_module(source)
            except SyntaxError:  # the test suite holds some on purpose
                self._modules[path] = ([], [])
        return self._modules[path]

    def _read(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            self.not_utf8.add(path.name)
            return None


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if _SKIPPED_NAMES.search(path.name):
            continue
        if path.is_dir():
            if path.name not in _SKIPPED_FOLDERS:
                yield from _files(path)
        else:
            yield path


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return {}
    return topics


def split_module(source: str) -> tuple[list[str], list[str]]:
    """Split a module at its top-level definitions, and take its docstrings out.

    Returns:
        Its blocks of code, and its docstrings, each under the name that it documents.

    Raises:
        SyntaxError: if it is no Python.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # its old spellings are no concern of this run
            tree = ast.parse(source)
    except ValueError as error:  # a null character
        raise SyntaxError(str(error)) from None
    lines = source.splitlines(keepends=True)
    is_docstring = [False] * (len(lines) + 1)
    docstrings = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        first = node.body[0] if node.body else None
        # One that is all of a body stays, lest the code stop being Python.
        if text is None or first is None or len(node.body) == 1 or first.end_lineno is None:
            continue
        docstrings.append(text if isinstance(node, ast.Module) else f"{node.name}\n\n{text}")
        is_docstring[first.lineno - 1 : first.end_lineno] = [True] * (first.end_lineno - first.lineno + 1)
    definitions = [
        min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    blocks = [
        "".join(lines[line] for line in range(start, stop) if not is_docstring[line]).strip("\n")
        for start, stop in pairwise([0, *definitions, len(lines)])
    ]
    return blocks, docstrings


def merged(blocks: Iterable[str], rng: random.Random) -> Iterator[str]:
    """Join neighbouring blocks to documents of some 200 to 8,000 characters, as varied as real ones.

    Long blocks are split at blank lines first; a lone remainder that is too short is left out.
    """
    document = ""
    wanted = _length(rng)
    for block in blocks:
        for piece in _short_pieces(block):
            if document and len(document) + len(piece) + 2 > MAX_CHARACTERS:
                if len(document) >= MIN_CHARACTERS:
                    yield document
                document, wanted = "", _length(rng)
            document = f"{document}\n\n{piece}" if document else piece
            if len(document) >= wanted:
                yield document
                document, wanted = "", _length(rng)
    if len(document) >= MIN_CHARACTERS:
        yield document


def _length(rng: random.Random) -> float:
    return math.exp(rng.uniform(math.log(MIN_CHARACTERS), math.log(MAX_CHARACTERS / 2)))


def _short_pieces(text: str) -> Iterator[str]:
    if len(text) <= MAX_CHARACTERS:
        if text.strip():
            yield text
        return
    for paragraph in _BLANK_LINES.split(text):
        for start in range(0, len(paragraph), MAX_CHARACTERS):
            piece = paragraph[start : start + MAX_CHARACTERS]
            if piece.strip():
                yield piece
