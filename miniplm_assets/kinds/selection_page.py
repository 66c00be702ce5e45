"""What the pages of a selection's tables say: what is kept, what the cutoff is, and what stands highest and lowest."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from miniplm_assets.core.words import cut
from miniplm_assets.evaluation.report.drawings import as_document, column_lineage
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.agreement import CUTOFF
from miniplm_assets.kinds.parameters import WORDS_OF_UNIT
from miniplm_assets.kinds.selection_tables_page import TABLE_PAGES
from miniplm_assets.lineage.facts_page import page_of_table
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.page import Drawing, Entry, Page, Rows, amount, percent
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

EXTREMES: Final = "extreme_sequences"
NUM_TEXTS: Final = 3
# Of each text: three of them are read at once, and six fit into a page.
CHARACTERS_OF_A_TEXT: Final = 110


def page_of_model(work: Work[Any], result: Result) -> Page:
    """Return the page of a table that SQL makes, with where its columns come from."""
    own = PAGES.get(work.node.kind.name)
    page = page_of_table(work, result) if own is None else own(work, result)
    drawing = lineage_drawing(work.node)
    more: dict[str, Entry] = {} if drawing is None else {"column lineage": drawing}
    return Page(outcome=page.outcome, made_of={**page.made_of, **more})


def lineage_drawing(node: Node[Any]) -> Drawing | None:
    """Return a drawing of which columns of its inputs each column of a table is computed from; None where none is."""
    sources = {
        column: [(node.inputs[role], source) for role, source in pairs if role in node.inputs]
        for column, pairs in node.kind.column_sources().items()
    }
    if not any(sources.values()):
        return None
    title = f"Where each column of {node.key} comes from"
    return Drawing({title: as_document(column_lineage(node.key, sources, name="columns", title=title))})


def _cutoff(work: Work[Any], result: Result) -> Page:
    return Page(outcome={"outcome": _kept_in_words(result.facts), **_extremes_of(work)}, made_of=_asked(work.settings))


def _refined(work: Work[Any], result: Result) -> Page:
    key = work.node.inputs.get(CUTOFF)
    facts = {} if key is None else work.input(CUTOFF).facts
    outcome: dict[str, Entry] = {"outcome": _kept_in_words(facts)} if facts else {}
    files = [[file.name.removesuffix(".parquet"), file.num_rows, _mb(file.num_bytes)] for file in result.manifest.files]
    outcome |= _extremes_of(work)
    # How much is kept, the cutoff was asked.
    asked = work.settings if key is None else work.input_node(CUTOFF).settings
    return Page(outcome=outcome, made_of={**_asked(asked), "files": Rows(("corpus file", "sequences", "MB"), files)})


def _kept_in_words(facts: Mapping[str, Any]) -> str:
    """Return a cutoff as a sentence."""
    cutoff, unit = facts["cutoff_difference"], WORDS_OF_UNIT[facts["rank_by"]]
    if cutoff is None:
        return "Nothing was there to rank."
    kept, candidates = facts["num_kept"], facts["num_candidates"]
    tokens, of_tokens = facts["num_kept_tokens"], facts["num_candidate_tokens"]
    return (
        f"Kept are {amount(kept)} of {amount(candidates)} candidate sequences ({percent(kept, candidates)}), "
        f"{amount(tokens)} of {amount(of_tokens)} tokens ({percent(tokens, of_tokens)}). "
        f"The cutoff is a score of {cutoff:.6g} {unit}: what has as much or more is kept."
    )


def _asked(own: Settings) -> dict[str, Entry]:
    settings = own.model_dump(exclude_none=True)
    rows = [[name.replace("_", " "), str(value)] for name, value in settings.items() if value not in ((), {})]
    return {"settings asked for": Rows(("setting", "value"), rows)} if rows else {}


def _extremes_of(work: Work[Any]) -> dict[str, Entry]:
    """Return the highest and the lowest texts of a selection, where they are stored by now."""
    key = f"{work.node.names[0]}/{EXTREMES}"
    if key not in work.pipeline.graph:
        return {}
    stored = work.pipeline.store.find(work.fingerprints.recipe(key))
    return {"highest and lowest texts": f"on the page of {key}"} if stored is None else _texts(stored)


def _extremes(_work: Work[Any], result: Result) -> Page:
    rows = result.facts.get("rows", [])
    every = [[row["extreme"], row["rank_difference"], row["domain"], row["num_tokens"], row["text"]] for row in rows]
    columns = ("extreme", "score", "domain", "tokens", "text")
    return Page(outcome={**_texts(result), "all of them": Rows(columns, every, is_aside=True)})


def _texts(result: Result) -> dict[str, Entry]:
    rows = result.facts.get("rows", [])
    return {
        f"{NUM_TEXTS} {extreme}": Rows(
            ("score", "domain", "text"),
            [
                [row["rank_difference"], row["domain"], cut(row["text"], CHARACTERS_OF_A_TEXT)]
                for row in rows
                if row["extreme"] == extreme
            ][:NUM_TEXTS],
        )
        for extreme in ("highest", "lowest")
    }


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.2f}"


PAGES: Final[Mapping[str, Callable[[Work[Any], Result], Page]]] = {
    **TABLE_PAGES,
    CUTOFF: _cutoff,
    "refined_corpus": _refined,
    EXTREMES: _extremes,
}
