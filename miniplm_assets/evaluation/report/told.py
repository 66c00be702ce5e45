"""What is known of all students, for those that tell it."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from miniplm_assets.evaluation.comparison import StudentRecord
from miniplm_assets.evaluation.line_styles import LineStyle, line_styles
from miniplm_assets.evaluation.report.blocks import Source, Table, Words

# How the sentence begins that says how sure the outcome is.
INTERVAL: Final = "The 95 % interval"
_END_OF_SENTENCE: Final = re.compile(r"(?<=\.) (?=[A-Z])")


@dataclass(frozen=True, kw_only=True)
class StudentsTold:
    """What is known of all students.

    Attributes:
        records: each student by name, the runs of its seeds.
        table: a row for each student and seed, as `comparison_table` returns it.
        groups: the students that are held against a baseline, itself first, by its name.
        excluded_domains: left out of the losses.
        verdict: the outcome in words.
        source: of table and verdict.
        evaluations: where the held-out losses of each student are from.
        checkpoints: where the losses along the way are from.
        differences: how sure each difference is, where that was measured.
        more: other tables of the comparison.
        about: what each student is, in words; its corpus where nothing is said.
        pays: from how many students on each way is the cheaper one, in words.
    """

    records: Mapping[str, StudentRecord]
    table: pl.DataFrame
    groups: Mapping[str, Sequence[str]]
    excluded_domains: Collection[str]
    verdict: str
    source: Source | None
    evaluations: Mapping[str, Source]
    checkpoints: Mapping[str, Source]
    differences: Table | None = None
    more: Sequence[Table] = field(default_factory=tuple)
    about: Mapping[str, str] = field(default_factory=dict)
    pays: str = ""

    @property
    def styles(self) -> dict[str, LineStyle]:
        """How the lines of the students are drawn."""
        return line_styles(self.records)

    @property
    def unit(self) -> tuple[str, str]:
        """What ranks them: a column of the held-out tables, and its unit; of several tokenizers, by the byte."""
        if len({one.tokenizer for one in self.records.values()}) == 1:
            return "nll_nats_per_token", "nats a token"
        return "bits_per_byte", "bits a byte"


def headline(verdict: str) -> str:
    """Return the outcome: the first sentence of a verdict, and the one of its paragraph that says how sure it is."""
    first, *others = _sentences(verdict)
    return " ".join([first, *(one for one in others if one.startswith(INTERVAL))])


def after_headline(verdict: str) -> list[str]:
    """Return the paragraphs of a verdict without its headline."""
    _, *others = _sentences(verdict)
    rest = " ".join(one for one in others if not one.startswith(INTERVAL))
    return [*([rest] if rest else []), *Words(text=verdict).paragraphs[1:]]


def _sentences(verdict: str) -> list[str]:
    """Return the sentences of the first paragraph."""
    return _END_OF_SENTENCE.split(Words(text=verdict).paragraphs[0])
