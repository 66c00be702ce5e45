"""Which model types of transformers come through here: all are listed, and what is said of some is tried again."""

import json
import re

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.model_types import TABLE, WORKS, outcome_in_time

# Of each kind one: dense, grouped heads, learned and turned positions, a cap, a scale, experts, a state space, a mix of
# both; and what looks at both sides, or cannot be balanced.
SOME = (
    "bert",
    "bloom",
    "cohere",
    "deepseek_v4",
    "doge",
    "falcon",
    "gemma2",
    "gpt2",
    "jamba",
    "llama",
    "mamba",
    "mixtral",
)


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def test_every_model_type_is_listed_and_what_does_not_come_through_has_a_reason(table) -> None:
    assert sorted(table) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), "run python -m tests.model_types"
    assert not [name for name, outcome in table.items() if outcome.startswith("UNEXPLAINED")]
    # Nothing trains and is then another model: that would be a fault, not a reason.
    assert not [name for name, outcome in table.items() if outcome.startswith(("its first loss", "its last loss"))]
    assert sum(outcome == WORKS for outcome in table.values()) > 90


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", SOME)
def test_what_the_list_says_holds(table, model_type: str) -> None:
    assert without_figures(outcome_in_time(model_type)) == without_figures(table[model_type])


def without_figures(outcome: str) -> str:
    """Leave out by how much: the last digits are a machine's."""
    return re.sub(r"\d+\.\d+", "#", outcome)
