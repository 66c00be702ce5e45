"""What the page of scores says: how well the model predicts, and how fast it was."""

from typing import Any

from miniplm_assets.core.facts import model_tokens
from miniplm_assets.lineage.page import Cell, Entry, Page, Rows, amount, seconds_in_words
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result


def scores_page(work: Work[Any], result: Result) -> Page:
    """Return the page of the scores of some sequences under one model."""
    facts = result.facts
    num_tokens, seconds = model_tokens(facts), facts.get("device_seconds")
    speed = f", {num_tokens / seconds:,.0f} tokens a second" if seconds else ""
    took = "" if seconds is None else f" in {seconds_in_words(seconds)} of a device{speed}"
    outcome: dict[str, Entry] = {
        "outcome": f"{amount(facts['num_sequences'])} sequences, {amount(num_tokens)} tokens, were scored{took}."
    }
    rows: list[list[Cell]] = []
    for split, domains in facts.get("by_split_and_domain", {}).items():
        for domain, sums in sorted(domains.items()):
            scored = sums["num_scored_tokens"]
            loss = -sums["logprob_nats"] / scored if scored else None
            rows.append([split, domain, loss, scored])
    if rows:
        outcome["loss by domain"] = Rows(("split", "domain", "nats / token", "tokens"), rows)
    scoring = work.settings.scoring
    how = [scoring.backend, scoring.dtype, f"engine {scoring.engine}"]
    return Page(outcome=outcome, made_of={"model": work.node.inputs["model"], "scored with": ", ".join(map(str, how))})
