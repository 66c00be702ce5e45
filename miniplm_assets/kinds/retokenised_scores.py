"""`<reference>/<tokenizer>/retokenised_reference_scores`: a reference on another tokenizer's sequences."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.experiment import Experiment
from miniplm_assets.kinds.models import Who
from miniplm_assets.kinds.retokenised_sequences import NAME as RETOKENISED
from miniplm_assets.kinds.retokenised_sequences import retokenised
from miniplm_assets.kinds.scores import Pass, ScoredRows, max_sequence_tokens, score_node, scores_key, scores_kinds
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.lineage.kind import Blueprint, Node

REFERENCE: Final = "reference"


def _nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[ScoredRows]]:
    experiment = blueprint.experiment
    for (name, tokenizer), scored in retokenised(experiment).items() if who == REFERENCE else ():
        node = score_node(
            RETOKENISED_SCORES,
            name,
            who,
            (name, scored),
            ScoredRows(scoring=scored.scoring.by(None, None), max_sequence_tokens=max_sequence_tokens(experiment)),
            inputs={SEQUENCES.name: key_of(RETOKENISED, name, tokenizer)},
        )
        yield replace(node, names=(name, tokenizer))


def _num_tokens(_settings: ScoredRows, per_split: Mapping[str, int]) -> float:
    return per_split[CANDIDATE] + per_split[VALIDATION]


_KIND = scores_kinds(
    Pass(
        prefix="retokenised_",
        code_version="1",
        description="""One row for each sequence of another tokenizer: the log-probability of its text under the {who}.

In nats. The {who} reads the text in its own tokens, and is asked for the same bytes as the teacher.""",
        nodes=_nodes,
        num_tokens=_num_tokens,
        is_view=True,
    )
)[REFERENCE]
RETOKENISED_SCORES = replace(
    _KIND,
    name_columns=("reference", "tokenizer"),
    columns={
        "sequence_id": "of the sequence, as it is selected",
        "logprob_nats": "sum of log p(token | the tokens before it) over the reference's tokens that are asked for",
        "num_scored_tokens": "how many tokens of the sequence, as it is selected, have the same text",
    },
)


def scores_of_everything(experiment: Experiment, selection: str, who: Who) -> str:
    """Return the key of the scores that a model of a selection has of all candidates."""
    model, tokenizer = experiment.selections[selection].models[who], experiment.selection_tokenizer(selection)
    if experiment.is_retokenised(selection, who) and tokenizer is not None:
        return key_of(RETOKENISED_SCORES.name, model, tokenizer)
    return scores_key(who, model)
