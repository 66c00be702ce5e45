"""What the page of scores says: how well the model predicts, and how fast it was."""

from collections.abc import Iterator, Mapping
from typing import Any

from miniplm_assets.core.facts import model_tokens
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.lineage.page import Cell, Entry, Page, Rows, amount, device_time_in_words
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import mean_nll
from miniplm_assets.storage.store import Result


def scores_page(work: Work[Any], result: Result) -> Page:
    """Return the page of the scores of some sequences under one model."""
    facts = result.facts
    by_split = facts.get("by_split_and_domain", {})
    num_tokens = model_tokens(facts)
    took = device_time_in_words(facts.get("device_seconds"), num_tokens)
    losses = ", ".join(_losses(by_split))
    follows = "" if work.settings.scoring.score_after_end_of_document else " or follows the end of a document"
    unscored = f"No token is scored that begins a sequence{follows}: nothing is before it."
    outcome: dict[str, Entry] = {
        "outcome": (f"The model's loss is {losses}. " if losses else "")
        + f"{amount(facts['num_sequences'])} sequences, {amount(num_tokens)} tokens, were scored{took}. {unscored}"
    }
    rows: list[list[Cell]] = []
    for split, domains in by_split.items():
        for domain, sums in sorted(domains.items()):
            scored = sums["num_scored_tokens"]
            loss = -sums["logprob_nats"] / scored if scored else None
            rows.append([split, domain, loss, scored])
    if rows:
        outcome["loss by domain"] = Rows(("split", "domain", "loss, nats / token", "scored tokens"), rows)
    scoring = work.settings.scoring
    how = [scoring.backend, scoring.dtype, f"engine {scoring.engine}"]
    return Page(outcome=outcome, made_of={"model": work.node.inputs["model"], "scored with": ", ".join(map(str, how))})


def _losses(by_split: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """Say how well a model predicts each split, all its domains together."""
    for split, domains in by_split.items():
        loss = mean_nll(domains, excluded_domains=())
        if loss is not None:
            yield f"{loss:.4g} nats a token on {'the candidates' if split == CANDIDATE else f'the {split} split'}"
