"""What the report says of selections, read from their stored tables."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from miniplm_assets.core.recipe import key_of
from miniplm_assets.evaluation.report.blocks import Block, Column, Picture, Section, Table, Words
from miniplm_assets.evaluation.report.drawings import column_lineage
from miniplm_assets.evaluation.report.numbers import any_cell
from miniplm_assets.evaluation.report.selections import SelectionTold, selection_section
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES
from miniplm_assets.kinds.agreement import NAME as SCORE_AGREEMENT
from miniplm_assets.kinds.origin_words import cutoff_words
from miniplm_assets.kinds.parameters import WORDS_OF_UNIT
from miniplm_assets.kinds.proxy_agreement import PROXY_AGREEMENT
from miniplm_assets.kinds.report_inputs import Inputs
from miniplm_assets.kinds.scores import PILOT
from miniplm_assets.kinds.selection import DOMAIN_SHIFT, REFINED_CORPUS, SCORE_DISTRIBUTION

EXTREMES: Final = "extreme_sequences"
LENGTHS: Final = "length_bias"
# With more selections than this, each is unfolded by the reader.
MAX_OPEN: Final = 3
SHOWN: Final = (CUTOFF, DOMAIN_SHIFT, SCORE_DISTRIBUTION, EXTREMES, LENGTHS)
KNOWN_OF_A_SELECTION: Final = frozenset(
    {*SHOWN, PILOT, SCORE_AGREEMENT, PROXY_AGREEMENT.name, "corpus_profile", REFINED_CORPUS}
)
WORDS_OF_GATE: Final = {
    PILOT: "The pilot, a share of the candidates before all were scored",
    SCORE_AGREEMENT: "A sample, scored a second time",
    PROXY_AGREEMENT.name: "The proxy, on candidates that it did not learn from",
}
WORDS_OF_SCORE: Final = {
    "difference": "the difference: log-probability under the teacher, less that under the reference",
    "teacher": "the log-probability under the teacher alone",
    "reference": "the log-probability under the reference alone",
    "prior": "how usual the frequencies of its tokens are, without a model",
    "random": "chance: a hash of each sequence",
}


def selections_section(
    inputs: Inputs, selections: Mapping[str, Mapping[str, str]], sources: Mapping[str, str]
) -> Section | None:
    """Say what each selection did.

    Args:
        inputs: of the report.
        selections: the settings of each, in words.
        sources: where the models are from, in words.
    """
    if not selections:
        return None
    sections = [
        selection_section(_told(inputs, name, settings, sources, place), place=place, is_folded=place >= MAX_OPEN)
        for place, (name, settings) in enumerate(selections.items())
    ]
    words = Words(text="\n\n".join(selection_said(inputs, name) for name in selections))
    return Section(title="What was selected", blocks=[words], sections=sections)


def selection_said(inputs: Inputs, name: str) -> str:
    """Return a sentence on what a selection keeps."""
    cutoff = inputs.facts(key_of(CUTOFF, name))
    kept = cutoff["num_kept"] / cutoff["num_candidates"]
    tokens = cutoff["num_kept_tokens"] / cutoff["num_candidate_tokens"]
    return (
        f"{name} keeps {kept:.1%} of the candidate sequences, with {tokens:.1%} of their tokens: "
        f"{cutoff['num_kept_tokens']:,} of {cutoff['num_candidate_tokens']:,}."
    )


def _told(
    inputs: Inputs, name: str, settings: Mapping[str, str], sources: Mapping[str, str], place: int
) -> SelectionTold:
    keys = {table: key_of(table, name) for table in SHOWN}
    cutoff = inputs.facts(keys[CUTOFF])
    ranking = inputs.assets[keys[SCORE_DISTRIBUTION]].inputs[DIFFERENCES].rpartition("/")[2]
    is_difference = ranking == DIFFERENCES
    return SelectionTold(
        name=name,
        made=_made(settings, sources, cutoff),
        gates=list(_gates(inputs, name)),
        cutoff=cutoff,
        unit=WORDS_OF_UNIT[cutoff["rank_by"]],
        quantity="difference" if is_difference else ranking.replace("_", " "),
        is_difference=is_difference,
        domain_shift=inputs.table(keys[DOMAIN_SHIFT]),
        distribution=inputs.table(keys[SCORE_DISTRIBUTION]),
        extremes=inputs.table(keys[EXTREMES]),
        length_bias=inputs.table(keys[LENGTHS]),
        sources={table: inputs.source(key) for table, key in keys.items()},
        pictures=[
            _columns(inputs, key_of(table, name), place)
            for table in dict.fromkeys((ranking, REFINED_CORPUS))
            if key_of(table, name) in inputs
        ],
        more=[
            table
            for key in inputs.assets
            if inputs.section(key) == "selection"
            and inputs.assets[key].names[0] == name
            and inputs.kind(key) not in KNOWN_OF_A_SELECTION
            for table in inputs.tables(key)
        ],
    )


def _made(settings: Mapping[str, str], sources: Mapping[str, str], cutoff: Mapping[str, Any]) -> dict[str, str]:
    shown = dict(settings)
    rows = {"ranked by": f"{WORDS_OF_SCORE[shown.pop('score')]}, in {WORDS_OF_UNIT[cutoff['rank_by']]}"}
    if "unwanted_domains" in shown:
        rows["ranked by"] += ", with the unwanted domains last: by the labels of the text, which a filter does not know"
    for who in ("teacher", "reference"):
        if who in shown:
            model = shown.pop(who)
            rows[who] = f"{model}: {sources.get(f'{who} {model}', '')}"
    shown.pop("rank_by", None)
    if shown.get("order") == "highest":
        del shown["order"]
    rows |= {name.replace("_", " "): words for name, words in shown.items()}
    # In the words of whoever publishes it, a sentence.
    rows["outcome"] = f"{cutoff_words(cutoff)}"
    rows["below zero"] = f"{cutoff['share_below_zero']:.1%} of the candidate sequences"
    return rows


def _gates(inputs: Inputs, name: str) -> Iterator[Block]:
    """Say what each gate found, and by which numbers."""
    for gate, what in WORDS_OF_GATE.items():
        key = key_of(gate, name)
        if key not in inputs:
            continue
        facts = inputs.facts(key)
        said = [facts["verdict"].replace("**", "")] if "verdict" in facts else inputs.found(key)
        yield Words(text=f"{what}: {' '.join(said)}")
        numbers = {fact: value for fact, value in facts.items() if isinstance(value, int | float)}
        measures = facts.get("measures") or [{"measure": fact, "value": value} for fact, value in numbers.items()]
        heads = [head for head in measures[0] if head != "measure"]
        yield Table(
            caption=f"What it measured ({gate.replace('_', ' ')})",
            columns=[Column("measure"), *map(Column, heads)],
            rows=[
                [row["measure"].replace("_", " "), *(any_cell(row["measure"], row[head]) for head in heads)]
                for row in measures
            ],
            sources=[inputs.source(key)],
            is_folded=True,
        )


def _columns(inputs: Inputs, key: str, place: int) -> Picture:
    node = inputs.assets[key]
    sources = {
        column: [(node.inputs[role], source) for role, source in pairs if role in node.inputs]
        for column, pairs in node.kind.column_sources().items()
    }
    title = f"Where each column of {key} comes from"
    return Picture(
        caption=title,
        svg=column_lineage(key, sources, name=f"columns-{place}-{node.kind.name}", title=title),
        sources=[inputs.source(key)],
        note="Read off the SQL. Filters and the conditions of joins are not shown.",
        is_folded=True,
        is_wide=True,
    )
