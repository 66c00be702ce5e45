"""`<selection>/<tokenizer>/refined_sequences`: selected text, tokenised anew for students of another tokenizer.

The text of a selection serves students of any family (arXiv 2410.17215): it was chosen by models of one
tokenizer, but it is text.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

import polars as pl

from miniplm_assets.core.facts import counts_in_words
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.corpus.passages import MAX_CHANGED_SHARE, require_kept_text, write_refined_sequences
from miniplm_assets.experiment import Experiment, Sequences, Student
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.pre_filter import Amount, amounts_of, num_kept_tokens
from miniplm_assets.kinds.selection import REFINED_CORPUS
from miniplm_assets.kinds.sequences import BYTES_PER_TOKEN, SEQUENCES, sequences_key
from miniplm_assets.kinds.tokenizer import TOKENIZER, tokenizer_key, tokenizer_problems
from miniplm_assets.lineage.kind import Blueprint, Check, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage import tables
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

EVERY_BYTE_IS_PACKED = Check(
    "every_selected_byte_is_packed",
    "A failure means that selected text is in no sequence, or in two, and not among the rejected passages either.",
)
NO_PASSAGE_IS_REJECTED = Check(
    "no_passage_is_rejected",
    "A failure means that this tokenizer cannot encode some of the selected text; rejected.parquet has it.",
    is_blocking=False,
)
TOKENS_SPELL_THE_TEXT = Check(
    "tokens_spell_the_text",
    "A failure means that the tokens of many passages spell another text: the tokenizer does not know some characters, "
    "or writes them another way. Bits per byte are then of another text than those of other students.",
    is_blocking=False,
)


class Repacking(Sequences):
    """How selected text is packed; which, and into what tokens, the inputs say.

    Attributes:
        selected_from: the key of the sequences that the selection chose from, for plans.
        amounts: what selections keep of them, one after the other, for plans.
        own: the key of the sequences of all documents in these tokens, for plans.
    """

    runtime_only: ClassVar[frozenset[str]] = Sequences.runtime_only | {"selected_from", "amounts", "own"}

    selected_from: str
    amounts: tuple[Amount, ...]
    own: str


def refined_for(experiment: Experiment, student: Student) -> dict[str, str]:
    """Return what a student of a selection learns from, as an input: in its own tokens; none of another student."""
    if student.selection is None:
        return {}
    if experiment.selection_tokenizer(student.selection) == student.tokenizer:
        return {REFINED_CORPUS: key_of(REFINED_CORPUS, student.selection)}
    return {REFINED_SEQUENCES.name: key_of(REFINED_SEQUENCES.name, student.selection, student.tokenizer)}


def _nodes(blueprint: Blueprint) -> Iterator[Node[Repacking]]:
    experiment = blueprint.experiment
    asked = {
        (student.selection, student.tokenizer): None
        for student in experiment.students.values()
        if student.selection is not None and REFINED_SEQUENCES.name in refined_for(experiment, student)
    }
    for selection, tokenizer in asked:
        selected_by = experiment.selection_tokenizer(selection)
        assert selected_by is not None  # the experiment is checked
        yield Node(
            kind=REFINED_SEQUENCES,
            names=(selection, tokenizer),
            inputs={
                REFINED_CORPUS: key_of(REFINED_CORPUS, selection),
                DOCUMENTS.name: DOCUMENTS.name,
                TOKENIZER.name: tokenizer_key(tokenizer),
            },
            settings=Repacking(
                **dict(experiment.sequences),
                selected_from=sequences_key(selected_by),
                amounts=tuple(amounts_of(experiment, selection)),
                own=sequences_key(tokenizer),
            ),
        )


def _make(work: Work[Repacking]) -> Result:
    """Tokenise and pack what is selected of each corpus file."""
    refined = work.input_tables(REFINED_CORPUS)
    documents = work.input_pieces(DOCUMENTS.name)
    tokenizer = work.input(TOKENIZER.name)
    of_shard = _by_shard(refined)

    def write(shard: str, draft: Draft) -> None:
        draft.facts = write_refined_sequences(
            of_shard.get(shard, []),
            documents[shard].file(tables.DOCUMENTS),
            shard=shard,
            tokenizer_folder=tokenizer.verified_folder(),
            named=work.node.inputs[TOKENIZER.name],
            sequences=work.settings,
            shard_fingerprint=draft.recipe.fingerprint,
            folder=draft.path,
            report=work.report,
        )

    def finish(draft: Draft) -> None:
        selected = pl.scan_parquet(refined, glob=False).select(pl.col("num_bytes").sum()).collect().item()
        draft.checks += _checks(draft, selected)
        max_tokens = draft.facts["num_sequences"] * (work.settings.sequence_length + 1)
        draft.facts["fill_share"] = draft.facts["num_tokens"] / max_tokens if max_tokens else 0.0

    return work.make_pieces(write, finish)


def _by_shard(refined: list[Path]) -> dict[str, list[Path]]:
    """Return the files of a refined corpus by the corpus file that they are of; one without a row is of none."""
    rows = pl.scan_parquet(refined, glob=False, include_file_paths="path").select("shard", "path").unique().collect()
    found: dict[str, list[Path]] = {}
    for shard, path in rows.sort("shard", "path").iter_rows():
        found.setdefault(shard, []).append(Path(path))
    return found


def _checks(draft: Draft, num_selected_bytes: int) -> Iterator[CheckOutcome]:
    facts = draft.facts
    yield CheckOutcome(
        name=EVERY_BYTE_IS_PACKED.name,
        passed=facts["num_bytes"] + facts["num_rejected_bytes"] == num_selected_bytes,
        facts={"num_selected_bytes": num_selected_bytes, "num_packed_bytes": facts["num_bytes"]},
    )
    num_rejected, reasons = facts["num_rejected"], counts_in_words(facts["rejected_per_reason"])
    yield CheckOutcome(
        name=NO_PASSAGE_IS_REJECTED.name,
        passed=not num_rejected,
        description=f"{num_rejected:,} passages are in no sequence ({reasons})" if num_rejected else "",
        facts={"num_rejected": num_rejected},
    )
    num_changed, num_passages = facts["num_changed_passages"], facts["num_passages"]
    is_spelt = num_changed <= MAX_CHANGED_SHARE * num_passages
    yield CheckOutcome(
        name=TOKENS_SPELL_THE_TEXT.name,
        passed=is_spelt,
        description=""
        if is_spelt
        else f"the tokens of {num_changed:,} of {num_passages:,} passages spell another text; take a tokenizer that is "
        "byte-level or has byte fallback, and does not normalise",
        facts={"num_changed_passages": num_changed},
    )


def _cost(node: Node[Repacking], sizes: Sizes, shards: Collection[str] | None) -> Cost:
    """Return the disk that it takes: the share of the candidates that is kept, in the tokens of the other tokenizer."""
    settings = node.settings
    everything = sizes.tokens_per_split(settings.selected_from)
    wanted = sizes.tokens_per_split(settings.own, shards)
    if everything is None or wanted is None:
        return Cost()
    share = num_kept_tokens(everything[CANDIDATE], settings.amounts) / max(1, everything[CANDIDATE])
    return Cost(num_bytes=round(share * wanted[CANDIDATE]) * BYTES_PER_TOKEN)


def _problems(node: Node[Repacking], sizes: Sizes) -> Iterator[str]:
    """Say why a tokenizer that is here already cannot be used, if it cannot."""
    yield from tokenizer_problems(node, sizes, TOKENIZER.name, require_kept_text)


def _verify(work: Work[Repacking]) -> Iterator[str]:
    """Say of which documents the sequences hold another text than was selected, where nothing was rejected."""
    of_shard = _by_shard(work.input_tables(REFINED_CORPUS))
    num_documents = num_problems = 0
    for shard, recipe in work.piece_recipes.items():
        stored = work.pipeline.store.require(recipe)
        selected = _texts([*of_shard.get(shard, [])])
        made = _texts([stored.file(tables.SEQUENCES)])
        both = selected.join(made, on="document_id", how="full", coalesce=True, suffix="_made")
        others = both.filter(~pl.col("text").eq_missing(pl.col("text_made")))
        rejected = pl.read_parquet(stored.file(tables.REJECTED), glob=False)["line"].n_unique()
        num_documents += len(both)
        if len(others) > rejected:
            num_problems += 1
            yield (
                f"{work.node.key} ({stored.folder}): {len(others):,} documents of {shard} with another text than was "
                f"selected, {rejected:,} of which may be rejected; for example document {others['document_id'][0]}"
            )
    if not num_problems:
        work.report(f"{work.node.key}: the selected text of {num_documents:,} documents")


def _texts(files: list[Path]) -> pl.DataFrame:
    """Return the text that sequences hold of each document, in its order."""
    parts = [pl.read_parquet(file, columns=["spans", "texts"], glob=False) for file in files]
    empty = pl.DataFrame(schema={"document_id": pl.Int64, "text": pl.String})
    joined = (
        part.explode("spans", "texts")
        .unnest("spans")
        .group_by("document_id")
        .agg(text=pl.col("texts").sort_by("char_start", maintain_order=True).str.join(""))
        for part in parts
    )
    return pl.concat([empty, *joined])


REFINED_SEQUENCES = Kind(
    name="refined_sequences",
    code_version="1",
    section="selection",
    name_columns=("selection", "tokenizer"),
    technologies=frozenset({"parquet"}),
    description="""One row for each sequence of selected text in the tokens of another tokenizer.

The spans of text of the selected sequences are joined where nothing was left out between them, tokenised as they are,
each ended by the end-of-document token, and packed as documents are. What the tokenizer cannot encode lies in
`rejected.parquet`.""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    table=tables.SEQUENCES,
    is_view=True,
    checks=(EVERY_BYTE_IS_PACKED, NO_PASSAGE_IS_REJECTED, TOKENS_SPELL_THE_TEXT),
    cost=_cost,
    problems=_problems,
    verify=_verify,
    columns={
        **SEQUENCES.columns,
        "split": "candidate",
        "spans": "the characters of documents that it holds, all of them selected",
        tables.CUT_ENDS: "places of end-of-document tokens that end no document, and are not learnt",
    },
)
