"""What the page of a teacher, a reference or a student says: how far down its loss came, and what it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from miniplm_assets.kinds.student_words import seeds_in_words
from miniplm_assets.lineage.page import Cell, Entry, Lines, Page, Rows, amount, seconds_in_words
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.stored_parameters import count_stored_parameters
from miniplm_assets.storage.store import Result
from miniplm_assets.training.train import TRAINING_LOG

LOSS: Final = "held_out_nll_nats_per_token"
CURVE: Final = "sample loss, nats / token"
# What configurations call the same, by what a person calls it.
SHAPE: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "key and value heads": ("num_key_value_heads",),
    "vocabulary": ("vocab_size",),
    "longest sequence, tokens": ("max_position_embeddings", "n_positions"),
}


def copied_model_page(result: Result, *, source: str, licence: str) -> Page:
    """Return the page of a teacher or a reference that others trained."""
    return Page(
        outcome={"outcome": f"A copy of {source}, as others trained it."},
        made_of={**_shape(result), "source": source, "licence": licence},
    )


def own_model_page(result: Result, *, split: str) -> Page:
    """Return the page of a teacher or a reference that was trained here, on one split of the corpus."""
    facts = result.facts
    return Page(
        outcome={
            "outcome": f"Sample loss {_nats(facts[LOSS])} {_measured_on(facts)}, after {_cost_in_words(facts)}.",
            CURVE: Lines({"": _curve(result)}, x="tokens"),
        },
        made_of={
            **_shape(result),
            "source": f"trained here, from scratch, on the {split} split of the corpus",
            "licence": "yours to state: it was trained on your corpus alone",
            "training": _training([facts]),
        },
    )


def _measured_on(facts: Mapping[str, Any]) -> str:
    """Say what a loss along the way is measured on: evaluations are of more text, and may leave domains out."""
    return f"on {amount(facts['num_held_out_sequences'])} held-out sequences of all domains"


def student_page(work: Work[Any], _result: Result) -> Page:
    """Return the page of a student: its seeds beside one another.

    Args:
        work: has just made it, or found it stored.
    """
    seeds = work.tally.pieces
    every = [one.facts for one in seeds.values()]
    losses = [facts[LOSS] for facts in every]
    spread = seeds_in_words(losses)
    first = next(iter(seeds.values()))
    return Page(
        outcome={
            "outcome": f"Sample loss {_nats(sum(losses) / len(losses))}{spread} {_measured_on(every[0])}, after "
            f"{_cost_in_words(every[0])}" + (" each." if spread else "."),
            CURVE: Lines({f"seed {seed}": _curve(one) for seed, one in seeds.items()}, x="tokens"),
            "seeds, nats / token": Rows(
                ("seed", "sample loss", "training loss", "tokens", "seconds"),
                [
                    [seed, one[LOSS], one["training_nll_nats_per_token"], one["num_tokens"], one["training_seconds"]]
                    for seed, one in zip(seeds, every, strict=True)
                ],
            ),
        },
        made_of={
            "learnt from": ", ".join(work.node.inputs.values()),
            "objective": work.settings.objective.type.replace("_", " "),
            "how it stands": "its held-out loss, over all of that text, is in its evaluation; against its baseline, in "
            "student_differences",
            **_shape(first),
            "training": _training(every),
        },
    )


def _shape(result: Result) -> dict[str, Entry]:
    return {"shape": Rows(("shape", "value"), shape_of(result.folder, result.facts.get("num_parameters")))}


def shape_of(folder: Path, num_parameters: int | None) -> list[list[Cell]]:
    """Return what a model's folder says of its shape, a row for each; as far as it says so.

    Args:
        folder: of the model.
        num_parameters: where they are known; else its files are asked.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    rows: list[list[Cell]] = [["type", config.get("model_type")]]
    rows.append(["parameters", num_parameters or count_stored_parameters(folder)])
    for name, keys in SHAPE.items():
        value = next((config[key] for key in keys if key in config), None)
        rows.append([name, value])
    return [row for row in rows if row[1] is not None]


def _curve(result: Result) -> Sequence[tuple[float, float]]:
    log = pl.read_parquet(result.folder / TRAINING_LOG, columns=["num_tokens", LOSS], glob=False).drop_nulls()
    return [(float(tokens), float(loss)) for tokens, loss in log.iter_rows()]


def _cost_in_words(facts: Mapping[str, Any]) -> str:
    tokens, seconds = amount(facts["num_tokens"], "tokens"), seconds_in_words(facts["training_seconds"])
    return f"{tokens} in {seconds} on {facts.get('device', 'a device that was not written down')}"


def _nats(loss: float) -> str:
    return f"{loss:.4g} nats a token"


def _training(every: Sequence[Mapping[str, Any]]) -> Rows:
    facts = every[0]
    seconds = sum(one["training_seconds"] for one in every)
    rows: list[list[Cell]] = [
        ["steps", facts["num_steps"]],
        ["sequences", facts["num_sequences"]],
        ["epochs", facts["num_epochs"]],
        ["FLOPs", f"{facts['training_flops']:.3g}"],
        ["tokens a second", round(len(every) * facts["num_tokens"] / seconds) if seconds else None],
        ["held-out sequences", facts["num_held_out_sequences"]],
    ]
    if len(every) == 1:
        rows.append(["training loss, nats / token", facts["training_nll_nats_per_token"]])
    return Rows(("each seed, about" if len(every) > 1 else "training", "value"), rows)
