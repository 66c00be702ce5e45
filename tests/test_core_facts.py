"""Facts of shards, added up by hand."""

import pytest

from miniplm_assets.core.facts import model_tokens, sum_facts

SHARDS = [
    {
        "num_sequences": 3,
        "logprob_nats": -1.5,
        "by_split": {"candidate": {"web": {"num_tokens": 10}}, "validation": {"web": {"num_tokens": 1}}},
        "is_trimmed": True,
        "domain": "web",
        "lengths": [1, 2],
        "missing": None,
    },
    {
        "num_sequences": 4,
        "logprob_nats": -0.25,
        "by_split": {"candidate": {"web": {"num_tokens": 20}, "code": {"num_tokens": 7}}},
        "is_trimmed": True,
        "domain": "code",
        "lengths": [3],
        "missing": None,
        "num_rejected": 2,
    },
]


def test_numbers_add_up_at_every_depth_and_nothing_else_is_there() -> None:
    expected = {
        "num_sequences": 7,
        "logprob_nats": -1.75,
        "by_split": {
            "candidate": {"web": {"num_tokens": 30}, "code": {"num_tokens": 7}},
            "validation": {"web": {"num_tokens": 1}},
        },
        "num_rejected": 2,
    }
    assert sum_facts(SHARDS) == expected
    assert sum_facts(reversed(SHARDS)) == expected
    assert sum_facts([]) == {}
    assert SHARDS[0]["num_sequences"] == 3  # nothing is added up in place


@pytest.mark.parametrize(
    ("facts", "num_tokens"),
    [
        (
            {
                "num_scored_tokens": 999,
                "by_split_and_domain": {
                    "candidate": {"web": {"num_scored_tokens": 5.0}, "code": {"num_scored_tokens": 7.0}},
                    "validation": {"web": {"num_scored_tokens": 11.0}},
                },
            },
            5 + 7 + 11,
        ),
        ({"training_flops": 600, "num_tokens": 40.0, "num_scored_tokens": 999}, 40),
        ({"num_scored_tokens": 9.0, "num_tokens": 999}, 9),
        ({"num_tokens": 999}, 0),  # a corpus: tokens, but none that a model has seen
    ],
)
def test_the_tokens_of_a_model_are_those_scored_or_trained_on(facts: dict[str, object], num_tokens: int) -> None:
    found = model_tokens(facts)
    assert (found, type(found)) == (num_tokens, int)
