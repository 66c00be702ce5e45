"""What a report is made of: sections of words, tables, pictures and texts, each with its source."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Source:
    """The stored result that something is read from.

    Attributes:
        key: of the asset.
        fingerprint: of its result.
    """

    key: str
    fingerprint: str


@dataclass(frozen=True)
class Number:
    """A number as it is read, and as it is.

    Attributes:
        value: all of it, for who copies it.
        text: with its unit, where that is not the column's.
    """

    value: float | int
    text: str


@dataclass(frozen=True)
class Bars:
    """Shares drawn beside each other, in a row of a table.

    Attributes:
        shares: of the widest bar of the table, each in [0, 1].
    """

    shares: tuple[float, ...]


Cell = str | Number | Bars


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        label: its head, with the unit.
        about: what it is, where the label does not say it.
    """

    label: str
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Paragraphs, with an empty line between two.

    Attributes:
        text: the paragraphs.
    """

    type: ClassVar[str] = "words"

    text: str

    @property
    def paragraphs(self) -> list[str]:
        """Return each paragraph."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells.

    Attributes:
        caption: what it shows.
        columns: their heads.
        rows: a cell for each column; the first one heads its row.
        sources: where it is read from.
        note: on how many it rests, and what is left out.
        is_folded: whether it is unfolded by the reader alone.
    """

    type: ClassVar[str] = "table"

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sources: Sequence[Source] = ()
    note: str = ""
    is_folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing.

    Attributes:
        caption: what it shows.
        svg: the drawing, or a stored picture.
        sources: where it is read from.
        note: on how many it rests, and how to read it.
        is_folded: whether it is unfolded by the reader alone.
        is_wide: whether it is shown as large as it is, and scrolls, where the page is narrower.
    """

    type: ClassVar[str] = "picture"

    caption: str
    svg: Markup
    sources: Sequence[Source] = ()
    note: str = ""
    is_folded: bool = False
    is_wide: bool = False


@dataclass(frozen=True)
class Text:
    """A text of the corpus.

    Attributes:
        title: what it is an example of.
        text: its beginning.
    """

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts of the corpus.

    Attributes:
        caption: what they are.
        texts: each of them.
        sources: where they are read from.
        note: how many there are in all.
    """

    type: ClassVar[str] = "texts"

    caption: str
    texts: Sequence[Text]
    sources: Sequence[Source] = ()
    note: str = ""


Block = Words | Table | Picture | Texts


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        blocks: what it says.
        sections: smaller parts in it.
        is_folded: whether it is unfolded by the reader alone.
    """

    title: str
    blocks: Sequence[Block] = ()
    sections: Sequence["Section"] = ()
    is_folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it.

    Attributes:
        title: what was compared.
        subtitle: on which corpus.
        headline: the outcome in a sentence.
        outcome: what is read next.
        sections: in the order in which a reader asks.
        fingerprint: of the report itself.
    """

    title: str
    subtitle: str
    headline: str
    outcome: Sequence[Block]
    sections: Sequence[Section] = field(default_factory=tuple)
    fingerprint: str = ""
