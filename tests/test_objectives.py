"""What students are trained with: each loss and its gradients against a float64 computation with whole logits."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.experiment.objectives import CrossEntropy, TokenSelection, VanillaKd
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training.objectives import Input, Objective, ObjectiveKind, Setting, objective_of
from miniplm_assets.training.objectives.output_layer import ChunkLosses
from miniplm_assets.training.token_file import Row, TokenFile
from tests.scoring_oracle import gemma2_logits

VOCAB_SIZE = 61
END = 0
EMPTY = TokenFile(np.empty(0, np.uint32), np.zeros(1, np.int64), np.empty(0, np.int64))
SHAPES: dict[str, dict[str, Any]] = {
    "student": {"hidden_size": 16, "num_attention_heads": 2},
    "untied": {"hidden_size": 16, "num_attention_heads": 2, "tie_word_embeddings": False},
    "wide": {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 64},
    "teacher": {"hidden_size": 24, "num_attention_heads": 2},
    "padded": {"hidden_size": 24, "num_attention_heads": 2, "vocab_size": 70},
    "small": {"hidden_size": 24, "num_attention_heads": 2, "vocab_size": 60},
}


def model_of(shape: str, *, seed: int = 0, model_type: str = "qwen2") -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    more = {"head_dim": 8} if model_type == "gemma2" else {}
    settings = {
        "vocab_size": VOCAB_SIZE,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,  # as far from uniform as what has learnt
        "pad_token_id": END,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings | SHAPES[shape] | more))


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def rows() -> list[Row]:
    random = np.random.default_rng(3)
    drawn = [random.integers(0, VOCAB_SIZE, size) for size in (12, 30, 2, 19)]
    drawn[1][[4, 5, 20]] = END
    return [Row(100 + place, token_ids) for place, token_ids in enumerate(drawn)]


def opened(settings: Any, model: Any, tmp_path: Path, *tokens: TokenFile | None, **more: Any) -> Objective:
    return opened_as(objective_of(settings), settings, model, tmp_path, *tokens, **more)


def opened_as(
    kind: ObjectiveKind[Any], settings: Any, model: Any, tmp_path: Path, *tokens: TokenFile | None, **more: Any
) -> Objective:
    return kind.open(settings, setting_of(model, tmp_path, *tokens, **more))


def setting_of(
    model: Any,
    tmp_path: Path,
    tokens: TokenFile | None = None,
    *,
    vocab_size: int = VOCAB_SIZE,
    report: Callable[[str], None] = lambda _: None,
    **inputs: Input,
) -> Setting:
    import torch

    return Setting(
        model=model,
        inputs=inputs,
        tokens=EMPTY if tokens is None else tokens,
        vocab_size=vocab_size,
        end_of_document_id=END,
        device=torch.device("cpu"),
        dtype="float32",
        seed=5,
        data_fingerprint="f" * 32,
        work=tmp_path,
        report=report,
    )


def batch_of(rows: list[Row], objective: Objective, mean_over: Any = "tokens") -> dict[str, Any]:
    from miniplm_assets.training.batch import make_batch

    rule = TokenRule(end_of_document_id=END, score_after_end_of_document=False)
    return make_batch(rows, rule=rule, mean_over=mean_over, objective=objective)


def whole_logits(model: Any, rows: list[Row]) -> list[tuple[int, int, Any]]:
    """Return for each predicted token its sequence's number, itself, and the logits: float64, a sequence at a time."""
    import torch

    found = []
    for number, row in enumerate(rows):
        logits = model(input_ids=torch.tensor(row.token_ids[:-1])[None]).logits[0]
        (places,) = np.nonzero(row.token_ids[:-1] != END)
        found += [(number, int(row.token_ids[place + 1]), logits[place]) for place in places]
    return found


