"""What the report says of the corpus and the models: counts, what was left out and why, shapes and losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from miniplm_assets.evaluation.figures import shortened
from miniplm_assets.evaluation.report.blocks import Block, Cell, Column, Section, Source, Table, Words
from miniplm_assets.evaluation.report.numbers import NOT_THERE, count, nats, share


@dataclass(frozen=True, kw_only=True)
class ModelTold:
    """A teacher, a reference or a student.

    Attributes:
        key: of its asset.
        words: where it is from, or how it was trained.
        num_parameters: where it is known.
        num_tokens: that it was trained on here; None where others trained it.
        held_out: losses on held-out text in nats a token, one for each seed; empty where none was measured.
        measured_on: held-out sequences of those.
        source: of the model.
    """

    key: str
    words: str
    num_parameters: int | None
    num_tokens: int | None
    held_out: Sequence[float]
    measured_on: str
    source: Source


@dataclass(frozen=True, kw_only=True)
class CorpusTold:
    """What is known of the corpus.

    Attributes:
        words: where it is from.
        files: facts of the listing.
        documents: facts of the documents.
        sequences: facts of the packed sequences, by tokenizer.
        profile: documents, sequences and tokens by domain and split; None where no selection has made one.
        sources: of those, by asset key.
        profile_key: of the profile.
    """

    words: str
    files: Mapping[str, Any]
    documents: Mapping[str, Any]
    sequences: Mapping[str, Mapping[str, Any]]
    profile: pl.DataFrame | None
    sources: Mapping[str, Source]
    profile_key: str = ""


def corpus_section(told: CorpusTold) -> Section:
    """Say what the corpus is made of."""
    facts = told.documents
    num_duplicates, num_rejected = facts.get("num_duplicates", 0), facts["num_rejected"]
    num_rows = facts["num_documents"] + num_rejected + num_duplicates
    rows: list[list[Cell]] = [
        ["files", count(told.files["num_files"]), ""],
        ["bytes", count(told.files["num_corpus_bytes"]), ""],
        ["documents", count(facts["num_documents"]), share(_part(facts["num_documents"], num_rows))],
        *([f"    {split}", count(number), ""] for split, number in facts["documents_per_split"].items()),
        ["rejected", count(num_rejected), share(_part(num_rejected, num_rows))],
        *_reasons(facts["rejected_per_reason"]),
    ]
    if "num_duplicates" in facts:
        rows += [
            ["duplicates", count(num_duplicates), share(_part(num_duplicates, num_rows))],
            *_reasons(facts["duplicates_per_reason"]),
        ]
    blocks: list[Block] = [
        Words(text=f"{told.words[:1].upper()}{told.words[1:]}."),
        Table(
            caption="The corpus, counted",
            columns=[Column(""), Column("number"), Column("of all rows")],
            rows=rows,
            sources=[told.sources["raw_corpus"], told.sources["documents"]],
            note=f"n: {num_rows:,} rows of the corpus files."
            + ("" if "num_duplicates" in facts else " Duplicates were not looked for."),
        ),
        _splits(told),
    ]
    if told.profile is not None:
        blocks.append(_profile(told.profile, told.sources[told.profile_key]))
    return Section(title="The corpus", blocks=blocks)


def _part(number: int, whole: int) -> float | None:
    return number / whole if whole else None


def _reasons(numbers: Mapping[str, int]) -> list[list[Cell]]:
    return [[f"    {reason.replace('_', ' ')}", count(number), ""] for reason, number in numbers.items()]


def _splits(told: CorpusTold) -> Table:
    splits = list(dict.fromkeys(split for facts in told.sequences.values() for split in facts["tokens_per_split"]))
    return Table(
        caption="Tokens by split, of each tokenizer",
        columns=[Column("tokenizer"), Column("sequences"), *(Column(f"{split} tokens") for split in splits)],
        rows=[
            [
                key.partition("/")[0],
                count(facts["num_sequences"]),
                *(count(facts["tokens_per_split"].get(split)) for split in splits),
            ]
            for key, facts in told.sequences.items()
        ],
        sources=[told.sources[key] for key in told.sequences],
        note="Documents go to one split each, by a hash of their text: candidates are selected from; the others are "
        "never learnt from by a student.",
    )


def _profile(profile: pl.DataFrame, source: Source) -> Table:
    rows = profile.sort("domain", "split")
    return Table(
        caption="Domains and splits",
        columns=[
            Column("domain"),
            Column("split"),
            Column("documents"),
            Column("sequences"),
            Column("tokens"),
            Column("bytes a token"),
        ],
        rows=[
            [
                shortened(row["domain"]),
                row["split"] or NOT_THERE,
                count(row["num_documents"]),
                count(row["num_sequences"]),
                count(row["num_tokens"]),
                nats(row["bytes_per_token"]),
            ]
            for row in rows.iter_rows(named=True)
        ],
        sources=[source],
        is_folded=True,
    )


def models_section(models: Sequence[ModelTold], made: Table | None) -> Section:
    """Say which models there are, how large, and how good on held-out text.

    Args:
        models: all of them.
        made: how the students were made.
    """
    table = Table(
        caption="Models",
        columns=[
            Column("model"),
            Column("parameters"),
            Column("tokens trained on"),
            Column("held-out loss (nats a token)", "on the validation split, the mean over seeds"),
            Column("measured on"),
            Column("where it is from"),
        ],
        rows=[
            [
                model.key,
                count(model.num_parameters),
                "trained elsewhere" if model.num_tokens is None else count(model.num_tokens),
                nats(sum(model.held_out) / len(model.held_out)) if model.held_out else "not measured",
                model.measured_on or NOT_THERE,
                model.words,
            ]
            for model in models
        ],
        sources=[model.source for model in models],
        note="Losses a token compare models of one tokenizer alone.",
    )
    return Section(title="The models", blocks=[table, *([made] if made is not None else [])])
