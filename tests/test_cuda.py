"""On a GPU as on the CPU: scores, training, going on after a stop, text. Left out where there is no GPU.

The oracles: float64 on the CPU, the same training on the CPU, transformers' own `generate`.
"""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment import Decoding, Sampling, Scoring
from miniplm_assets.experiment.objectives import MiniLlm, VanillaKd
from miniplm_assets.experiment.scoring import KeepTokens
from miniplm_assets.lm.device_speed import DeviceSpeed
from miniplm_assets.lm.generator import TorchGenerator
from miniplm_assets.lm.next_token import TokenChoice
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.training import TrainingJob
from miniplm_assets.training.objectives import Input
from tests.scoring_oracle import END_OF_DOCUMENT, brute_force, scrambled_sequences, tiny_model
from tests.test_training import END, NO_DROPOUT, VOCAB_SIZE, job, read_log, train

__all__ = ["job"]  # a fixture

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def ids_of(sequences: list[np.ndarray]) -> np.ndarray:
    return np.arange(len(sequences), dtype=np.int64)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "mamba", "gemma2", "cohere"])
@pytest.mark.parametrize(("dtype", "nats_per_token"), [("float32", 1e-4), ("bfloat16", 0.1), ("float16", 0.02)])
def test_scores_are_those_of_the_brute_force(kind: str, dtype: str, nats_per_token: float, tmp_path: Path) -> None:
    # TF32 is off in torch unless asked for: a float32 product is one.
    model = tiny_model(kind, tmp_path, **({} if dtype == "float32" else {"initializer_range": 0.05}))
    sequences = scrambled_sequences(model.config.vocab_size, longest=129, num=17)
    expected, num_scored = brute_force(model, sequences, score_after_end_of_document=False)
    with open_scorer(
        tmp_path,
        scoring=Scoring(device="cuda", dtype=dtype, tokens_per_batch=300),
        end_of_document_id=END_OF_DOCUMENT,
        max_sequence_tokens=129,
        report=lambda _: None,
    ) as scorer:
        scores = scorer.score(sequences, ids_of(sequences))
    np.testing.assert_array_equal(scores.num_scored_tokens, num_scored)
    assert np.all(np.abs(scores.logprob_nats - expected) <= nats_per_token * np.maximum(num_scored, 1))


def test_what_is_kept_beside_the_scores_is_that_of_the_cpu(tmp_path: Path) -> None:
    model = tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(model.config.vocab_size, longest=129, num=9)

    def kept_on(device: str) -> tuple[np.ndarray, np.ndarray]:
        with open_scorer(
            tmp_path,
            scoring=Scoring(device=device, keep_tokens=KeepTokens(method="sampled", number=5)),
            end_of_document_id=END_OF_DOCUMENT,
            max_sequence_tokens=129,
            vocab_size=model.config.vocab_size,
            report=lambda _: None,
        ) as scorer:
            kept = scorer.score(sequences, ids_of(sequences)).kept_tokens()
        return kept.token_ids, kept.logprobs_nats

    (here, logprobs_here), (there, logprobs_there) = kept_on("cuda"), kept_on("cpu")
    is_same = here == there  # a draw beside the border of two ids may fall to the other
    assert is_same.mean() > 0.999
    np.testing.assert_allclose(logprobs_here[is_same], logprobs_there[is_same], atol=5e-3)


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path) -> None:
    model = tiny_model("qwen2", tmp_path, vocab_size=151_936)
    sequences = [np.arange(3, 131, dtype=np.int32) + 7 * number for number in range(4_096)]
    torch.cuda.set_per_process_memory_fraction(0.005)
    lines: list[str] = []
    try:
        with open_scorer(
            tmp_path,
            scoring=Scoring(device="cuda", tokens_per_batch=1 << 20),
            end_of_document_id=END_OF_DOCUMENT,
            max_sequence_tokens=129,
            report=lines.append,
        ) as scorer:
            logprobs = scorer.score(sequences, ids_of(sequences)).logprob_nats
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("ran out of memory" in line for line in lines)
    expected, _ = brute_force(model, sequences[:2], score_after_end_of_document=False)
    np.testing.assert_allclose(logprobs[:2], expected, atol=1e-2)


