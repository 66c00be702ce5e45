"""MiniLLM against enumeration: every continuation, its probability and its gradient, in float64 by torch's autograd."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.objectives import MiniLlm
from miniplm_assets.training import TrainingJob
from miniplm_assets.training.objectives import Input, Objective, objective_of
from miniplm_assets.training.objectives.sampling import Continuations, Reader, draw_continuations
from miniplm_assets.training.token_file import Row
from tests.test_identity import experiment
from tests.test_objectives import END, opened_as
from tests.test_objectives import batch_of as batch_of_rows
from tests.test_training import (
    VOCAB_SIZE,
    InterruptedRunError,
    every_step,
    job,
    read_log,
    stop_after,
    train,
    weights,
)

assert job and stop_after  # fixtures

NUM_IDS = 5
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 16, "n_inner": 24, "n_head": 2, "n_layer": 1},  # has dropout
    "mamba": {"hidden_size": 16, "state_size": 4},
    "gemma2": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 3,
    },
    "openai-gpt": {"n_embd": 16, "n_head": 2, "n_layer": 1},  # remembers nothing of what it has read
}


def model_of(model_type: str, *, seed: int, num_ids: int = NUM_IDS) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {"vocab_size": num_ids, "num_hidden_layers": 1, "initializer_range": 0.5, "pad_token_id": END}
    config = AutoConfig.for_model(model_type, **settings | SHAPES[model_type])
    config.bos_token_id = config.eos_token_id = None
    return AutoModelForCausalLM.from_config(config).eval()


def opened(student: Any, teacher: Any, tmp_path: Path, *, num_ids: int = NUM_IDS, first: int | None = None, **settings):
    teacher.save_pretrained(tmp_path / "teacher")
    wanted = MiniLlm(type="minillm", teacher="large", **settings)
    teacher_input = Input(folder=tmp_path / "teacher", begin_of_sequence_id=first)
    return opened_as(objective_of(wanted), wanted, student, tmp_path, vocab_size=num_ids, teacher=teacher_input)


def batch_of(rows: list[list[int]], objective: Objective, mean_over: Any = "tokens") -> dict[str, Any]:
    return batch_of_rows([Row(number, np.array(row)) for number, row in enumerate(rows)], objective, mean_over)


def log_probabilities(model: Any, token_ids: list[int]) -> Any:
    """Return log-probabilities of each next token: float64 where the model is."""
    import torch

    return torch.log_softmax(model(input_ids=torch.tensor([token_ids])).logits[0, :, :NUM_IDS].double(), dim=1)


def all_continuations(length: int) -> list[list[int]]:
    """Return every continuation: none goes on behind an end of document."""
    found = []
    for ids in itertools.product(range(NUM_IDS), repeat=length):
        cut = ids[: ids.index(END) + 1] if END in ids else ids
        found.append(list(cut))
    return sorted(map(list, {tuple(one) for one in found}))


def given(texts: list[list[int]], behind: list[list[int]], log_p: list[Any], log_q: list[Any]) -> Continuations:
    import torch

    width = max(len(text) + len(more) for text, more in zip(texts, behind, strict=True))
    token_ids = torch.full((len(texts), width), END)
    is_sampled = torch.zeros((len(texts), width), dtype=torch.bool)
    ps, qs = torch.zeros((len(texts), width)), torch.zeros((len(texts), width))
    for row, (text, more) in enumerate(zip(texts, behind, strict=True)):
        token_ids[row, : len(text) + len(more)] = torch.tensor(text + more)
        here = slice(len(text), len(text) + len(more))
        is_sampled[row, here] = True
        ps[row, here], qs[row, here] = log_p[row].float(), log_q[row].float()
    return Continuations(token_ids, is_sampled, ps, qs)


def of_tokens(model: Any, text: list[int], more: list[int]) -> Any:
    """Return the log-probability of each token of a continuation."""
    rows = log_probabilities(model, text + more)[len(text) - 1 : -1]
    return rows.gather(1, rows.new_tensor(more).long()[:, None])[:, 0]


def gradients(model: Any) -> list[Any]:
    found = [parameter.grad.double().clone() for parameter in model.parameters()]
    model.zero_grad()
    return found


def assert_same(found: list[Any], expected: list[Any], tolerance: float = 1e-6) -> None:
    largest = max(one.abs().max().item() for one in expected)
    assert largest > 1e-3
    assert max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True)) <= tolerance * max(1, largest)


@pytest.mark.parametrize("chunk_tokens", [3, 512])
@pytest.mark.parametrize("student_type", ["qwen2", "gemma2"])
def test_the_expected_gradient_is_that_of_the_reverse_kl(tmp_path, monkeypatch, student_type, chunk_tokens):
    import torch

    monkeypatch.setattr("miniplm_assets.training.objectives.output_layer.MAX_CPU_CHUNK_TOKENS", chunk_tokens)
    student, teacher = model_of(student_type, seed=0), model_of("qwen2", seed=1)
    settings = {"num_sampled_tokens": 3, "teacher_mix": 0.0, "length_normalised": False, "pretraining_weight": 0.0}
    objective = opened(student, teacher, tmp_path, **settings)
    text, behind = [3, 1, 4, 2], all_continuations(3)
    teacher.double()
    student.double()
    log_p = [of_tokens(teacher, text, more).detach() for more in behind]
    log_q = [of_tokens(student, text, more) for more in behind]
    exact = sum(q.sum().exp() * (q.sum() - p.sum()) for p, q in zip(log_p, log_q, strict=True))
    exact.backward()
    expected = gradients(student)
    student.float()
    probabilities = torch.stack([q.detach().sum().exp() for q in log_q])
    assert probabilities.sum().item() == pytest.approx(1)

    # All at once, each weighed by its probability; a step's weights are 3 tokens of text, M / n is then 1.
    batch = batch_of([[*text, 1, 1, 1]] * len(behind), objective)
    batch["weights"] *= probabilities.float().repeat_interleave(3)
    loss = objective.loss_of(student, batch, given([text] * len(behind), behind, log_p, [q.detach() for q in log_q]))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert_same(gradients(student), expected, tolerance=1e-6 if student_type == "qwen2" else 3e-5)


@pytest.mark.parametrize(("mean_over", "num_padding"), [("tokens", 0), ("sequences", 0), ("tokens", 3)])
@pytest.mark.parametrize(("teacher_mix", "length_normalised", "share"), [(0.2, True, 1.0), (0.6, False, 0.3)])
def test_a_loss_is_that_of_its_formula_in_float64(  # the student's vocabulary may be padded beyond the tokenizer's
    tmp_path, mean_over, num_padding, teacher_mix, length_normalised, share
):
    import torch

    student, teacher = model_of("qwen2", seed=0, num_ids=NUM_IDS + num_padding), model_of("qwen2", seed=1)
    settings = {"teacher_mix": teacher_mix, "length_normalised": length_normalised, "pretraining_weight": share}
    objective = opened(student, teacher, tmp_path, num_sampled_tokens=4, first=2, **settings)
    rows = [[3, 1, 4, 2, 2, 1, 1, 3], [1, 2], [2, END, 1, 4, 1, 3, 3, 1, 2, 3], [4, 4, 1]]
    texts = [[3, 1, 4, 2], [1, 2], [2, END, 1, 4, 1, 3], [4, 4]]
    behind = [[1, 4, 4, 2], [3], [2, END], [END]]
    batch = batch_of(rows, objective, mean_over)
    student.double()
    teacher.double()
    total, nats, nll_nats = torch.zeros(1).double(), 0.0, 0.0
    log_ps, log_qs = [], []
    for row, text, more in zip(rows, texts, behind, strict=True):
        q_all = log_probabilities(student, text + more)
        p_all = log_probabilities(teacher, [2, *text, *more])[1:].detach()
        of_all_ids = torch.log_softmax(student(input_ids=torch.tensor([text + more])).logits[0], dim=1)
        nll = [-of_all_ids[place, text[place + 1]] for place in range(len(text) - 1) if text[place] != END]
        here = range(len(text) - 1, len(text) + len(more) - 1)
        log_p = [p_all[place, token] for place, token in zip(here, more, strict=True)]
        log_q = [q_all[place, token] for place, token in zip(here, more, strict=True)]
        log_ps.append(torch.stack(log_p))
        log_qs.append(torch.stack(log_q).detach())
        room = max(1, len(row) - len(text))
        value = surrogate = 0.0
        for t, place in enumerate(here):
            p, q = log_p[t].exp(), log_q[t].detach().exp()
            w = q / (teacher_mix * p + (1 - teacher_mix) * q)
            later = [(log_p[s] - log_q[s]).item() for s in range(t + 1, len(more))]
            reward = sum(later) / (max(1, len(later)) if length_normalised else 1)
            kl = (q_all[place].exp() * (q_all[place] - p_all[place])).sum()
            value += (w * kl).item() / room
            surrogate += w * (kl - reward * log_q[t]) / room
        weight = len(nll) if mean_over == "tokens" else 1
        total += share * sum(nll) / len(nll) * weight + weight * surrogate
        nats += share * sum(nll).item() + len(nll) * value
        nll_nats += sum(nll).item()
    total.backward()
    expected = gradients(student)
    student.float()
    loss = objective.loss_of(student, batch, given(texts, behind, log_ps, log_qs))
    loss.total.backward()
    assert_same(gradients(student), expected, tolerance=3e-6)
    assert loss.nats.item() == pytest.approx(nats, rel=1e-5)
    assert loss.nll_nats.item() == pytest.approx(nll_nats, rel=1e-5)
    if mean_over == "tokens":  # a mean over sequences is weighted, the log is not
        assert loss.total.item() == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("model_type", SHAPES)
def test_what_is_drawn_follows_the_mixture_and_stops_at_an_end_of_document(tmp_path, model_type):
    import torch

    alpha, num_draws = 0.3, 4_000
    student, teacher = model_of(model_type, seed=0), model_of("qwen2", seed=1)
    texts = [[3, 1, 4, 2], [1, 2, 3, 3, 1, 4, 4]]
    lengths = torch.tensor([4, 7]).repeat(num_draws)
    padded = torch.tensor([[*texts[0], 0, 0, 0], texts[1]]).repeat(num_draws, 1)
    drawn = draw_continuations(
        Reader(student, vocab_size=NUM_IDS),
        Reader(teacher, vocab_size=NUM_IDS),
        texts=padded,
        text_lengths=lengths,
        max_lengths=torch.tensor([2, 1]).repeat(num_draws),
        uniforms=torch.rand((2 * num_draws, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        teacher_mix=alpha,
        end_of_document_id=END,
    )
    for which, (text, room) in enumerate(zip(texts, (2, 1), strict=True)):
        token_ids, is_sampled = drawn.token_ids[which::2], drawn.is_sampled[which::2]
        assert (token_ids[:, : len(text)] == torch.tensor(text)).all() and not is_sampled[:, : len(text)].any()
        found = [tuple(row[here].tolist()) for row, here in zip(token_ids[:, :], is_sampled, strict=True)]
        possible = [tuple(more) for more in all_continuations(room)]
        assert set(found) <= set(possible)
        distance = 0.0
        for more in possible:
            p, q = (of_tokens(model, text, list(more)).detach() for model in (teacher, student))
            expected = (alpha * p.exp() + (1 - alpha) * q.exp()).prod().item() * num_draws
            number = found.count(more)
            distance += (number - expected) ** 2 / expected
            if number:
                first = which + 2 * found.index(more)
                here = drawn.is_sampled[first]
                torch.testing.assert_close(drawn.log_p[first][here], p.float(), atol=2e-5, rtol=0)
                torch.testing.assert_close(drawn.log_q[first][here], q.float(), atol=2e-5, rtol=0)
        freedom = len(possible) - 1
        assert distance < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations of chi-square
    assert not drawn.log_p[~drawn.is_sampled].any() and not drawn.log_q[~drawn.is_sampled].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_draws_without_dropout_and_leaves_the_mode_as_it_was(tmp_path, dtype):
    import torch

    student, teacher = model_of("gpt2", seed=0), model_of("qwen2", seed=1)
    objective = opened(student, teacher, tmp_path, num_sampled_tokens=4)
    student.train()
    student.transformer.h[0].mlp.eval()
    modes = [module.training for module in student.modules()]
    batch = batch_of([[1, 2], [3, 1, 4, 2, 2, 1, 1, 3]], objective)
    torch.manual_seed(3)
    first = objective.sample(batch)
    torch.manual_seed(3)
    torch.rand(2, 4, dtype=torch.float64)  # nothing else is drawn: dropout would
    after = torch.rand(1)
    torch.manual_seed(3)
    again = objective.sample(batch)
    assert torch.rand(1) == after
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert first.is_sampled.sum(1)[0] == 1 and 1 <= first.is_sampled.sum(1)[1] <= 4
    assert first.token_ids[0, :2].tolist() == [1, 2] and first.token_ids[1, :4].tolist() == [3, 1, 4, 2]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        objective.loss(student, batch).total.backward()
    assert [module.training for module in student.modules()] == modes
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())


@pytest.fixture
def distilled(job: TrainingJob, tmp_path: Path) -> TrainingJob:
    model_of("qwen2", seed=1, num_ids=VOCAB_SIZE).save_pretrained(tmp_path / "large")
    return replace(
        job,
        training=job.training.model_copy(update={"token_budget": 500}),
        objective=MiniLlm(type="minillm", teacher="large", num_sampled_tokens=6),
        objective_inputs={"teacher": Input(folder=tmp_path / "large")},
    )


def test_a_resumed_run_ends_with_the_same_bytes(distilled: TrainingJob, tmp_path: Path, stop_after) -> None:
    whole = train(distilled, tmp_path / "whole")
    stop_after(5)
    with pytest.raises(InterruptedRunError):
        train(every_step(distilled), tmp_path / "cut")
    resumed = train(distilled, tmp_path / "cut")
    assert resumed["resumed_from_step"] == 5
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert read_log(tmp_path / "cut").drop("seconds").equals(read_log(tmp_path / "whole").drop("seconds"))
    num_teacher = sum(one.numel() for one in model_of("qwen2", seed=1, num_ids=VOCAB_SIZE).parameters())
    assert whole["training_flops"] == (8 * whole["num_parameters"] + 4 * num_teacher) * whole["num_tokens"]


def test_a_step_is_the_same_however_it_is_cut_into_batches(distilled: TrainingJob, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    dropless = {**distilled.architecture, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    whole = replace(distilled, architecture=dropless)
    cut = replace(whole, training=whole.training.model_copy(update={"sequences_per_device": 1}))
    facts = [train(job, tmp_path / name) for job, name in ((whole, "whole"), (cut, "cut"))]
    found = [load_file(tmp_path / name / "target" / "model.safetensors") for name in ("whole", "cut")]
    for name, tensor in found[0].items():
        np.testing.assert_allclose(tensor, found[1][name], atol=1e-3)
    np.testing.assert_allclose(
        *[read_log(tmp_path / name)["objective_nats_per_token"] for name in ("whole", "cut")], rtol=1e-3
    )
    assert facts[0]["num_steps"] > 5


def test_a_student_comes_closer_to_its_teacher(tmp_path: Path) -> None:
    """A hundred draws, and the exact reverse KL of what is continued has fallen by half."""
    import torch

    student, teacher = model_of("qwen2", seed=0), model_of("qwen2", seed=1)
    objective = opened(student, teacher, tmp_path, num_sampled_tokens=3, pretraining_weight=0.0)
    text = [3, 1, 4, 2]

    def reverse_kl() -> float:
        with torch.no_grad():
            pairs = [
                [of_tokens(model, text, more).sum() for model in (teacher, student)] for more in all_continuations(3)
            ]
            return sum((q.exp() * (q - p)).item() for p, q in pairs)

    before = reverse_kl()
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    torch.manual_seed(0)
    batch = batch_of([[*text, 1, 1, 1]] * 16, objective)
    for _ in range(100):
        (objective.loss(student, batch).total / 48).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert reverse_kl() < before / 2


def test_an_objective_names_its_inputs_and_its_cost() -> None:
    settings = MiniLlm(type="minillm", teacher="large")
    kind = objective_of(settings)
    assert kind.inputs(settings) == {"teacher": ("teacher_model", "large")}
    # arXiv 2410.17215, table 1: 3N / (4N + 2T) of the steps without a teacher.
    assert 6 * 200 / kind.flops_per_token(settings, 200, {"teacher": 1_800}) == 3 * 200 / (4 * 200 + 2 * 1_800)


def test_a_continuation_that_leaves_nothing_of_a_sequence_is_refused() -> None:
    content = experiment()
    content["students"]["plain"]["objective"] = {"type": "minillm", "teacher": "large", "num_sampled_tokens": 64}
    with pytest.raises(ValueError, match=r"students\.plain\.objective\.num_sampled_tokens: 64 .* set it to 63 or less"):
        Experiment.model_validate(content)
    content["students"]["plain"]["objective"]["num_sampled_tokens"] = 63
    Experiment.model_validate(content)
