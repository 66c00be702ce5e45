"""The pilot, the agreement gate, the second pass and the log-probabilities of tokens, as assets."""

import queue
import threading
import time

import dagster as dg
import numpy as np
import polars as pl
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.errors import ExperimentError, ScoringError
from miniplm_assets.experiment import load_experiment
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.verify import verify_derived
from miniplm_assets.lm.device_time import DeviceTime
from miniplm_assets.lm.part_threads import PartThreads
from miniplm_assets.lm.score_shard import ShardScores
from miniplm_assets.lm.scores import sum_by_sequence
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.pages import value_of

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")


def materialise(experiment_file, select="*"):
    pipeline = open_pipeline(experiment_file)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(build_assets(pipeline), instance=instance, selection=select, raise_on_error=False)
    return pipeline, result


def made(result):
    return {
        "/".join(event.asset_key.path): event.materialization for event in result.get_asset_materialization_events()
    }


def tables(pipeline, key):
    [folder] = [one for one in (pipeline.store.root / key).iterdir() if not one.name.startswith(".")]
    return pl.read_parquet(sorted(folder.glob("*.parquet")))


def scores(pipeline, key):
    return pl.concat(pl.read_parquet(path) for path in sorted((pipeline.store.root / key).glob("*/scores.parquet")))


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    """Two files; models trained here; a pilot of four tenths, an agreement with bfloat16, and a second pass."""
    folder = tmp_path_factory.mktemp("gates")
    write_shard(folder / "corpus" / "a.jsonl", MODULES[:5])
    write_shard(folder / "corpus" / "b.jsonl", MODULES[5:])
    half = {"teacher": "large", "reference": "small", "keep_fraction": 0.5}
    content = tiny_experiment(
        folder / "corpus",
        folder / "warehouse",
        pilot={"share": 0.4, "min_spread_nats_per_token": 0.0, "max_share_below_zero": 1.0},
        selections={
            # Two models as alike as these rank by next to nothing, so that bfloat16 shuffles them.
            "half": {
                **half,
                "agreement": {
                    "dtype": "bfloat16",
                    "num_random": 40,
                    "num_around_cutoff": 20,
                    "min_rank_correlation": -1.0,
                    "max_flip_share": 1.0,
                },
            },
            "half_again": {**half, "rescoring": {"around": "half", "within_nats": 0.004, "dtype": "bfloat16"}},
        },
    )
    content["teachers"]["large"]["scoring"]["keep_token_logprobs"] = True
    del content["students"]
    experiment_file = write_experiment(folder / "experiment.yaml", content)
    pipeline, result = materialise(experiment_file)
    assert result.success
    return folder, content, pipeline, result


def test_a_pilot_scores_its_share_of_the_candidates_alone_and_as_the_whole_does(gates):
    _, _, pipeline, result = gates
    pilot, whole = (scores(pipeline, key) for key in ("large/pilot_teacher_scores", "large/teacher_scores"))
    sequences = pl.read_parquet(f"{pipeline.store.root}/bpe/sequences/*/sequences.parquet")
    candidates = sequences.filter(split="candidate")
    assert set(pilot["sequence_id"]) < set(candidates["sequence_id"])
    assert 0.2 < len(pilot) / len(candidates) < 0.6
    both = pilot.join(whole, on="sequence_id", validate="1:1")
    assert len(both) == len(pilot)
    # Not the same batches, so not the same bytes.
    assert (both["logprob_nats"] - both["logprob_nats_right"]).abs().max() < 1e-4 * 64
    page = made(result)["half/pilot"]
    assert value_of(page, "num_sequences") == len(pilot)
    assert "**Go.**" in value_of(page, "verdict")


def test_a_student_that_is_stored_already_and_as_good_as_the_teacher_is_told_of(gates, tmp_path):
    _, content, _, result = gates

    def check_of(result):
        checks = {("/".join(one.asset_key.path), one.check_name): one for one in result.get_asset_check_evaluations()}
        return checks["half/pilot", "teacher_is_ahead_of_students"]

    before = check_of(result)
    assert before.passed and before.metadata["num_students"].value == 0
    student = {"architecture": "tiny", "tokenizer": "bpe"}
    few, many = (content["teachers"]["large"]["model"]["training"] | {"token_budget": of} for of in (600, 60_000))
    content = content | {"students": {"few": {**student, "training": few}, "many": {**student, "training": many}}}
    experiment_file = write_experiment(tmp_path / "experiment.yaml", content)
    evaluations = 'key:raw_corpus or key:"few/student_checkpoint" or key:"few/student_evaluation" or '
    evaluations += 'key:"many/student_checkpoint" or key:"many/student_evaluation"'
    pipeline, result = materialise(experiment_file, evaluations)
    assert result.success
    pilot = scores(pipeline, "large/pilot_teacher_scores")
    sequences = pl.read_parquet(f"{pipeline.store.root}/bpe/sequences/*/sequences.parquet")
    counted = pilot.join(sequences.filter(pl.col("domain") != "noise"), on="sequence_id", how="semi")
    teacher = -counted["logprob_nats"].sum() / counted["num_scored_tokens"].sum()
    losses = {
        name: pl.read_parquet(f"{pipeline.store.root}/{name}/student_evaluation/*/held_out.parquet")
        .filter("is_total")["nll_nats_per_token"]
        .item()
        for name in ("few", "many")
    }
    assert losses["many"] < teacher < losses["few"]
    _, result = materialise(experiment_file, 'key:raw_corpus or key:"half/pilot"')
    after = check_of(result)
    assert not after.passed and after.severity == dg.AssetCheckSeverity.WARN
    assert after.metadata["num_students"].value == 2
    told = str(after.description) + str(after.metadata)
    assert f"many, seed 3: {losses['many']:.3f} nats a token, the teacher {teacher:.3f}" in told
    assert "few, seed" not in told


