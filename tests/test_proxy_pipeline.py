"""A selection with a proxy, as assets: what is scored, what waits for what, and what a moved limit makes anew."""

import json
import shutil

import dagster as dg
import polars as pl
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.assets.failures import StepFailedError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.experiment import Experiment
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.verify import verify_derived
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.pages import value_of
from tests.test_gates_pipeline import made, materialise, scores, tables
from tests.test_identity import KINDS, SHARDS, SQL, content_of
from tests.test_rankings_pipeline import keys_before, scored_keys

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

PAIR = {"teacher": "large", "reference": "small", "keep_fraction": 0.5}
PROXY = {
    "share": 0.4,
    "held_out_share": 0.2,
    "min_rank_correlation": 0.1,
    "training": {"token_budget": 40_000, "sequences_per_step": 16, "peak_learning_rate": 2e-3},
}


@pytest.fixture(scope="module")
def guessed(tmp_path_factory):
    """Two files; a selection with a proxy, and the same without, for which both models score everything."""
    folder = tmp_path_factory.mktemp("guessed")
    write_shard(folder / "corpus" / "a.jsonl", MODULES[:3])
    write_shard(folder / "corpus" / "b.jsonl", MODULES[3:5])
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    content["selections"] = {"half": {**PAIR, "proxy": PROXY}, "full": PAIR}
    content["teachers"]["large"]["model"]["training"] = {
        **content["teachers"]["large"]["model"]["training"],
        "token_budget": 30_000,
    }
    experiment_file = write_experiment(folder / "experiment.yaml", content)
    with scored_keys() as keys:
        pipeline, result = materialise(experiment_file)
    assert result.success
    # What the proxy learns from is taken from the scores of everything, which the other selection asks for.
    assert set(keys) == {"large/teacher_scores", "small/reference_scores"}
    return folder, content, pipeline, result


def alone(content, folder, **proxy):
    """The same without the other selection, with a pilot, in another warehouse."""
    content = json.loads(json.dumps(content))
    del content["selections"]["full"]
    content["selections"]["half"]["proxy"] |= proxy
    content["pilot"] = {"share": 0.4}
    return write_experiment(folder / "experiment.yaml", content | {"warehouse": str(folder / "warehouse")})