def check(
    objective: Objective,
    model: Any,
    rows: list[Row],
    expected: Callable[[int, int, Any, int], Any],
    *,
    mean_over: Any = "tokens",
    tolerance: float = 1e-6,
) -> None:
    """Hold the loss and all gradients against those of float64.

    Args:
        objective: opened for the model.
        model: in float32; float64 afterwards.
        rows: the sequences.
        expected: nats of a token, given its number among all, its id, its logits, and its sequence's number.
        mean_over: tokens or sequences.
        tolerance: of the loss, and of the gradients by their largest entry.
    """
    import torch

    batch = batch_of(rows, objective, mean_over)
    loss = objective.loss(model, batch)
    (loss.total / 3).backward()
    gradients = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.double()
    tokens = whole_logits(model, rows)
    assert len(batch["targets"]) == len(tokens)
    nats = [expected(number, token, logits, owner) for number, (owner, token, logits) in enumerate(tokens)]
    owners = [owner for owner, _, _ in tokens]
    weights = [1.0 if mean_over == "tokens" else 1 / owners.count(owner) for owner in owners]
    total = sum(weight * one for weight, one in zip(weights, nats, strict=True))
    (total / 3).backward()
    assert loss.total.item() == pytest.approx(total.item(), rel=tolerance)
    assert loss.nats.item() == pytest.approx(sum(one.item() for one in nats), rel=tolerance)
    nll = sum(-torch.log_softmax(logits, 0)[token].item() for _, token, logits in tokens)
    assert loss.nll_nats.item() == pytest.approx(nll, rel=1e-6)
    largest = max(parameter.grad.abs().max().item() for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        assert (gradients[name] - parameter.grad).abs().max().item() <= tolerance * largest, name


@pytest.fixture(params=[7, 512])
def chunk_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Predicted tokens at once: fewer than there are, or all."""
    monkeypatch.setattr("miniplm_assets.training.objectives.output_layer.MAX_CPU_CHUNK_TOKENS", request.param)
    return request.param


def cross_entropy(token: int, logits: Any) -> Any:
    return logits.logsumexp(0) - logits[token]


@pytest.fixture
def as_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are compiled, of seven tokens at once."""

    def compiles(self: ChunkLosses, _device: Any, report: Callable[[str], None]) -> None:
        self._is_cpu, self._is_compiled, self._report, self._compiled = False, True, report, {}

    monkeypatch.setattr(ChunkLosses, "__init__", compiles)
    monkeypatch.setattr("miniplm_assets.training.objectives.output_layer.MAX_CPU_CHUNK_TOKENS", 7)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


@pytest.mark.parametrize("mean_over", ["tokens", "sequences"])
@pytest.mark.parametrize("shape", ["student", "untied"])
def test_cross_entropy_is_that_of_float64(rows, tmp_path, chunk_tokens, shape, mean_over):
    model = model_of(shape)
    objective = opened(CrossEntropy(), model, tmp_path)
    check(objective, model, rows, lambda _, token, logits, __: cross_entropy(token, logits), mean_over=mean_over)


def test_a_model_that_changes_its_logits_afterwards_is_right_too(rows, tmp_path, chunk_tokens):
    model = model_of("student", model_type="gemma2")
    assert gemma2_logits is not None and model.config.final_logit_softcapping
    objective = opened(CrossEntropy(), model, tmp_path)
    check(objective, model, rows, lambda _, token, logits, __: cross_entropy(token, logits))


def test_the_output_layer_is_itself_again_after_a_loss(rows, tmp_path):
    import torch

    model = model_of("student")
    before = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    objective = opened(CrossEntropy(), model, tmp_path)
    objective.loss(model, batch_of(rows, objective))
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.equal(before)


def teacher_log_probabilities(teacher: Any, rows: list[Row], temperature: float, first: int | None = None) -> list[Any]:
    """Return log p of each predicted token over the tokenizer's ids: float64, a sequence at a time."""
    import torch

    teacher.double()
    behind = [] if first is None else [first]
    read = [Row(row.sequence_id, np.concatenate([behind, row.token_ids]).astype(np.int64)) for row in rows]
    with torch.no_grad():
        found = []
        for row in read:
            logits = teacher(input_ids=torch.tensor(row.token_ids[:-1])[None]).logits[0, len(behind) :, :VOCAB_SIZE]
            kept = row.token_ids[len(behind) : -1] != END
            found += list(torch.log_softmax(logits[kept] / temperature, dim=1))
    return found


def divergence_of(kind: str, log_p: Any, log_q: Any) -> Any:
    import torch

    if kind == "forward_kl":
        return (log_p.exp() * (log_p - log_q)).sum()
    if kind == "reverse_kl":
        return (log_q.exp() * (log_q - log_p)).sum()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((log_p.exp() * (log_p - log_m)).sum() + (log_q.exp() * (log_q - log_m)).sum()) / 2


@pytest.mark.parametrize(
    ("divergence", "weight", "temperature", "shapes", "mean_over"),
    [
        ("forward_kl", 0.5, 1.0, ("student", "teacher"), "tokens"),
        ("forward_kl", 0.5, 1.0, ("student", "padded"), "sequences"),
        ("forward_kl", 0.9, 2.0, ("student", "teacher"), "tokens"),
        ("forward_kl", 1.0, 1.0, ("student", "teacher"), "tokens"),
        ("reverse_kl", 0.5, 0.7, ("wide", "padded"), "tokens"),
        ("jsd", 0.3, 1.5, ("wide", "teacher"), "sequences"),
    ],
)
def test_vanilla_kd_is_that_of_float64(
    rows, tmp_path, chunk_tokens, divergence, weight, temperature, shapes, mean_over
):
    import torch

    student, teacher = (model_of(shape, seed=seed) for seed, shape in enumerate(shapes))
    settings = VanillaKd(
        type="vanilla_kd", teacher="large", weight=weight, temperature=temperature, divergence=divergence
    )
    objective = opened(settings, student, tmp_path, teacher=Input(folder=saved(teacher, tmp_path / "teacher")))
    log_p = teacher_log_probabilities(teacher, rows, temperature)

    def expected(number: int, token: int, logits: Any, _: int) -> Any:
        log_q = torch.log_softmax(logits[:VOCAB_SIZE] / temperature, 0)
        apart = divergence_of(divergence, log_p[number], log_q)
        return (1 - weight) * cross_entropy(token, logits) + weight * temperature**2 * apart

    check(objective, student, rows, expected, mean_over=mean_over)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, when it first compiles
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_compiled_loss_is_that_of_float64(rows, tmp_path, as_on_a_gpu, divergence):
    import torch

    student, teacher = model_of("wide"), model_of("padded", seed=1)
    settings = VanillaKd(type="vanilla_kd", teacher="large", temperature=0.7, divergence=divergence)
    lines: list[str] = []
    folder = saved(teacher, tmp_path / "teacher")
    objective = opened(settings, student, tmp_path, report=lines.append, teacher=Input(folder=folder))
    log_p = teacher_log_probabilities(teacher, rows, 0.7)

    def expected(number: int, token: int, logits: Any, _: int) -> Any:
        log_q = torch.log_softmax(logits[:VOCAB_SIZE] / 0.7, 0)
        return 0.5 * cross_entropy(token, logits) + 0.5 * 0.49 * divergence_of(divergence, log_p[number], log_q)

    check(objective, student, rows, expected)
    assert lines == []


def test_where_nothing_can_be_compiled_that_is_said_once_and_the_loss_is_right(
    rows, tmp_path, as_on_a_gpu, monkeypatch
):
    import torch
    from torch._dynamo.exc import BackendCompilerFailed

    def without_compiler(_function: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise BackendCompilerFailed(lambda: None, RuntimeError("no compiler found"), None)

        return fail

    monkeypatch.setattr(torch, "compile", without_compiler)
    lines: list[str] = []
    model = model_of("student")
    objective = opened(CrossEntropy(), model, tmp_path, report=lines.append)
    check(objective, model, rows, lambda _, token, logits, __: cross_entropy(token, logits))
    assert len(lines) == 1 and "torch cannot compile the loss here" in lines[0] and "no compiler found" in lines[0]


def test_a_teacher_reads_the_token_in_front_that_it_learnt_to(rows, tmp_path):
    import torch

    student, teacher = model_of("student"), model_of("teacher", seed=1)
    folder = saved(teacher, tmp_path / "teacher")
    settings = VanillaKd(type="vanilla_kd", teacher="large")
    objective = opened(settings, student, tmp_path, teacher=Input(folder=folder, begin_of_sequence_id=9))
    log_p = teacher_log_probabilities(teacher, rows, 1.0, first=9)

    def expected(number: int, token: int, logits: Any, _: int) -> Any:
        apart = divergence_of("forward_kl", log_p[number], torch.log_softmax(logits, 0))
        return 0.5 * cross_entropy(token, logits) + 0.5 * apart

    check(objective, student, rows, expected)


def test_a_teacher_whose_logits_change_afterwards_is_right_too(rows, tmp_path):
    import torch

    student, teacher = model_of("student"), model_of("teacher", seed=1, model_type="gemma2")
    settings = VanillaKd(type="vanilla_kd", teacher="large")
    objective = opened(settings, student, tmp_path, teacher=Input(folder=saved(teacher, tmp_path / "teacher")))
    log_p = teacher_log_probabilities(teacher, rows, 1.0)

    def expected(number: int, token: int, logits: Any, _: int) -> Any:
        apart = divergence_of("forward_kl", log_p[number], torch.log_softmax(logits, 0))
        return 0.5 * cross_entropy(token, logits) + 0.5 * apart

    # Its embeddings are scaled in its own dtype, so that the teacher itself differs by 1e-5 in float64.
    check(objective, student, rows, expected, tolerance=3e-5)


def test_a_teacher_with_fewer_ids_than_the_tokenizer_is_refused(tmp_path):
    folder = saved(model_of("small"), tmp_path / "teacher")
    with pytest.raises(TrainingError, match="the teacher knows 60 token ids, the tokenizer has 61"):
        opened(
            VanillaKd(type="vanilla_kd", teacher="large"), model_of("student"), tmp_path, teacher=Input(folder=folder)
        )


def scored(folder: Path, name: str, rows: list[Row], nats: list[Any]) -> Path:
    """Write stored log-probabilities of the tokens after t_0 that follow no end-of-document token."""
    path = folder / name
    table = {
        "sequence_id": [row.sequence_id for row in rows],
        "token_logprobs_nats": pl.Series(nats, dtype=pl.List(pl.Float32)),
    }
    pl.DataFrame(table).write_parquet(path)
    file = pq.read_table(path)
    kept = file["token_logprobs_nats"].cast(pa.list_(pa.float16()))
    pq.write_table(file.set_column(1, "token_logprobs_nats", kept), path)
    return path


def token_file(rows: list[Row]) -> TokenFile:
    lengths = [len(row.token_ids) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.array([row.sequence_id for row in rows])
    return TokenFile(np.concatenate([row.token_ids for row in rows]).astype(np.uint32), offsets, ids)


@pytest.mark.parametrize("keep_fraction", [0.3, 0.6, 1.0])
def test_token_selection_keeps_the_highest_differences_of_all(rows, tmp_path, keep_fraction):
    random = np.random.default_rng(8)
    others = [Row(7, np.arange(1, 9))]  # scored, and not learned from
    files: dict[str, list[Path]] = {"teacher": [], "reference": []}
    differences = {}
    for number, part in enumerate((rows[2:], [*others, *rows[:2]])):  # not in the order of the corpus
        nats = {
            who: [
                np.float16(-random.exponential(3, int((row.token_ids[:-1] != END).sum()))).astype(np.float32)
                for row in part
            ]
            for who in files
        }
        for who, values in nats.items():
            files[who].append(scored(tmp_path, f"{who}-{number}.parquet", part, [one.tolist() for one in values]))
        for row, ours, theirs in zip(part, nats["teacher"], nats["reference"], strict=True):
            differences[row.sequence_id] = (ours - theirs).astype(np.float16)
    everything = np.sort(np.concatenate([differences[row.sequence_id] for row in rows]))[::-1]
    num_kept = math.ceil(keep_fraction * len(everything))
    cutoff = everything[num_kept - 1]
    settings = TokenSelection(type="token_selection", teacher="large", reference="small", keep_fraction=keep_fraction)
    inputs = {who: Input(files=tuple(paths)) for who, paths in files.items()}
    model = model_of("student")
    for _ in range(2):  # made, and found
        objective = opened(settings, model, tmp_path, token_file(rows), **inputs)
        assert objective.facts["token_cutoff_nats"] == cutoff
        assert objective.facts["num_predicted_tokens"] == len(everything)
        assert objective.facts["kept_token_share"] == (everything >= cutoff).mean() >= keep_fraction
        batch = batch_of(rows, objective)
        expected = [
            (place * 29 + position, row.token_ids[position + 1])
            for place, row in enumerate(rows)
            for position, difference in zip(
                np.flatnonzero(row.token_ids[:-1] != END), differences[row.sequence_id], strict=True
            )
            if difference >= cutoff
        ]
        assert list(zip(batch["positions"].tolist(), batch["targets"].tolist(), strict=True)) == expected
        assert batch["weights"].sum() == len(expected)
    loss = objective.loss(model, batch)
    logits = model.double()(input_ids=batch["input_ids"]).logits.flatten(0, 1)[batch["positions"]]
    nats = cross_entropy_of_torch(logits, batch["targets"])
    assert loss.total.item() == pytest.approx(nats.item(), rel=1e-6) == pytest.approx(loss.nll_nats.item(), rel=1e-6)


def cross_entropy_of_torch(logits: Any, targets: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def test_equal_differences_at_the_cutoff_are_all_kept_and_signed_zeros_are_equal(tmp_path):
    row = Row(3, np.arange(1, 8))
    teacher = scored(tmp_path, "t.parquet", [row], [[-1.0, -1.0, -2.0, 0.0, -0.0, -4.0]])
    reference = scored(tmp_path, "r.parquet", [row], [[-2.0, -1.0, -2.0, -0.0, 0.0, -1.0]])
    settings = TokenSelection(type="token_selection", teacher="large", reference="small", keep_fraction=0.3)
    inputs = {"teacher": Input(files=(teacher,)), "reference": Input(files=(reference,))}
    objective = opened(settings, model_of("student"), tmp_path, token_file([row]), **inputs)
    assert objective.facts == {"token_cutoff_nats": 0.0, "num_predicted_tokens": 6, "kept_token_share": 5 / 6}


def test_a_sequence_that_was_not_scored_is_named(rows, tmp_path):
    path = scored(tmp_path, "t.parquet", rows[:1], [[-1.0] * int((rows[0].token_ids[:-1] != END).sum())])
    settings = TokenSelection(type="token_selection", teacher="large", reference="small")
    inputs = {"teacher": Input(files=(path,)), "reference": Input(files=(path,))}
    with pytest.raises(TrainingError, match=r"sequence 101 is learned from, but .* not scored it \(3 such sequences\)"):
        opened(settings, model_of("student"), tmp_path, token_file(rows), **inputs)


def test_an_objective_names_its_inputs_and_its_cost():
    plain, kd = CrossEntropy(), VanillaKd(type="vanilla_kd", teacher="large")
    assert objective_of(plain).inputs(plain) == {}
    assert objective_of(plain).flops_per_token(plain, 7, {}) == 42
    assert objective_of(kd).inputs(kd) == {"teacher": ("teacher_model", "large")}
    assert objective_of(kd).flops_per_token(kd, 7, {"teacher": 100}) == 242