def test_agreement_holds_the_sample_against_scores_in_another_dtype(gates):
    _, _, pipeline, result = gates
    compared = tables(pipeline, "half/score_agreement")
    assert value_of(made(result)["half/score_agreement"], "outcome").startswith(
        "Both ways of scoring agree. Of 40 candidates drawn at random and scored again, "
    )
    assert compared["is_random"].sum() == 40 and compared["is_around_cutoff"].sum() == 20
    first = scores(pipeline, "large/teacher_scores").select("sequence_id", first="logprob_nats")
    joined = compared.join(first, on="sequence_id", validate="1:1")
    assert joined["teacher_logprob_nats"].equals(joined["first"].alias("teacher_logprob_nats"))
    errors = compared["teacher_error_nats_per_token"].abs()
    assert 0 < errors.mean() < 0.02  # bfloat16 is near, and not the same
    [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == "scores_agree"]
    assert check.passed


def test_what_float32_is_held_against_decides_the_limits(tmp_path):
    half = {"teacher": "large", "reference": "small", "keep_fraction": 0.5}
    agreements = {
        "exact": {"backend": "vllm"},
        "coarse": {"backend": "vllm", "dtype": "bfloat16"},
        "named": {"backend": "vllm", "max_flip_share": 0.5},
    }
    selections = {name: {**half, "agreement": agreement} for name, agreement in agreements.items()}
    content = tiny_experiment(tmp_path, tmp_path, selections=selections, students={})

    def mean_and_flips(name):
        pipeline = open_pipeline(write_experiment(tmp_path / "limits.yaml", content))
        settings = pipeline.graph[f"{name}/score_agreement"].settings
        limits = settings.agreement.limits(is_float32=settings.is_float32)
        return limits["max_mean_difference_nats_per_token"], limits["max_flip_share"]

    assert mean_and_flips("exact") == (1e-4, 0.002)
    assert mean_and_flips("named") == (1e-4, 0.5)
    assert mean_and_flips("coarse") == (0.02, 0.02)
    content["references"]["small"]["scoring"]["dtype"] = "bfloat16"
    assert mean_and_flips("exact") == (0.02, 0.02)


def test_token_logprobs_add_up_to_the_scores(gates):
    kept = scores(gates[2], "large/teacher_scores")
    sums = kept.select(pl.col("token_logprobs_nats").cast(pl.List(pl.Float64)).list.sum())["token_logprobs_nats"]
    assert (kept["token_logprobs_nats"].list.len() == kept["num_scored_tokens"]).all()
    assert np.allclose(sums, kept["logprob_nats"], rtol=2**-11)
    assert "token_logprobs_nats" not in scores(gates[2], "small/reference_scores").columns


class CountingScorer:
    """Scores by the tokens alone, and fails after some parts."""

    def __init__(self, fails_after=None):
        self.num_parts, self._fails_after = 0, fails_after
        self.num_under_way = self.most_under_way = 0
        self._lock = threading.Lock()

    def score(self, sequences, sequence_ids):
        with self._lock:
            if self.num_parts == self._fails_after:
                raise ScoringError("lost")
            self.num_parts += 1
            self.num_under_way += 1
            self.most_under_way = max(self.most_under_way, self.num_under_way)
        time.sleep(0.05)
        with self._lock:
            self.num_under_way -= 1
        logprobs = -np.concatenate([tokens[1:] for tokens in sequences]).astype(np.float32) / 7
        owners = np.repeat(np.arange(len(sequences)), [len(tokens) - 1 for tokens in sequences])
        return sum_by_sequence(logprobs, owners, sequence_ids)


