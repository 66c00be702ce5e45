"""docs/configuration.md, the reference of the experiment file, is what the schema and the graph say."""

import pytest

from docs.configuration_words import STAGES, UNITS
from docs.write_configuration import costs, page
from miniplm_assets.kinds.registry import PROJECT


@pytest.fixture(scope="module")
def written() -> str:
    return "\n".join(page()) + "\n"


def test_the_page_is_up_to_date(written: str) -> None:
    stored = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert stored == written, "write it anew: python -m docs.write_configuration > docs/configuration.md"


@pytest.mark.parametrize(
    ("key", "section", "cost"),
    [
        ("keep_fraction", "selections.NAME", "selection"),
        ("peak_learning_rate", "students.NAME.training", "student"),
        ("peak_learning_rate", "teachers.NAME.model.training", "models"),
        ("tokens_per_batch", "teachers.NAME.scoring", "nothing"),
        ("within_nats", "selections.NAME.rescoring", "rescoring"),
        ("excluded_domains", "evaluation", "evaluation, tasks"),
        ("max_flip_share", "selections.NAME.agreement", "agreement"),
    ],
)
def test_a_change_costs_what_docs_say_by_hand(written: str, key: str, section: str, cost: str) -> None:
    """As docs/results.md has it, under What one change costs."""
    _, _, below = written.partition(f"\n## {section}\n")
    (row,) = (line for line in below.partition("\n## ")[0].splitlines() if line.startswith(f"| `{key}` |"))
    assert row.rpartition(" | ")[2] == f"{cost} |"


def test_no_word_is_left_over(written: str) -> None:
    used = {stage for stages in costs().values() for stage in stages}
    assert used == set(STAGES)
    assert [name for name in UNITS if f"| `{name.rpartition('.')[2]}` |" not in written] == []