def test_what_is_scored_keeps_its_difference_and_all_else_is_predicted(guessed):
    _, _, pipeline, result = guessed
    sequences = pl.read_parquet(f"{pipeline.store.root}/bpe/sequences/*/sequences.parquet")
    candidates = set(sequences.filter(split="candidate")["sequence_id"])
    validation = set(sequences.filter(split="validation")["sequence_id"])
    teacher, reference = (scores(pipeline, f"half/sampled_{who}_scores") for who in ("teacher", "reference"))
    scored = set(teacher["sequence_id"])
    assert set(reference["sequence_id"]) == scored >= validation
    scored -= validation
    assert scored < candidates and 0.3 < len(scored) / len(candidates) < 0.5

    predicted = pl.concat(
        pl.read_parquet(path) for path in (pipeline.store.root / "half/proxy_differences").glob("*/*.parquet")
    )
    assert set(predicted["sequence_id"]) == candidates - scored and len(predicted) == len(candidates - scored)
    tokens = scores(pipeline, "large/teacher_scores").select("sequence_id", "num_scored_tokens")
    both = predicted.join(tokens, on="sequence_id", validate="1:1")
    assert both["num_scored_tokens"].equals(both["num_scored_tokens_right"].alias("num_scored_tokens"))

    mixed, true = tables(pipeline, "half/proxy_scores"), tables(pipeline, "full/difference_scores")
    assert set(mixed["sequence_id"]) == candidates and len(mixed) == len(candidates)
    is_scored = mixed["sequence_id"].is_in(list(scored))
    assert mixed.filter(is_scored).equals(true.filter(true["sequence_id"].is_in(list(scored))))
    others = mixed.filter(~is_scored)
    assert others["difference_nats"].null_count() == len(others)
    guesses = dict(predicted.select("sequence_id", "predicted_difference_nats_per_token").iter_rows())
    assert dict(others.select("sequence_id", "rank_difference").iter_rows()) == guesses

    kept = tables(pipeline, "half/refined_corpus")["sequence_id"]
    best = sorted(mixed.select("rank_difference", "sequence_id").iter_rows(), key=lambda row: (-row[0], row[1]))
    assert set(kept) == {one for _, one in best[: len(best) // 2]}

    compared = tables(pipeline, "half/proxy_agreement")
    assert set(compared["sequence_id"]) < scored and 0.1 < len(compared) / len(scored) < 0.3
    held_out = true.join(compared, on="sequence_id", validate="1:1", suffix="_held_out", how="inner")
    assert len(held_out) == len(compared)
    assert held_out["difference_nats_per_token"].to_list() == held_out["difference_nats_per_token_held_out"].to_list()
    page = made(result)["half/proxy_agreement"]
    correlation = held_out.select(
        pl.corr("difference_nats_per_token", "predicted_difference_nats_per_token", method="spearman")
    )
    assert value_of(page, "rank_correlation") == pytest.approx(correlation.item()) and correlation.item() > 0.1


def test_verify_finds_both_again(guessed):
    lines: list[str] = []
    assert list(verify_derived(guessed[2], lines.append)) == []
    assert sum("that its scores ask for" in line for line in lines) == 2


def test_the_models_score_their_share_alone_where_nobody_asks_for_more(guessed, tmp_path):
    _, content, pipeline, _ = guessed
    sampled = {"half/sampled_teacher_scores", "half/sampled_reference_scores"}
    shutil.copytree(pipeline.store.root, tmp_path / "warehouse")
    for key in (*sampled, "large/teacher_scores", "small/reference_scores"):
        shutil.rmtree(tmp_path / "warehouse" / key)
    experiment_file = alone(content, tmp_path)
    graph = open_pipeline(experiment_file).graph
    assert not {"large/teacher_scores", "small/reference_scores"} & graph.keys()
    assert sampled <= set(graph["comparison"].inputs)
    assert "half/pilot" in keys_before(graph, "half/sampled_teacher_scores")
    with scored_keys() as keys:
        other, result = materialise(
            experiment_file, " or ".join(f'key:"{key}"' for key in sampled) + " or key:raw_corpus"
        )
    assert result.success and set(keys) == sampled
    for key in sampled:
        taken, scored = (scores(one, key).sort("sequence_id") for one in (pipeline, other))
        assert taken.drop("logprob_nats").equals(scored.drop("logprob_nats"))
        assert taken["logprob_nats"].to_list() == pytest.approx(scored["logprob_nats"].to_list(), rel=1e-5)


def test_a_moved_limit_trains_nothing_again_and_closes_the_gate(guessed):
    folder, content, _, _ = guessed
    moved = json.loads(json.dumps(content))
    moved["selections"]["half"]["proxy"]["min_rank_correlation"] = 0.999
    _, result = materialise(write_experiment(folder / "moved.yaml", moved))
    assert not result.success
    [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == "proxy_agrees"]
    assert not check.passed and "min_rank_correlation is 0.999" in check.description
    events = made(result)
    computed = {key: value_of(event, "num_results_computed") for key, event in events.items()}
    assert computed["half/proxy_model"] == 0 and computed["half/proxy_agreement"] == 1
    assert "half/proxy_differences" not in events and "half/refined_corpus" not in events
    assert {key for key, number in computed.items() if number} == {"half/proxy_agreement"}


def test_too_few_to_learn_from_or_to_judge_by_is_an_error(guessed):
    folder, content, _, _ = guessed
    few = json.loads(json.dumps(content))
    few["selections"]["half"]["proxy"]["held_out_share"] = 0.001
    pipeline = open_pipeline(write_experiment(folder / "few.yaml", few))
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(StepFailedError, match=r"to be judged by, and fewer"),
    ):
        dg.materialize(build_assets(pipeline), instance=instance, selection='key:"half/proxy_model"')


def test_the_plan_says_what_the_proxy_costs_and_what_it_spares(guessed, tmp_path):
    _, content, pipeline, _ = guessed
    content = json.loads(json.dumps(content))
    content["corpus"]["expected_tokens"] = 1_000_000
    planned = {one.key: one for one in plan(open_pipeline(alone(content, tmp_path, share=0.1)))}
    # Half of the corpus are candidates, a tenth is for validation.
    teacher, reference = (planned[f"half/sampled_{who}_scores"] for who in ("teacher", "reference"))
    assert teacher.num_tokens == reference.num_tokens == 150_000
    for one in (teacher, reference):
        num_parameters = one.flops // (2 * 150_000)
        spared, whole = 2 * num_parameters * 450_000, 2 * num_parameters * 600_000
        assert f"its proxy spares {spared:.3g} of {whole:.3g} FLOPs (75%)" in one.reasons
    model, predicted = planned["half/proxy_model"], planned["half/proxy_differences"]
    assert model.num_tokens == 40_000 and predicted.num_tokens == 450_000
    assert model.flops == 6 * num_parameters * 40_000 and predicted.flops == 2 * num_parameters * 450_000
    facts = json.loads(next(pipeline.store.root.glob("half/proxy_model/*/manifest.json")).read_text())["facts"]
    assert 0.9 < facts["num_parameters"] / num_parameters < 1.1


def test_a_proxy_of_named_files_stays_as_the_corpus_grows():
    found = []
    for shards in (["*"], ["a.*"]):
        content = content_of("guessed")
        content["tokenizers"]["bpe"]["shards"] = ["a.*"]
        for section in ("teachers", "references"):
            for one in content[section].values():
                if one["model"]["source"] == "trained":
                    one["model"]["shards"] = ["a.*"]
        content["selections"]["guessed"]["proxy"]["shards"] = shards
        graph = build_graph(KINDS, Experiment.model_validate(content), SQL)
        before, after = (
            Fingerprints(graph, files, lambda node: fingerprint_of(node.names))
            for files in (SHARDS, {**SHARDS, "c.jsonl": "3" * 32})
        )
        pieces = [one.pieces("guessed/proxy_differences") for one in (before, after)]
        found.append(pieces[0].items() <= pieces[1].items())
        is_same = [one.recipe("guessed/proxy_model").fingerprint for one in (before, after)]
        assert (is_same[0] == is_same[1]) == found[-1]
    assert found == [False, True]