def objective_jobs(job: TrainingJob, folder: Path) -> dict[str, TrainingJob]:
    """Return the same training with plain cross-entropy, and with a model beside the student."""
    from miniplm_assets.lm.architectures import build_model

    teacher = build_model(NO_DROPOUT, vocab_size=VOCAB_SIZE, end_of_document_id=END, max_sequence_tokens=17, seed=9)
    teacher.save_pretrained(folder / "teacher")
    beside = {"teacher": Input(folder=folder / "teacher")}
    return {
        "cross_entropy": job,
        "vanilla_kd": replace(job, objective=VanillaKd(type="vanilla_kd", teacher="t"), objective_inputs=beside),
        "reverse_kl": replace(
            job, objective=VanillaKd(type="vanilla_kd", teacher="t", divergence="reverse_kl"), objective_inputs=beside
        ),
    }


@pytest.mark.parametrize("objective", ["cross_entropy", "vanilla_kd", "reverse_kl"])
@pytest.mark.parametrize(("dtype", "nats"), [("float32", 1e-3), ("bfloat16", 0.05), ("float16", 0.05)])
def test_training_has_the_losses_of_the_cpu(
    objective: str, dtype: str, nats: float, job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = objective_jobs(replace(job, architecture=NO_DROPOUT), tmp_path)[objective]
    here = replace(job, training=job.training.model_copy(update={"dtype": dtype}))
    facts = train(here, tmp_path / "here")
    assert facts["device"].startswith("cuda")
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: False)
        assert train(job, tmp_path / "there")["device"] == "cpu"
    on_gpu, on_cpu = read_log(tmp_path / "here"), read_log(tmp_path / "there")
    for column in ("training_nll_nats_per_token", "objective_nats_per_token"):
        np.testing.assert_allclose(on_gpu[column], on_cpu[column], atol=nats)
    assert on_cpu["training_nll_nats_per_token"][-1] < on_cpu["training_nll_nats_per_token"][0] - 0.3


def test_minillm_learns(job: TrainingJob, tmp_path: Path) -> None:
    job = objective_jobs(replace(job, architecture=NO_DROPOUT), tmp_path)["vanilla_kd"]
    objective = MiniLlm(type="minillm", teacher="t", num_sampled_tokens=5)
    train(replace(job, objective=objective), tmp_path / "run")
    assert read_log(tmp_path / "run")["objective_nats_per_token"].is_finite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_stopped_training_goes_on(dtype: str, job: TrainingJob, tmp_path: Path) -> None:
    job = replace(job, training=job.training.model_copy(update={"dtype": dtype}))  # with dropout: random states count
    train(job, tmp_path / "whole")
    stop = Stop()

    def tell_to_stop(line: str) -> None:
        if "parameters" in line:  # the first thing that is said, before the first step
            stop.is_asked = True

    with pytest.raises(Stopped):
        train(job, tmp_path / "cut", report=tell_to_stop, stop=stop)
    facts = train(job, tmp_path / "cut")
    assert facts["resumed_from_step"]
    whole, cut = read_log(tmp_path / "whole"), read_log(tmp_path / "cut")
    # Sums of a GPU are not always taken in the same order.
    np.testing.assert_allclose(
        cut["training_nll_nats_per_token"],
        whole["training_nll_nats_per_token"],
        atol=1e-3 if dtype == "float32" else 0.05,
    )


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(do_sample=True, seed=7)], ids=["greedy", "drawn"])
def test_a_teacher_writes_what_it_writes_on_the_cpu(sampling: Sampling, tmp_path: Path) -> None:
    model = tiny_model("qwen2", tmp_path)
    prompts = [one[:9] for one in scrambled_sequences(model.config.vocab_size, longest=40, num=8) if len(one) > 9]
    choice = TokenChoice(
        sampling=sampling,
        end_of_document_id=END_OF_DOCUMENT,
        vocab_size=model.config.vocab_size,
        max_sequence_tokens=24,
    )

    def written_on(device: str) -> list[list[int]]:
        decoding = Decoding(sequences_per_batch=4)
        generator = TorchGenerator(model.to(device), decoding=decoding, choice=choice)
        with closing(generator):
            return [one.tolist() for one in generator.continued(prompts, ids_of(prompts))]

    assert written_on("cuda") == written_on("cpu")


def test_the_speed_of_the_device_is_measured() -> None:
    speed = DeviceSpeed()
    assert torch.cuda.get_device_name() in speed.describe()
