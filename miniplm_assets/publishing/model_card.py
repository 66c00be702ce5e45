"""The card of a student, by the hub's own card classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from miniplm_assets.publishing.licence import licence_section
from miniplm_assets.publishing.markdown import MAX_SHOWN_DOMAINS, plain, table
from miniplm_assets.publishing.provenance import Published, made_section, method_section

# Of the totals of an evaluation: the name in its facts, the metric's here, and in words.
METRICS: Final = (
    ("nll_nats_per_token", "nats_per_token", "held-out loss in nats a token"),
    ("bits_per_byte", "bits_per_byte", "held-out loss in bits a byte"),
)
_SPLIT: Final = "validation"


@dataclass(frozen=True, kw_only=True)
class PublishedModel(Published):
    """A student as its card shows it.

    Attributes:
        seed: that made it.
        evaluations: the facts of the evaluation of each seed that has been measured, its own among them.
    """

    seed: int
    evaluations: Mapping[int, Mapping[str, Any]]


def model_card(model: PublishedModel) -> str:
    """Return the README.md of a student's repository."""
    from huggingface_hub import ModelCard, ModelCardData

    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=model.license_id,
        tags=list(model.tags),
        datasets=None if model.corpus_id is None else [model.corpus_id],
        model_name=model.name,
        eval_results=_eval_results(model) or None,
    )
    sections = [
        f"# {plain(model.name)}\n\n{model.summary}",
        _usage(model),
        _figures(model),
        made_section(model.made),
        *([method_section()] if model.is_by_difference else []),
        licence_section(model.license_id),
        model.provenance.to_markdown(),
    ]
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _eval_results(model: PublishedModel) -> list[Any]:
    """Return what this very model costs, and in the arguments what its seeds cost on the average."""
    from huggingface_hub import EvalResult

    own = model.evaluations[model.seed]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text Generation",
            dataset_type=model.corpus_id or "custom",
            dataset_name=f"{_SPLIT} split of the corpus, {own['over']}",
            dataset_split=_SPLIT,
            metric_type=metric,
            metric_name=words,
            metric_value=own[fact],
            metric_args={
                "seed": model.seed,
                "num_seeds": len(model.evaluations),
                "mean_over_seeds": fmean(_over(model, fact)),
            },
        )
        for fact, metric, words in METRICS
        if own[fact] is not None
    ]


def _usage(model: PublishedModel) -> str:
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{model.repository or "path/to/this/folder"}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=30)[0]))
```"""


def _figures(model: PublishedModel) -> str:
    own = model.evaluations[model.seed]
    *domains, total = own["by_domain"]
    largest = sorted(domains, key=lambda row: -row["num_scored_tokens"])[:MAX_SHOWN_DOMAINS]
    shown = [*(row for row in domains if row in largest), total]
    num_left = len(domains) - len(largest)
    more = f"\n\n{num_left:,} smaller domains are not shown." if num_left else ""
    rows = [
        (
            plain(row["domain"]),
            row["num_scored_tokens"],
            row["nll_nats_per_token"],
            row["perplexity"],
            row["bits_per_byte"],
        )
        for row in shown
    ]
    return f"""## Held-out loss

Of this model (seed {model.seed}), in float32, on the validation split, from which nothing is trained here; the last
row is what counts. Nats a token compare models of one tokenizer only, bits a byte any two.

{table(["domain", "tokens", "nats a token", "perplexity", "bits a byte"], rows)}{more}

{_over_seeds(model)}"""


def _over_seeds(model: PublishedModel) -> str:
    if len(model.evaluations) == 1:
        return "One seed alone (n = 1) cannot tell an effect from chance."
    rows = []
    for fact, _, words in METRICS:
        values = _over(model, fact)
        if values:
            rows.append((words, fmean(values), min(values), max(values)))
    seeds = ", ".join(map(str, sorted(model.evaluations)))
    head = ["over all that counts", "mean", "lowest", "highest"]
    return f"Over n = {len(model.evaluations)} seeds ({seeds}):\n\n{table(head, rows)}"


def _over(model: PublishedModel, fact: str) -> list[float]:
    """Return a total of each seed; of none where nothing was scored."""
    return [facts[fact] for facts in model.evaluations.values() if facts[fact] is not None]
