"""What the page of a student's evaluation says: its loss, of all seeds together and of each domain."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from miniplm_assets.kinds.student_checkpoint import STUDENT_CHECKPOINT
from miniplm_assets.kinds.student_words import seeds_in_words
from miniplm_assets.lineage.page import Cell, Entry, Page, Rows, amount
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

LOSS = "nll_nats_per_token"
BITS = "bits_per_byte"


def evaluation_page(work: Work[Any], _result: Result) -> Page:
    """Return the page of a student's evaluation.

    Args:
        work: has just made it, or found it stored.
    """
    seeds = {seed: one.facts for seed, one in work.tally.pieces.items()}
    every = list(seeds.values())
    facts, losses = every[0], [one[LOSS] for one in every]
    tokens, sequences = (amount(facts[name]) for name in ("num_scored_tokens", "num_sequences"))
    outcome: dict[str, Entry] = {
        "outcome": f"Held-out loss {fmean(losses):.4g} nats a token ({fmean(one[BITS] for one in every):.4g} bits a "
        f"byte){seeds_in_words(losses)}, over {tokens} tokens of {sequences} validation sequences: {facts['over']}.",
        "by domain": _by_domain(every),
    }
    if len(every) > 1:
        columns = ("seed", "loss, nats / token", "perplexity", "bits / byte")
        outcome["by seed"] = Rows(
            columns, [[seed, one[LOSS], one["perplexity"], one[BITS]] for seed, one in seeds.items()]
        )
    num_states = facts.get("mean_over_last_checkpoints")
    measured = work.node.inputs[STUDENT_CHECKPOINT.name]
    made_of: dict[str, Entry] = {
        "measured": measured if num_states is None else f"{measured}, the mean over its last {num_states} states"
    }
    return Page(outcome=outcome, made_of=made_of | _context(every))


def _by_domain(every: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the loss of each domain, those of the seeds averaged."""
    cells: list[list[Cell]] = []
    for rows in zip(*(one["by_domain"] for one in every), strict=True):
        losses = [row[LOSS] for row in rows]
        spread = [min(losses), max(losses)] if len(every) > 1 else [rows[0]["perplexity"]]
        cells.append([rows[0]["domain"], fmean(losses), *spread, rows[0]["num_scored_tokens"]])
    middle = ("lowest", "highest") if len(every) > 1 else ("perplexity",)
    return Rows(("domain", "loss, nats / token", *middle, "scored tokens"), cells)


def _context(every: Sequence[Mapping[str, Any]]) -> dict[str, Entry]:
    """Return how much less tokens cost that have a long context, as far as anything has."""
    gains = [gain for one in every if (gain := one.get("in_context_gain_nats_per_token")) is not None]
    return {"long contexts lower the loss by, nats / token": round(fmean(gains), 4)} if gains else {}
