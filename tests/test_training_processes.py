"""Training by several processes: the same steps on any number of them, and nothing lost when one is.

The oracles: a run of one process, whose own oracle is a plain loop (test_training).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from miniplm_assets.core.stop import Stop
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training import TrainingJob
from miniplm_assets.training.batch import DrawnSequences, make_batch, share_of
from miniplm_assets.training.journal import Journal
from miniplm_assets.training.objectives import Objective
from miniplm_assets.training.token_file import TokenFile
from tests.ranks import RankError, train_by_ranks
from tests.test_training import END, NO_DROPOUT, read_log, train, with_objective
from tests.test_training import job as job

pytestmark = pytest.mark.long


def require_same(one: Path, other: Path, *, is_exact: bool = False) -> None:
    """Make sure that two runs ended with the same weights and logs, to rounding."""
    from safetensors.torch import load_file

    first, second = (load_file(folder / "target" / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], atol=0 if is_exact else 2e-4, err_msg=name)
    logs = [read_log(folder).drop("seconds") for folder in (one, other)]
    assert logs[0]["step"].equals(logs[1]["step"]) and logs[0]["num_tokens"].equals(logs[1]["num_tokens"])
    for name in logs[0].columns:
        np.testing.assert_allclose(logs[0][name], logs[1][name], atol=0 if is_exact else 1e-5, err_msg=name)
    held_out = [pl.read_parquet(folder / "target" / "held_out_log.parquet") for folder in (one, other)]
    assert held_out[0].drop("nll_nats").equals(held_out[1].drop("nll_nats"))
    np.testing.assert_allclose(held_out[0]["nll_nats"], held_out[1]["nll_nats"], rtol=0 if is_exact else 1e-5)


def test_a_step_is_shared_out_and_nothing_is_in_it_twice() -> None:
    order = np.array([5, 3, 8, 1, 9, 2, 7], dtype=np.uint32)  # steps of 5 and 2
    shares = [share_of(order, sequences_per_step=5, rank=rank, num_processes=3) for rank in range(3)]
    assert [share.tolist() for share in shares] == [[5, 1, 2], [3, 9, 7], [8, ~5, ~2]]
    assert share_of(order, sequences_per_step=5, rank=0, num_processes=1) is order


def test_a_sequence_of_nothing_predicts_nothing(job: TrainingJob) -> None:
    tokens = TokenFile(
        np.array([4, 5, 6], dtype=np.uint32), np.array([0, 3], dtype=np.int64), np.array([77], dtype=np.int64)
    )
    drawn = DrawnSequences(tokens, np.array([0, ~0]), END)
    rows = [drawn[0], drawn[1]]
    rule = TokenRule(end_of_document_id=END, score_after_end_of_document=False)
    batch = make_batch(rows, rule=rule, mean_over="tokens", objective=Objective())
    assert rows[1].sequence_id == 77
    assert batch["targets"].tolist() == [5, 6]
    assert make_batch(rows[1:], rule=rule, mean_over="tokens", objective=Objective())["targets"].tolist() == []


@pytest.mark.parametrize(
    ("number", "changes"), [(2, {}), (3, {"sequences_per_device": 1, "loss_mean_over": "sequences"})]
)
def test_any_number_of_processes_takes_the_same_steps(
    job: TrainingJob, tmp_path: Path, number: int, changes: dict[str, Any]
) -> None:
    training = job.training.model_copy(update={"token_budget": 400, **changes})
    job = replace(job, architecture=NO_DROPOUT, training=training)
    alone = train(job, tmp_path / "alone")
    together = train_by_ranks(job, tmp_path / "together", number)
    require_same(tmp_path / "alone", tmp_path / "together")
    assert together["num_processes"] == number
    assert together["held_out_nll_nats_per_token"] == pytest.approx(alone["held_out_nll_nats_per_token"], abs=1e-5)
    same = ["num_steps", "num_sequences", "num_tokens", "training_flops", "num_parameters", "measured_by"]
    assert [together[name] for name in same] == [alone[name] for name in same]


@pytest.mark.parametrize("name", ["sparse_kd", "token_selection"])
def test_an_objective_of_stored_scores_is_that_of_one_process(job: TrainingJob, tmp_path: Path, name: str) -> None:
    # Ids that no two sequences share, as packing gives them.
    files = []
    for number, path in enumerate(job.sequence_files):
        files.append(tmp_path / f"numbered_{number}.parquet")
        pl.read_parquet(path).with_columns(pl.col("sequence_id") + 1_000 * number).write_parquet(files[-1])
    training = job.training.model_copy(update={"token_budget": 300})
    job = replace(job, architecture=NO_DROPOUT, sequence_files=tuple(files), training=training)
    job = with_objective(job, name, tmp_path / "inputs")
    train(job, tmp_path / "1")
    train_by_ranks(job, tmp_path / "2", 2)
    require_same(tmp_path / "1", tmp_path / "2")


def stop_in_step(at_step: int) -> Callable[[int, Stop], None]:
    """Return what tells the first rank to stop, in the middle of a step."""
    return partial(_stop_in_step, at_step)


def _stop_in_step(at_step: int, rank: int, stop: Stop) -> None:
    record = Journal.record

    def record_and_ask(journal: Journal, step: int, **losses: Any) -> None:
        record(journal, step, **losses)
        stop.is_asked |= rank == 0 and step == at_step

    Journal.record = record_and_ask


def test_a_stopped_run_goes_on_by_any_number_of_processes(job: TrainingJob, tmp_path: Path) -> None:
    training = job.training.model_copy(update={"token_budget": 600})
    plain = replace(job, architecture=NO_DROPOUT, training=training)
    train(plain, tmp_path / "whole")
    with pytest.raises(RankError, match="^rank 0: Stopped"):
        train_by_ranks(plain, tmp_path / "cut", 2, patch=stop_in_step(4))
    with pytest.raises(RankError, match="^rank 0: Stopped"):  # while it measures, after the step whose row is due
        train_by_ranks(plain, tmp_path / "cut", 3, patch=stop_in_step(9))
    [checkpoint] = (tmp_path / "cut" / "work").glob("*checkpoint*")
    assert checkpoint.name == "checkpoint-9"
    assert train(plain, tmp_path / "cut")["resumed_from_step"] == 9
    require_same(tmp_path / "whole", tmp_path / "cut")


def test_dropout_differs_by_process_and_is_the_same_after_a_stop(job: TrainingJob, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    job = replace(job, training=job.training.model_copy(update={"token_budget": 300}))
    train_by_ranks(job, tmp_path / "whole", 2)
    with pytest.raises(RankError, match="^rank 0: Stopped"):
        train_by_ranks(job, tmp_path / "cut", 2, patch=stop_in_step(3))
    train_by_ranks(job, tmp_path / "cut", 2)
    require_same(tmp_path / "whole", tmp_path / "cut", is_exact=True)
    train(job, tmp_path / "alone")
    one, other = (load_file(tmp_path / name / "target" / "model.safetensors") for name in ("whole", "alone"))
    assert any((one[name] != values).any() for name, values in other.items())


@pytest.mark.parametrize("name", [None, "vanilla_kd"])
def test_a_model_that_is_spread_is_trained_like_a_whole_one(job: TrainingJob, tmp_path: Path, name: str | None) -> None:
    job = replace(job, architecture=NO_DROPOUT, training=job.training.model_copy(update={"token_budget": 300}))
    if name:
        job = with_objective(job, name, tmp_path / "inputs")
    train(job, tmp_path / "1")
    with pytest.raises(RankError, match="^rank 0: Stopped"):
        train_by_ranks(job, tmp_path / "2", 2, patch=stop_in_step(3), parallelism="fsdp")
    train_by_ranks(job, tmp_path / "2", 2, parallelism="fsdp", sequences_per_device=1)
    require_same(tmp_path / "1", tmp_path / "2")
