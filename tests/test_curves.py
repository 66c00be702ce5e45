"""Curves for TensorBoard: what is in them, what is forgotten, and that nothing hangs on them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest

from miniplm_assets.core.recipe import Recipe
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment.models import Reporter
from miniplm_assets.storage import curves as storage_curves
from miniplm_assets.storage.curves import EventFile, curves_folder
from miniplm_assets.training import train_language_model
from tests.event_files import curves
from tests.test_training import job as job


def never(line: str) -> None:
    raise AssertionError(line)


def test_what_is_added_is_read_again_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "a [1] $HOME*?" / "ünd"
    with EventFile(folder, never) as file:
        file.begin(1)
        file.add(1, {"training/nll": 2.5, "held_out/of a [b]": 0.25})
        file.add(2, {"training/nll": 2.0})
    # The library puts _ in the place of what a name may not have.
    assert curves(folder) == {"training/nll": [(1, 2.5), (2, 2.0)], "held_out/of_a__b_": [(1, 0.25)]}


def test_going_on_forgets_the_steps_that_are_done_again_and_no_others(tmp_path: Path) -> None:
    for first, value in ((1, 1.0), (3, 2.0), (4, 3.0)):  # all of them within a second
        with EventFile(tmp_path, never) as file:
            file.begin(first)
            for step in range(first, 6):
                file.add(step, {"loss": value})
    assert len(list(tmp_path.iterdir())) == 3
    assert curves(tmp_path) == {"loss": [(1, 1.0), (2, 1.0), (3, 2.0), (4, 3.0), (5, 3.0)]}


def test_nothing_is_there_where_nothing_was_added(tmp_path: Path) -> None:
    with EventFile(tmp_path / "run", never):
        pass
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_written_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where a folder should be")
    said: list[str] = []
    with EventFile(tmp_path / "run", said.append) as file:
        for step in range(1, 4):
            file.add(step, {"loss": 1.0})
    assert len(said) == 1
    assert "FileExistsError" in said[0] and said[0].endswith("The work itself goes on.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboardX import record_writer

    monkeypatch.setattr(record_writer, "open_file", lambda _path: Path("/dev/full").open("wb"))  # noqa: SIM115
    monkeypatch.setattr(storage_curves, "SECONDS_BETWEEN_FLUSHES", 0.0)
    said: list[str] = []
    with EventFile(tmp_path, said.append) as file:
        for step in range(1, 4):
            file.add(step, {"loss": 1.0})
    assert len(said) == 1 and "No space left on device" in said[0]


def test_seeds_and_settings_have_curves_of_their_own_and_a_name_that_a_legend_has_room_for(tmp_path: Path) -> None:
    one = Recipe(kind="student_checkpoint", code_version="1", names=("small",), settings={"seed": 3})
    folder = curves_folder(tmp_path, one)
    assert folder == tmp_path / "tensorboard/small/student_checkpoint" / f"seed_3.{one.fingerprint[:8]}"
    assert curves_folder(tmp_path, replace(one, code_version="2")) != folder
    listed = replace(one, settings={})
    assert curves_folder(tmp_path, listed).name == listed.fingerprint[:8]


def trained(job: Any, folder: Path, stop: Stop | None = None, report: Any = lambda _line: None) -> dict[str, Any]:
    for place in ("work", "target"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    with EventFile(folder / "curves", never) as file:
        return train_language_model(
            job, work=folder / "work", target=folder / "target", report=report, stop=stop, curves=file
        )


class StopAfter(Stop):
    """Asked to stop once it was looked at some times: after so many steps."""

    def __init__(self, num_looks: int) -> None:
        super().__init__()
        self.num_looks = num_looks

    def look(self) -> None:
        self.num_looks -= 1
        self.is_asked = self.is_asked or self.num_looks <= 0
        super().look()


def test_the_curves_of_a_training_are_those_of_its_log_also_when_it_is_interrupted(job: Any, tmp_path: Path) -> None:
    trained(job, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(job, tmp_path / "resumed", StopAfter(20))
    assert trained(job, tmp_path / "resumed")["resumed_from_step"] > 3
    for name in ("whole", "resumed"):
        log = pl.read_parquet(tmp_path / name / "target" / "training_log.parquet")
        held_out = pl.read_parquet(tmp_path / name / "target" / "held_out_log.parquet")
        shown = curves(tmp_path / name / "curves")
        for curve, column in (
            ("training/nll_nats_per_token", "training_nll_nats_per_token"),
            ("training/objective_nats_per_token", "objective_nats_per_token"),
            ("training/learning_rate", "learning_rate"),
            ("held_out/nll_nats_per_token", "held_out_nll_nats_per_token"),
        ):
            wanted = log.select("step", column).drop_nulls().rows()
            assert [step for step, _ in shown[curve]] == [step for step, _ in wanted]
            assert [value for _, value in shown[curve]] == pytest.approx([value for _, value in wanted], rel=1e-6)
        for domain in ("odd", "even"):
            rows = held_out.filter(domain=domain)
            wanted = (rows["nll_nats"] / rows["num_scored_tokens"]).to_list()
            assert [value for _, value in shown[f"held_out_nll_nats_per_token/{domain}"]] == pytest.approx(wanted)
        norms = [value for _, value in shown["training/gradient_norm"]]
        assert len(norms) == len(log) and all(math.isfinite(norm) and norm > 0 for norm in norms)
    norms = [curves(tmp_path / name / "curves")["training/gradient_norm"] for name in ("whole", "resumed")]
    assert norms[0] == norms[1]


def test_a_reporter_of_transformers_is_told_the_same_at_the_steps_of_the_whole_training(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[tuple[int, dict[str, float]]] = []

    class Told(TrainerCallback):
        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            told.append((state.global_step, logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Told)
    training = job.training.model_copy(update={"reporters": ("wandb",)})
    with pytest.raises(Stopped):
        trained(replace(job, training=training), tmp_path, StopAfter(20))
    num_before = len(told)
    trained(replace(job, training=training), tmp_path)
    shown = curves(tmp_path / "curves")["training/nll_nats_per_token"]
    first = told[num_before][0]
    again = [
        (step, logs["training/nll_nats_per_token"])
        for step, logs in told[num_before:]
        if "training/nll_nats_per_token" in logs
    ]
    assert [step for step, _ in again] == [step for step, _ in shown if step >= first]
    assert [value for _, value in again] == pytest.approx([value for step, value in shown if step >= first])
    assert first > 3


def test_a_reporter_that_fails_on_the_way_is_said_once_and_the_training_goes_on(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    class Broken(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("nobody there")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", Broken)
    training = job.training.model_copy(update={"reporters": ("mlflow",)})
    said: list[str] = []
    trained(replace(job, training=training), tmp_path, report=said.append)
    assert len([line for line in said if "nobody there" in line]) == 1
    trained(job, tmp_path / "without")
    weights = [path / "target" / "model.safetensors" for path in (tmp_path, tmp_path / "without")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_reporter_that_is_not_installed_is_refused_with_what_to_do() -> None:
    from miniplm_assets.training.reporters import reporter_problems

    (problem,) = reporter_problems(("swanlab",))
    assert "swanlab" in problem and "install its package" in problem


def test_the_reporters_that_can_be_named_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(get_args(Reporter)) == set(INTEGRATION_TO_CALLBACK) - {"tensorboard", "neptune"}
