"""How long a plan says that things take: by earlier results of the same shape, else by the speed of the device."""

import pytest

from miniplm_assets.core.recipe import canonical_json
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.snapshot import look
from miniplm_assets.lm import device_speed
from miniplm_assets.lm.device_speed import DeviceSpeed, ModelPass
from tests.corpora import tiny_experiment, write_experiment, write_shard

SHAPE = tiny_experiment("", "")["architectures"]["tiny"]


def test_a_large_model_takes_its_flops_at_a_share_of_the_rate_of_a_product(monkeypatch):
    monkeypatch.setattr(device_speed, "_product_flops_per_second", lambda dtype: {"bfloat16": 4e9}[dtype])
    one = ModelPass(num_parameters=10**9, num_tokens=1_000, dtype="bfloat16", max_sequence_tokens=9, is_training=True)
    # 6 N D floating-point operations at 0.6 of 4e9 a second.
    assert DeviceSpeed().seconds(one) == pytest.approx(6 * 1e9 * 1_000 / (0.6 * 4e9))


@pytest.fixture
def one_thread():
    """Let torch have one thread, and as many as before afterwards: with another number, later tests round otherwise."""
    import torch

    was = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(was)


@pytest.mark.parametrize(("is_training", "num_tokens_timed"), [(True, 3 * 21), (False, 21 * 21)])
def test_a_small_model_is_timed_itself(is_training, num_tokens_timed, monkeypatch, one_thread):
    """As many sequences as a step has are trained on at once; as many as a limit says are scored."""
    timed = []
    monkeypatch.setattr(device_speed, "SCORED_TOKENS_PER_THREAD", 21 * 21)
    monkeypatch.setattr(device_speed, "_product_flops_per_second", lambda _: 1e12)
    monkeypatch.setattr(device_speed, "_least_seconds", lambda run, _: timed.append(run) or 2.0)
    one = ModelPass(
        num_parameters=20_000,
        num_tokens=500,
        is_training=is_training,
        architecture=canonical_json(SHAPE),
        vocab_size=300,
        max_sequence_tokens=21,
        sequences_at_once=3,
    )
    speed = DeviceSpeed()
    assert speed.seconds(one) == speed.seconds(one) == pytest.approx(500 * 2.0 / num_tokens_timed)
    assert len(timed) == 1  # once for each shape
    if is_training:
        timed[0]()  # it does train


@pytest.fixture
def pipeline(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("bisect",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    content["pilot"] = {"share": 0.5}
    content["students"]["wide"] = {**content["students"]["no_kd"], "architecture": "larger"}
    return open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))


def store_timed(pipeline, recipe, seconds, facts):
    def write(draft):
        draft.seconds, draft.facts = seconds, facts

    pipeline.store.make(recipe, write)


def test_results_of_the_same_shape_tell_whatever_their_name(pipeline):
    fingerprints = pipeline.fingerprints(look(pipeline.graph[RAW_CORPUS], pipeline.store, print))
    trained = {"training_flops": 1, "num_tokens": 3_000}
    store_timed(pipeline, fingerprints.pieces("no_kd/student_checkpoint")["3"], 30.0, trained)
    scored = {"by_split_and_domain": {"candidate": {"code": {"num_scored_tokens": 500}}}}
    store_timed(pipeline, fingerprints.pieces("large/pilot_teacher_scores")["a.jsonl"], 4.0, scored)
    planned = {one.key: one for one in plan(pipeline)}
    pair, wide = planned["miniplm/student_checkpoint"], planned["wide/student_checkpoint"]
    assert (pair.seconds, pair.is_measured) == (60.0, True)  # 6,000 tokens
    assert wide.seconds is None and planned["large/teacher_model"].seconds is None  # another architecture
    scores = planned["large/teacher_scores"]
    assert scores.is_measured and scores.seconds == pytest.approx(scores.num_tokens * 4 / 500)
    assert planned["small/reference_scores"].seconds is None  # another model
    # The smallest architecture is the reference's too, and was trained.
    assert planned["small/reference_model"].seconds == 60.0
