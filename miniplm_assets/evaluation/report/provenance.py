"""What the report says of itself: which checks spoke up, what it rests on, and how its words are to be read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from miniplm_assets.evaluation.report.blocks import Block, Column, Number, Section, Source, Table, Words
from miniplm_assets.evaluation.report.numbers import NOT_THERE, count

TERMS: Final[Mapping[str, str]] = {
    "nats a token": "the loss of a model: how surprised it is by the next token, on average, as a natural logarithm. "
    "Lower is better. 0.7 nats less is half the surprise. Compare it between models of one tokenizer alone.",
    "bits a byte": "the same surprise by byte of text, in bits. It compares models of different tokenizers.",
    "held-out": "measured on the validation split, which no model has learnt from.",
    "tokens saved": "how many times fewer tokens a student needs to reach the loss that its baseline ends with. It is "
    "read off the losses on the way, which are those of a sample.",
    "baseline": "the student that another is held against; as a rule the same one, trained on all candidates.",
    "teacher, reference": "a large model, and a small one trained on a little text. Neither is judged here: their "
    "disagreement says what is worth learning.",
    "difference": "log-probability of a text under the teacher, less that under the reference. High: hard for the "
    "small one and easy for the large one, so there is something to learn. About zero: known to both, such as "
    "boilerplate. Low or below zero: noise, which the large one cannot predict either.",
    "candidates": "the texts that a selection may keep; those held apart for validation, reference or "
    "teacher are none.",
    "cutoff": "the lowest value that is kept. Everything above it is in the refined corpus.",
    "seed": "of the random numbers that a training begins with. Two seeds of the same student end apart by chance; a "
    "difference between students counts only where it is larger than that.",
    "95 % interval": "of a difference, over seeds and held-out text: where it reaches across 0, the two cannot "
    "be told apart. Another teacher, reference or split is not in it.",
    "FLOPs": "floating-point operations: what a training costs on any device.",
    "fingerprint": "names a stored result by all that went into it: settings, code and inputs. The same fingerprint "
    "is the same result.",
}


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """How a check ended.

    Attributes:
        asset: its key.
        check: its name.
        passed: whether all is well.
        stops: whether a failure stops what comes after.
        found: in words.
        means: what a failure means.
    """

    asset: str
    check: str
    passed: bool
    stops: bool
    found: str
    means: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a stored result came about.

    Attributes:
        source: its asset and fingerprint.
        code_version: of its kind.
        created_at: when, in UTC.
        seconds: that making it took, all its pieces together.
        num_bytes: on the disk, all its pieces together.
        num_pieces: files of the corpus or seeds; None for a result of one piece.
        devices: that it says it was computed on.
        computed_as: backend and dtype, where they are part of it.
        seeds: that it was made with, where it has any.
        versions: of the packages that made it; more than one where its pieces were made with others.
    """

    source: Source
    code_version: str
    created_at: str
    seconds: float
    num_bytes: int
    num_pieces: int | None
    devices: tuple[str, ...]
    computed_as: str
    seeds: tuple[int, ...]
    versions: Mapping[str, tuple[str, ...]]


def checks_said(spoken: Sequence[Spoken]) -> Block:
    """Return the checks that did not pass; or that all did."""
    failed = [one for one in spoken if not one.passed]
    num_assets = len({one.asset for one in spoken})
    if not failed:
        return Words(text=f"All {len(spoken):,} checks that are stored, of {num_assets} assets, passed.")
    return Table(
        caption=f"{len(failed)} of {len(spoken):,} checks did not pass",
        columns=[Column("asset"), Column("check"), Column(""), Column("found"), Column("what it means")],
        rows=[
            [one.asset, one.check, "failed" if one.stops else "warns", one.found or NOT_THERE, one.means]
            for one in failed
        ],
        note=f"Of {num_assets} assets; those that are stored with a result.",
    )


def provenance_section(made: Sequence[Made], blocks: Iterable[Block] = ()) -> Section:
    """Say what the report rests on: each result, and what made it.

    Args:
        made: how each came about.
        blocks: the drawings.
    """
    rows = [
        [
            one.source.key,
            one.source.fingerprint,
            one.code_version,
            one.created_at[:19].replace("T", " "),
            Number(one.seconds, f"{one.seconds:,.1f}"),
            count(one.num_bytes),
            NOT_THERE if one.num_pieces is None else count(one.num_pieces),
            one.computed_as or NOT_THERE,
            ", ".join(one.devices) or NOT_THERE,
            ", ".join(map(str, one.seeds)) or NOT_THERE,
        ]
        for one in made
    ]
    columns = ("asset", "fingerprint", "code version", "made (UTC)", "seconds", "bytes", "pieces")
    table = Table(
        caption="Every result that this report rests on",
        columns=[*map(Column, columns), Column("computed as"), Column("on"), Column("seeds")],
        rows=rows,
        note="The code version is that of its kind of asset. What a result does not say of itself is not known here: "
        "the name of the machine is not recorded, and checks of a run alone, such as how many rows may be rejected, "
        "are in its log.",
        is_folded=True,
    )
    return Section(title="What this rests on", blocks=[*blocks, table, _versions(made)])


def _versions(made: Sequence[Made]) -> Table:
    found: dict[str, dict[str, list[str]]] = {}
    for one in made:
        for package, versions in one.versions.items():
            for version in versions:
                found.setdefault(package, {}).setdefault(version, []).append(one.source.key)
    return Table(
        caption="Versions of the packages that made the results",
        columns=[Column("package"), Column("version"), Column("results")],
        rows=[
            [package, version, count(len(keys))]
            for package, versions in sorted(found.items())
            for version, keys in sorted(versions.items())
        ],
        note="A package with two rows: some results were made before it was changed.",
        is_folded=True,
    )


def reading_section() -> Section:
    """Say what the words mean."""
    table = Table(
        caption="The words of this report",
        columns=[Column("term"), Column("meaning")],
        rows=[[term, meaning] for term, meaning in TERMS.items()],
    )
    method = Words(
        text="The method is Difference Sampling, of MiniPLM: Knowledge Distillation for Pre-Training Language Models "
        "(arXiv 2410.17215): kept is what a large teacher finds easier than a small reference does."
    )
    return Section(title="How to read this", blocks=[method, table])
