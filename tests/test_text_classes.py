"""Where the difference lies by class of token: what each token is of, by hand, and sums over all candidates."""

import dagster as dg
import numpy as np
import polars as pl
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.corpus.text_classes import CLASSES, TextClasses
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import write_experiment
from tests.test_golden import two_models

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")


@pytest.mark.parametrize(
    ("tokens", "classes"),
    [
        ([" The", " 42", "nd", " (", "\n\t", " x1", " 1.5"], "word number word punctuation white_space word number"),
        ([" See", " http", "s", "://", "a", ".b", "/1", ",", " now"], "word" + " url" * 7 + " word"),
        ([" www", ".a", "\n", "b"], "url url white_space word"),
        ([" http", "", "s://a.b"], "word special word"),  # an end of document between them
        (["\U0001f642", "—", "é", "数", "²"], "punctuation punctuation word word number"),
        (["<a=", "http://x", '">', "y"], "word url punctuation word"),
    ],
)
def test_what_a_token_is_of(tokens, classes):
    found = TextClasses([token.encode() for token in tokens]).of(np.arange(len(tokens)))
    assert [CLASSES[one] for one in found] == classes.split()


def test_a_part_of_a_character_is_of_a_word():
    pieces = ["é".encode()[:1], "é".encode()[1:]]
    assert [CLASSES[one] for one in TextClasses(pieces).of(np.arange(2))] == ["word", "word"]


def test_the_classes_add_up_to_the_difference_of_all_candidates(tmp_path):
    content = two_models(tmp_path) | {
        "selections": {"half": {"teacher": "large", "reference": "small", "keep_fraction": 0.5}},
    }
    pipeline = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    assert "half/gap_by_text_class" not in pipeline.graph  # no log-probability of a token is kept
    for section in ("teachers", "references"):
        for scored in content[section].values():
            scored["scoring"] = {"keep_token_logprobs": True}
    pipeline = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    with dg.DagsterInstance.ephemeral() as instance:
        selection = 'key:raw_corpus or +key:"half/gap_by_text_class"'
        assert dg.materialize(build_assets(pipeline), instance=instance, selection=selection).success
    [folder] = [path for path in (tmp_path / "warehouse/half/gap_by_text_class").iterdir() if path.is_dir()]
    found = pl.read_parquet(folder / "gap_by_text_class.parquet")
    ranked = pl.concat(
        pl.read_parquet(path) for path in (tmp_path / "warehouse/half/difference_scores").rglob("*.parquet")
    )
    kept = ranked.sort("rank_difference", "sequence_id", descending=[True, False]).head(len(ranked) // 2)
    for texts, rows in (("candidates", ranked), ("kept", kept)):
        of = found.filter(texts=texts)
        assert of["num_tokens"].sum() == rows["num_scored_tokens"].sum()
        assert of["difference_nats"].sum() == pytest.approx(rows["difference_nats"].sum(), abs=0.5)  # of float16
        assert of["share_of_tokens"].sum() == pytest.approx(1)
        assert of["share_of_difference"].sum() == pytest.approx(1)
        nll = (of["teacher_nll_nats_per_token"] * of["num_tokens"]).sum()
        assert nll == pytest.approx(-rows["teacher_logprob_nats"].sum(), rel=1e-3)
        assert {"word", "number", "punctuation"} <= set(of["text_class"]) <= set(CLASSES)
