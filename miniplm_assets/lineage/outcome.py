"""The outcome of an experiment in plain words, and where to look further."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from miniplm_assets.core.words import count, table, wrapped
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import complete_snapshot
from miniplm_assets.storage.latest import LATEST

COMPARISON: Final = "comparison"
BREAK_EVEN: Final = "break_even"
TASK_COMPARISON: Final = "task_comparison"
STUDENTS: Final = "students.parquet"
CATALOG: Final = "warehouse.duckdb"
REPORT: Final = "report"
REPORT_FILE: Final = "report.html"
# What is shown of each student, and how it is headed; the catalog has the rest.
SHOWN: Final = {
    "student": "student",
    "seed": "seed",
    "validation_nll_nats_per_token": "nats/token",
    "bits_per_byte": "bits/byte",
    "num_tokens": "tokens",
    "training_flops": "FLOPs",
    "tokens_saved_factor": "fewer tokens",
}
# Of a path, and of a hint that does not fit beside it.
LABEL_COLUMNS: Final = 12
# Of a table that is not to fit a terminal.
MAX_TABLE_COLUMNS: Final = 160


@dataclass(frozen=True)
class Place:
    """Where to look: what it is called, where it is, and a hint."""

    label: str
    where: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an experiment.

    Attributes:
        caution: where it is of an earlier state of the corpus, that.
        verdict: in words; a paragraph for each student that is held against another.
        students: the rows of the comparison.
        beside: other verdicts by their titles: on tasks, what it cost.
        places: where to look further.
    """

    caution: str = ""
    verdict: str
    students: Sequence[Mapping[str, Any]] = ()
    beside: Mapping[str, str] = field(default_factory=dict)
    places: Sequence[Place] = ()

    def in_words(self, columns: int | None = None) -> str:
        """Return it as text.

        Args:
            columns: of the terminal; None: no line of words is broken.
        """

        def fitting(text: str) -> str:
            return text if columns is None else wrapped(text, columns)

        parts = [self.caution, self.verdict] if self.caution else [self.verdict]
        parts = [fitting(part) for part in parts]
        if self.students:
            parts.append(_students(self.students, columns or MAX_TABLE_COLUMNS))
        parts += [f"{title}\n{fitting(told)}" for title, told in self.beside.items()]
        parts.append("\n".join(_placed(place, columns) for place in self.places))
        return "\n\n".join(parts)


def outcome(pipeline: Pipeline, columns: int | None = None) -> str:
    """Return the outcome of an experiment as text; see `outcome_of`."""
    return outcome_of(pipeline).in_words(columns)


def outcome_of(pipeline: Pipeline) -> Outcome:
    """Return the comparison of an experiment, that on tasks, what each student cost, and where all of it is.

    While the latest state of the corpus is in the making, it is that of the last one on which everything was made.

    Raises:
        MissingResultError: if it has not been materialised.
    """
    if COMPARISON not in pipeline.graph:
        pipeline.latest_fingerprints()  # else a warehouse that cannot be read would be taken for an empty one
        return Outcome(verdict="The experiment compares no students.", places=list(_places(pipeline)))
    fingerprints, caution = last_made(pipeline, COMPARISON, called="the outcome")
    result = pipeline.store.require(fingerprints.recipe(COMPARISON))
    beside = {
        title: _beside(pipeline, fingerprints, key)
        for title, key in (("On tasks:", TASK_COMPARISON), ("What it cost:", BREAK_EVEN))
        if key in pipeline.graph
    }
    return Outcome(
        caution=caution,
        verdict=result.facts["verdict"],
        students=pl.read_parquet(result.file(STUDENTS), glob=False).to_dicts(),
        beside=beside,
        places=[*_places(pipeline), Place("Plots:", str(result.folder))],
    )


def _places(pipeline: Pipeline) -> Iterator[Place]:
    root = pipeline.store.root
    if REPORT in pipeline.graph:
        fingerprints, _ = last_made(pipeline, REPORT, called=REPORT)
        if pipeline.store.find(fingerprints.recipe(REPORT)) is None:
            yield Place("Report:", f"not made yet; materialise {REPORT}")
        else:
            yield Place("Report:", str(root / REPORT_FILE), "any browser; one file, to be sent to somebody")
    yield Place("Graph:", "make ui, then http://localhost:3000")
    yield Place("Warehouse:", str(root / CATALOG), "any DuckDB client")
    yield Place("Results:", str(root / LATEST), "a folder for each, by its asset key")


def _placed(place: Place, columns: int | None) -> str:
    line = f"{place.label:{LABEL_COLUMNS}}{place.where}"
    if not place.hint:
        return line
    hint = f"({place.hint})"
    fits = columns is None or len(line) + 1 + len(hint) <= columns
    return f"{line} {hint}" if fits else f"{line}\n{'':{LABEL_COLUMNS}}{hint}"


def _students(students: Sequence[Mapping[str, Any]], columns: int) -> str:
    shown = [name for name in SHOWN if name in students[0]]
    rows = [[_figure(name, student[name]) for name in shown] for student in students]
    return table([SHOWN[name] for name in shown], rows, columns)


def _figure(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("student", "seed"):
        return str(value)
    if name == "tokens_saved_factor":
        return f"{value:.2f} times"
    return f"{value:,}" if isinstance(value, int) else count(value) if name == "training_flops" else f"{value:.4f}"


def last_made(pipeline: Pipeline, key: str, seed: int | None = None, *, called: str) -> tuple[Fingerprints, str]:
    """Return the fingerprints on the state of the corpus to show an asset of, and what to say of that state.

    That is the latest, and nothing is to be said; or, where it is not made on that as yet and was on the last one on
    which everything was made, that one.

    Args:
        pipeline: the experiment.
        key: of the asset.
        seed: the result of one seed; None: the whole.
        called: what it is called in that.
    """

    def is_stored(fingerprints: Fingerprints) -> bool:
        recipe = fingerprints.recipe(key) if seed is None else fingerprints.pieces(key)[str(seed)]
        return pipeline.store.find(recipe) is not None

    latest = pipeline.latest_fingerprints()
    if is_stored(latest) or (before := complete_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store)) is None:
        return latest, ""
    earlier = pipeline.fingerprints(before)
    if not is_stored(earlier):
        return latest, ""
    return earlier, (
        f"The corpus has changed since: this is {called} on its state before, raw_corpus {before.recipe.fingerprint}. "
        "On the latest it is still to be made."
    )


def _beside(pipeline: Pipeline, fingerprints: Fingerprints, key: str) -> str:
    """Return the words of another report."""
    result = pipeline.store.find(fingerprints.recipe(key))
    return f"not made yet; materialise {key}" if result is None else str(result.facts["verdict"])
