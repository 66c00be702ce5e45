"""What the page of a generated corpus says: how much the teacher wrote, and what that looks like."""

from typing import Any, Final

import polars as pl

from miniplm_assets.core.words import cut
from miniplm_assets.lineage.facts_page import results_of
from miniplm_assets.lineage.page import Cell, Entry, Page, Rows, amount, device_time_in_words, percent
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

NUM_EXAMPLES: Final = 3
CHARACTERS_OF_AN_EXAMPLE: Final = 160


def generated_page(work: Work[Any], result: Result) -> Page:
    """Return the page of sequences that a teacher continued."""
    facts = result.facts
    sequences, written = facts["num_sequences"], facts["num_generated_tokens"]
    took = device_time_in_words(facts.get("device_seconds"), written)
    outcome: dict[str, Entry] = {
        "outcome": f"Of {amount(sequences)} sequences the teacher wrote {amount(written)} of "
        f"{amount(facts['num_tokens'])} tokens ({percent(written, facts['num_tokens'])}){took}; the others are the "
        "prompts."
    }
    counts: list[list[Cell]] = [
        [what, facts[name], percent(facts[name], sequences)]
        for what, name in (
            ("the teacher ended the document", "num_ended"),
            ("no longer than a prompt: a prompt as a whole", "num_short"),
            ("left as it is: its prompt ends a document", "num_kept_as_they_are"),
        )
    ]
    outcome["what became of them"] = Rows(("of the sequences", "number", "share"), counts)
    return Page(outcome=outcome | _examples(work, result), made_of=_asked(work))


def _examples(work: Work[Any], result: Result) -> dict[str, Entry]:
    """Return how some of what the teacher wrote begins: of the first corpus file that has any."""
    wanted = pl.col("continuation").str.strip_chars() != ""
    for piece in results_of(work, result):
        rows = (
            pl.scan_parquet(piece.matching(work.node.kind.table or ""), glob=False)
            .filter(wanted)
            .select("domain", "continuation")
            .head(NUM_EXAMPLES)
            .collect()
        )
        if rows.height:
            told: list[list[Cell]] = [
                [domain, cut(text, CHARACTERS_OF_AN_EXAMPLE)] for domain, text in rows.iter_rows()
            ]
            return {"how what it wrote begins": Rows(("domain", "text"), told)}
    return {}


def _asked(work: Work[Any]) -> dict[str, Entry]:
    settings = work.settings
    how = settings.decoding.sampling.model_dump(exclude_none=True)
    rows: list[list[Cell]] = [["tokens of a prompt", settings.prompt_tokens]]
    rows += [[name.replace("_", " "), value] for name, value in how.items()]
    return {"continued by": work.node.inputs["model"], "settings asked for": Rows(("setting", "value"), rows)}