def test_an_interrupted_shard_goes_on_from_its_parts_and_ends_with_the_same_bytes(gates, tmp_path):
    sequences = next((gates[2].store.root / "bpe" / "sequences").glob("*/sequences.parquet"))

    def score(name, scorer, num_devices=0):
        for folder in (tmp_path / name, tmp_path / f"{name}-work"):
            folder.mkdir(exist_ok=True)
        shard = ShardScores(
            sequences,
            shard="a",
            scorer=scorer,
            device_time=DeviceTime(1),
            sequences_per_part=25,
            work=tmp_path / f"{name}-work",
            folder=tmp_path / name,
            report=lambda _: None,
            keeps_token_logprobs=True,
        )
        with PartThreads(num_devices) as threads:
            for _, part in threads.in_order((("a", work) for work in shard.works()), queue.SimpleQueue()):
                shard.add(part)
        shard.close()
        return (tmp_path / name / "scores.parquet").read_bytes()

    whole = CountingScorer()
    expected = score("whole", whole)
    assert whole.num_parts > 3 and whole.most_under_way == 1
    # One more is under way than there are devices, and the bytes are the same.
    on_two = CountingScorer()
    assert score("on_two", on_two, num_devices=2) == expected
    assert on_two.most_under_way == 3
    with pytest.raises(ScoringError, match="lost"):
        score("interrupted", CountingScorer(fails_after=2))
    rest = CountingScorer()
    assert score("interrupted", rest) == expected
    assert rest.num_parts == whole.num_parts - 2


def test_a_second_pass_scores_the_band_again_and_nothing_else(gates):
    _, _, pipeline, _ = gates
    cutoff = tables(pipeline, "half/selection_cutoff").row(0, named=True)["cutoff_difference"]
    first = tables(pipeline, "half/difference_scores")
    band = set(first.filter((pl.col("rank_difference") - cutoff).abs() <= 0.004)["sequence_id"])
    assert 2 < len(band) < len(first) / 2
    before, after = (scores(pipeline, key) for key in ("large/teacher_scores", "half_again/rescored_teacher_scores"))
    both = before.join(after, on="sequence_id", validate="1:1")
    assert len(both) == len(before) == len(after)
    changed = both.filter(pl.col("logprob_nats") != pl.col("logprob_nats_right"))
    assert set(changed["sequence_id"]) == band
    assert list(verify_derived(pipeline, print)) == []


def test_a_moved_limit_scores_nothing_again_and_closes_the_gate(gates, tmp_path):
    folder, content, _, _ = gates
    content = {**content, "selections": {"half": content["selections"]["half"]}}
    content["selections"]["half"] = {
        **content["selections"]["half"],
        "agreement": {**content["selections"]["half"]["agreement"], "max_mean_difference_nats_per_token": 1e-9},
    }
    content["pilot"] = {**content["pilot"], "max_rank_correlation_with_one_model": 0.0}
    experiment_file = write_experiment(folder / "stricter.yaml", content)
    # The pilot alone: its check fails and the scores of the whole corpus are not asked for.
    _, result = materialise(experiment_file, select=["half/pilot", "large/teacher_scores"])
    assert not result.success
    assert "large/teacher_scores" not in made(result)
    content["pilot"] = gates[1]["pilot"]
    _, result = materialise(write_experiment(folder / "stricter.yaml", content))
    materialised = made(result)
    for key in ("large/pilot_teacher_scores", "large/teacher_scores", "half/agreement_teacher_scores"):
        assert value_of(materialised[key], "num_results_computed") == 0
    [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == "scores_agree"]
    assert not check.passed and "max_mean_difference_nats_per_token is 1e-09" in check.description
    assert "half/refined_corpus" not in materialised


def test_wrong_trials_are_refused_with_the_reason(tmp_path):
    half = {"teacher": "large", "reference": "small", "keep_fraction": 0.5}
    band = {"within_nats": 1, "dtype": "bfloat16"}
    content = tiny_experiment(
        tmp_path,
        tmp_path,
        selections={
            "half": {**half, "agreement": {"dtype": "float32"}},
            "again": {
                **half,
                "keep_fraction": 0.4,
                "rescoring": {"around": "half", **band},
            },
            "third": {**half, "rescoring": {"around": "hafl", **band}},
            "empty": {**half, "agreement": {}},
        },
    )
    with pytest.raises(ExperimentError) as caught:
        load_experiment(write_experiment(tmp_path / "wrong.yaml", content))
    assert "selections.empty.agreement: give backend, dtype or both" in str(caught.value)
    del content["selections"]["empty"]
    with pytest.raises(ExperimentError) as caught:
        load_experiment(write_experiment(tmp_path / "wrong.yaml", content))
    for words in (
        "selections.half.agreement: teacher and reference are scored by torch in float32 already",
        "'half' has keep_fraction 0.5, this selection 0.4",
        "selections.third.rescoring.around 'hafl' is not in this file; did you mean 'half'?",
    ):
        assert words in str(caught.value)
