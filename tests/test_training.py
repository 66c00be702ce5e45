"""Training from scratch: every sequence counted, every loss exact, every interruption without a trace.

The oracles: losses and weights come from a plain loop over torch alone, draws from arithmetic on lengths,
and what an interrupted run must end with from the run that was not interrupted.
"""

import json
import math
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment import Training
from miniplm_assets.experiment.models import LastCheckpoints
from miniplm_assets.experiment.objectives import CrossEntropy, SparseKd, TokenSelection, VanillaKd
from miniplm_assets.lm import torch_scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training import TrainingJob, train_language_model
from miniplm_assets.training.held_out import SAMPLE_SEED, choose_held_out
from miniplm_assets.training.journal import Journal
from miniplm_assets.training.layers import compile_layers
from miniplm_assets.training.objectives import Input, Objective
from miniplm_assets.training.plan import NUM_LOG_ROWS, evenly_spaced, plan_training
from miniplm_assets.training.token_file import Row, write_token_file
from miniplm_assets.training.train import earlier_states
from tests.scoring_oracle import gemma2_logits

pytestmark = pytest.mark.long

VOCAB_SIZE = 40
END = 0
ARCHITECTURE = {
    "model_type": "gpt2",  # has dropout, so that a resumed run must also find its random numbers again
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 48,
}
TRAINING = Training(
    token_budget=1_500,
    sequences_per_step=4,
    peak_learning_rate=3e-3,
    warmup_share=0.2,
    num_evaluations=3,
    num_held_out_sequences=6,
)


def write_sequences(path: Path, rows: list[tuple[str | None, list[int]]]) -> Path:
    table = {"sequence_id": range(len(rows)), "token_ids": pl.Series([ids for _, ids in rows], dtype=pl.List(pl.Int32))}
    table["num_tokens"] = [len(ids) for _, ids in rows]
    table["domain"] = [("odd", "even")[ids[0] % 2] for _, ids in rows]
    if any(split for split, _ in rows):
        table["split"] = [split for split, _ in rows]
    pl.DataFrame(table).write_parquet(path)
    return path


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    """A model of a few thousand parameters, a corpus of two files with a rule in it, some dozens of steps."""
    random = np.random.default_rng(0)
    files = []
    for number in range(2):
        rows = []
        for _ in range(60):
            steps = random.integers(1, 3, size=int(random.integers(6, 17)))
            ids = np.cumsum(steps) % VOCAB_SIZE  # 0, the end of a document, is passed now and then
            rows.append((str(random.choice(["candidate", "reference", "validation"])), ids.tolist()))
        files.append(write_sequences(tmp_path / f"sequences_{number}.parquet", rows))
    tokenizer = tmp_path / "tokenizer"
    write_tokenizer(tokenizer)
    return TrainingJob(
        name="tiny/student_checkpoint",
        architecture=ARCHITECTURE,
        training=TRAINING,
        tokenizer_folder=tokenizer,
        vocab_size=VOCAB_SIZE,
        end_of_document_id=END,
        sequence_files=tuple(files),
        split="candidate",
        held_out_files=tuple(files),
        max_sequence_tokens=17,
        seed=3,
        data_fingerprint="f" * 32,
    )


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<end>": END, **{f"t{number}": number for number in range(1, VOCAB_SIZE)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    (folder / "manifest.json").write_text("{}")


def train(job: TrainingJob, folder: Path, *, report=lambda _: None, stop: Stop | None = None) -> dict:
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "target").mkdir(exist_ok=True)
    return train_language_model(job, work=folder / "work", target=folder / "target", report=report, stop=stop)


def read_log(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "target" / "training_log.parquet")


def weights(folder: Path) -> bytes:
    return (folder / "target" / "model.safetensors").read_bytes()


# ---- what is drawn


def test_sequences_are_drawn_until_they_hold_the_budget() -> None:
    lengths = np.array([5, 9, 3, 8, 10])  # 35 in all
    plan = plan_training(lengths, token_budget=50, sequences_per_step=2, num_evaluations=2, seed=1)
    drawn = lengths[plan.order]
    assert sorted(plan.order[:5]) == [0, 1, 2, 3, 4]  # a whole epoch, in some order, then another
    assert len(set(plan.order[5:])) == len(plan.order[5:])
    assert drawn.sum() == plan.num_tokens
    assert 50 <= plan.num_tokens < 50 + drawn[-1]
    assert plan.num_epochs == plan.num_tokens / 35
    assert plan.tokens_after_step.tolist() == [drawn[:end].sum() for end in range(2, len(drawn) + 2, 2)]


def test_two_corpora_give_the_same_number_of_tokens_within_one_sequence() -> None:
    random = np.random.default_rng(0)
    for length in (50, 200):
        lengths = random.integers(2, length, size=1_000)
        plan = plan_training(lengths, token_budget=20_000, sequences_per_step=16, num_evaluations=5, seed=0)
        assert 0 <= plan.num_tokens - 20_000 < length


def test_a_draw_that_ends_with_an_epoch_has_no_step_beyond() -> None:
    plan = plan_training(np.array([4, 4]), token_budget=16, sequences_per_step=3, num_evaluations=1, seed=0)
    assert len(plan.order) == 4
    assert plan.num_steps == 2
    assert plan.num_epochs == 2


def test_evaluations_are_evenly_spaced_and_the_last_is_at_the_end() -> None:
    assert evenly_spaced(100, 4) == {25, 50, 75, 100}
    assert evenly_spaced(3, 20) == {1, 2, 3}
    plan = plan_training(np.full(10_000, 2), token_budget=20_000, sequences_per_step=10, num_evaluations=3, seed=0)
    assert plan.evaluation_steps == {333, 667, 1_000}
    assert plan.evaluation_steps <= plan.log_steps
    assert max(plan.log_steps) == 1_000
    assert len(plan.log_steps) <= NUM_LOG_ROWS + 3


def test_the_order_depends_on_the_seed_alone() -> None:
    lengths = np.arange(2, 100)

    def order(seed: int) -> list[int]:
        plan = plan_training(lengths, token_budget=3_000, sequences_per_step=4, num_evaluations=1, seed=seed)
        return plan.order.tolist()

    assert order(1) == order(1) != order(2)


def test_later_epochs_have_another_order_or_the_same() -> None:
    arguments = {"token_budget": 55, "sequences_per_step": 2, "num_evaluations": 1, "seed": 4}
    lengths = np.array([5, 5, 5, 5])
    drawn = plan_training(lengths, **arguments).order.tolist()
    repeated = plan_training(lengths, **arguments, repeats_order=True).order.tolist()
    assert len(drawn) == len(repeated) == 11
    assert repeated == [*drawn[:4], *drawn[:4], *drawn[:3]]
    assert (drawn[4:8], drawn[8:]) != (drawn[:4], drawn[:3])


def test_a_batch_predicts_neither_padding_nor_what_follows_an_end_of_document() -> None:
    from miniplm_assets.training.batch import make_batch

    rule = TokenRule(end_of_document_id=END, score_after_end_of_document=False)
    rows = [Row(0, np.array([7, 8, END, 9, 5])), Row(1, np.array([END, 4, 6]))]
    batch = make_batch(rows, rule=rule, mean_over="tokens", objective=Objective())
    assert batch["input_ids"].tolist() == [[7, 8, END, 9], [END, 4, END, END]]
    assert batch["positions"].tolist() == [0, 1, 3, 5]
    assert batch["targets"].tolist() == [8, END, 5, 6]
    assert batch["weights"].tolist() == [1, 1, 1, 1]
    weights = make_batch(rows, rule=rule, mean_over="sequences", objective=Objective())["weights"]
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])


# ---- the token file


def write_tokens(folder: Path, files: list[Path], **changes):
    arguments = {"sequence_files": files, "split": "candidate", "vocab_size": 10, "data_fingerprint": "a"}
    arguments |= {"report": pytest.fail, **changes}
    return write_token_file(folder, **arguments)


def test_the_token_file_holds_the_rows_of_the_split_in_order(tmp_path: Path) -> None:
    rows = [("candidate", [1, 2, 3]), ("reference", [4, 4]), ("candidate", [5]), ("candidate", [6, 7])]
    files = [write_sequences(tmp_path / "a.parquet", rows), write_sequences(tmp_path / "b.parquet", rows[::-1])]
    tokens = write_tokens(tmp_path / "tokens", files)
    read = [tokens.row(row).token_ids.tolist() for row in range(tokens.num_sequences)]
    assert read == [[1, 2, 3], [6, 7], [6, 7], [1, 2, 3]]  # one token alone has nothing to predict
    assert tokens.num_tokens().tolist() == [3, 2, 2, 3]
    assert tokens.sequence_ids.tolist() == [0, 3, 0, 3]


def test_a_half_written_or_foreign_token_file_is_made_again(tmp_path: Path) -> None:
    files = [write_sequences(tmp_path / "a.parquet", [("candidate", [1, 2]), ("reference", [3, 4])])]
    write_tokens(tmp_path / "tokens", files)
    (tmp_path / "tokens" / "contents.json").unlink()
    (tmp_path / "tokens" / "token_ids.bin").write_bytes(b"half")
    assert write_tokens(tmp_path / "tokens", files).row(0).token_ids.tolist() == [1, 2]
    assert write_tokens(tmp_path / "tokens", files, split="reference").row(0).token_ids.tolist() == [3, 4]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "note"])
@pytest.mark.parametrize("name", ["offsets.bin", "row_groups.bin", "sequence_ids.bin"])
def test_a_damaged_token_file_is_made_again_and_said_so_once(tmp_path: Path, name: str, damage: str) -> None:
    files = [write_sequences(tmp_path / "a.parquet", [("candidate", [1, 2, 3]), ("candidate", [4, 5])])]
    folder = tmp_path / "tokens"
    write_tokens(folder, files)
    path = folder / name
    content = path.read_bytes()
    match damage:
        case "flip":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut":
            path.write_bytes(content[:-3])
        case "gone":
            path.unlink()
        case "note":
            (folder / "contents.json").write_bytes((folder / "contents.json").read_bytes().replace(b"a", b"b", 1))
    lines: list[str] = []
    tokens = write_tokens(folder, files, report=lines.append)
    assert [tokens.row(row).token_ids.tolist() for row in range(tokens.num_sequences)] == [[1, 2, 3], [4, 5]]
    assert path.read_bytes() == content
    assert len(lines) == (damage != "note") and all(name in line and "is made anew" in line for line in lines)
    write_tokens(folder, files)


def test_token_ids_are_read_by_row_group_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pl.DataFrame(
        {
            "sequence_id": range(40),
            "split": ["candidate", "reference"] * 20,
            "domain": "text",
            "num_tokens": [3] * 40,
            "token_ids": pl.Series([[1, 2, number % 10] for number in range(40)], dtype=pl.List(pl.Int32)),
        }
    )
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        pq.write_table(table.to_arrow(), path, row_group_size=8)
    read: list[tuple[str, int]] = []
    whole = pq.ParquetFile.read_row_group

    def note(self: pq.ParquetFile, group: int, columns: list[str]) -> Any:
        if "token_ids" in columns:
            read.append((self.schema_arrow.names[0], group))
        return whole(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", note)
    tokens = write_tokens(tmp_path / "tokens", paths)
    assert tokens.num_sequences == 40 and tokens.num_tokens().tolist() == [3] * 40
    assert read == []  # nothing, to know how long each is
    for place in (0, 3, 1, 39, 20):
        assert tokens.row(place).token_ids.tolist() == [1, 2, (2 * place) % 40 % 10]
    assert len(read) == 3  # of ten row groups: those of 0, 1 and 3, of 39, of 20
    (tmp_path / "tokens" / "token_ids.bin").write_bytes(b"what a killed run has left")
    tokens = write_tokens(tmp_path / "tokens", paths)
    assert [tokens.row(place).token_ids.tolist() for place in (39, 0)] == [[1, 2, 8], [1, 2, 0]]
    read.clear()
    held_out = choose_held_out(paths, split="reference", num_sequences=1, seed=0)
    assert held_out.num_sequences == 1 and read == []
    assert len(held_out.read()) == 1 and len(read) == 1


def test_a_table_that_is_not_what_it_says_is_an_error_where_it_is_read(tmp_path: Path) -> None:
    token_ids = pl.Series([[1, 2], [1, 2, 11]], dtype=pl.List(pl.Int32))
    table = pl.DataFrame({"sequence_id": [7, 8], "num_tokens": [2, 3], "split": "candidate", "token_ids": token_ids})
    table.write_parquet(tmp_path / "a.parquet", statistics=False)
    tokens = write_tokens(tmp_path / "tokens", [tmp_path / "a.parquet"])
    with pytest.raises(TrainingError, match=r"a\.parquet: token ids from 1 to 11, but the tokenizer has 10"):
        tokens.row(0)
    table.with_columns(num_tokens=pl.lit(2)).write_parquet(tmp_path / "b.parquet")
    tokens = write_tokens(tmp_path / "others", [tmp_path / "b.parquet"], vocab_size=12)
    with pytest.raises(TrainingError, match=r"b\.parquet: row group 0 has 5 token ids where .* num_tokens says 4"):
        tokens.row(1)


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    files = [write_sequences(tmp_path / "a.parquet", [("candidate", [1, 2])])]
    with pytest.raises(TrainingError, match=r"split 'reference' holds no sequence to learn from .*a\.parquet"):
        write_tokens(tmp_path / "tokens", files, split="reference")
    with pytest.raises(TrainingError, match=r"a\.parquet: token ids from 1 to 2, but the tokenizer has 2"):
        write_tokens(tmp_path / "tokens", files, vocab_size=2)
    with pytest.raises(TrainingError, match=r"split 'validation' .* raise corpus\.splits\.validation"):
        choose_held_out(files, split="validation", num_sequences=3, seed=0)


def test_held_out_sequences_are_chosen_among_all_by_the_seed(tmp_path: Path) -> None:
    rows = [("validation" if number % 3 else "candidate", [number, number + 1]) for number in range(30)]
    files = [write_sequences(tmp_path / "a.parquet", rows[:11]), write_sequences(tmp_path / "b.parquet", rows[11:])]
    held_out = {number for number in range(30) if number % 3}

    def chosen(count: int, seed: int) -> list[int]:
        found = choose_held_out(files, split="validation", num_sequences=count, seed=seed).read()
        assert found["domain"].to_list() == [("odd", "even")[ids[0] % 2] for ids in found["token_ids"]]
        return [int(token_ids[0]) for token_ids in found["token_ids"]]

    assert chosen(100, 0) == sorted(held_out)
    some = chosen(7, 1)
    assert len(some) == 7 and set(some) < held_out and some == sorted(some)
    assert chosen(7, 1) == some != chosen(7, 2)


# ---- the training


def plain_training(job: TrainingJob) -> tuple[list[float], list[float], object]:
    """Train as the job says in a plain loop: the oracle. Returns losses, learning rates and the model."""
    import torch

    from miniplm_assets.lm.architectures import build_model

    rows = (
        pl.concat(pl.read_parquet(file) for file in job.sequence_files).filter(split=job.split)["token_ids"].to_list()
    )
    random = np.random.default_rng(job.seed)
    order: list[int] = []
    first_time = random.permutation(len(rows))
    while sum(len(rows[row]) for row in order) < job.training.token_budget:
        is_like_the_first = not order or job.training.later_epochs == "repeated"
        for row in first_time if is_like_the_first else random.permutation(len(rows)):
            order.append(int(row))
            if sum(len(rows[row]) for row in order) >= job.training.token_budget:
                break
    size = job.training.sequences_per_step
    steps = [order[start : start + size] for start in range(0, len(order), size)]
    model = build_model(
        job.architecture, vocab_size=VOCAB_SIZE, end_of_document_id=END, max_sequence_tokens=17, seed=job.seed
    )
    settings = job.training
    named = dict(model.named_parameters())
    plain = [name for name in named if "bias" in name or "ln_" in name]
    if job.training.decay_norms_and_biases:
        plain = []
    optimizer = torch.optim.AdamW(
        [
            {"params": [named[name] for name in named if name not in plain], "weight_decay": settings.weight_decay},
            {"params": [named[name] for name in plain], "weight_decay": 0.0},
        ],
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
    )
    warmup = round(settings.warmup_share * len(steps))
    losses, rates = [], []
    for number, step in enumerate(steps):
        if number < warmup:
            share = (number + 1) / warmup
        else:
            progress = (number + 1 - warmup) / (len(steps) - warmup)
            least = settings.final_learning_rate_share
            share = least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2
        total, count, means = 0.0, 0, []
        for row in step:
            ids = torch.tensor([rows[row]])
            logprobs = model(ids).logits[0].log_softmax(-1)
            of_row = [
                -logprobs[place - 1, rows[row][place]]
                for place in range(1, len(rows[row]))
                if rows[row][place - 1] != END
            ]
            total, count = total + sum(of_row), count + len(of_row)
            means.append(sum(of_row) / len(of_row))
        loss = total / count if job.training.loss_mean_over == "tokens" else sum(means) / len(means)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = share * settings.peak_learning_rate
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach() / count))
        rates.append(share * settings.peak_learning_rate)
    return losses, rates, model


NO_DROPOUT = {**ARCHITECTURE, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sequences_per_device": 3},
        {"decay_norms_and_biases": True, "weight_decay": 2.0},
        {"loss_mean_over": "sequences"},
        {"loss_mean_over": "sequences", "sequences_per_device": 3},
        {"later_epochs": "repeated"},
    ],
)
def test_training_is_that_of_a_plain_loop(job: TrainingJob, tmp_path: Path, changes: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    training = job.training.model_copy(update={"weight_decay": 0.1, **changes})
    job = replace(job, architecture=NO_DROPOUT, training=training)
    losses, rates, model = plain_training(job)
    facts = train(job, tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert log["step"].to_list() == list(range(1, len(losses) + 1))
    np.testing.assert_allclose(log["training_nll_nats_per_token"], losses, atol=2e-4)
    np.testing.assert_allclose(log["learning_rate"], rates, rtol=1e-12)
    trained = load_file(tmp_path / "run" / "target" / "model.safetensors")
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(trained[name], parameter.detach(), atol=1e-3)
    assert losses[-1] < losses[0] - 0.3
    assert facts["num_steps"] == len(losses)
    assert facts["training_flops"] == 6 * facts["num_parameters"] * facts["num_tokens"]


def test_a_cap_on_the_attention_is_trained_with(job: TrainingJob, tmp_path: Path) -> None:
    from miniplm_assets.lm.architectures import build_model

    architecture = {
        "model_type": "gemma2",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 64,
        "attn_logit_softcapping": 0.5,
        "initializer_range": 0.5,
    }
    job = replace(job, architecture=architecture)
    rows = pl.concat(pl.read_parquet(file) for file in job.sequence_files).filter(split=job.split)["token_ids"]
    first_step = np.random.default_rng(job.seed).permutation(len(rows))[: job.training.sequences_per_step]
    model = build_model(
        architecture, vocab_size=VOCAB_SIZE, end_of_document_id=END, max_sequence_tokens=17, seed=job.seed
    )
    nats = []
    for row in first_step:
        ids = rows[int(row)].to_numpy()
        logits = gemma2_logits(model, ids[:-1])
        logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        nats += [-logprobs[place, ids[place + 1]] for place in range(len(ids) - 1) if ids[place] != END]
    train(job, tmp_path / "run")
    assert read_log(tmp_path / "run")["training_nll_nats_per_token"][0] == pytest.approx(np.mean(nats), abs=1e-5)


def test_a_student_whose_kernels_are_missing_says_how_slow_it_will_be(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mamba = {"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1, "state_size": 2}
    job = replace(job, architecture=mamba, training=job.training.model_copy(update={"token_budget": 200}))
    for name in ("first", "second"):  # transformers itself says it once a process
        lines: list[str] = []
        facts = train(job, tmp_path / name, report=lines.append)
        [line] = [line for line in lines if "own reference" in line]
        assert "of MambaForCausalLM" in line and "not installed: causal_conv1d, mamba_ssm;" in line
        assert re.search(
            rf"A sequence of 16 tokens takes \d+\.\d s here, so the {facts['num_sequences']} of this run", line
        )
    monkeypatch.setattr("miniplm_assets.training.train.what_is_slow", lambda *_, **__: "")
    train(job, tmp_path / "unmeasured")
    assert weights(tmp_path / "unmeasured") == weights(tmp_path / "first")  # measuring left no trace
    lines.clear()
    train(replace(job, architecture=ARCHITECTURE), tmp_path / "gpt2", report=lines.append)
    assert not [line for line in lines if "own reference" in line]


def test_the_result_loads_as_any_model_and_its_held_out_loss_is_exact(
    job: TrainingJob, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lines: list[str] = []
    facts = train(job, tmp_path / "run", report=lines.append)
    assert capfd.readouterr() == ("", "")  # what there is to say goes through report
    target = tmp_path / "run" / "target"
    model = AutoModelForCausalLM.from_pretrained(target).eval()
    assert AutoTokenizer.from_pretrained(target).convert_tokens_to_ids("t7") == 7
    assert model.config.use_cache

    sums = {"odd": [0, 0.0, 0], "even": [0, 0.0, 0]}
    sample = choose_held_out(job.held_out_files, split="validation", num_sequences=6, seed=SAMPLE_SEED).read()
    for ids in sample["token_ids"].to_list():
        logprobs = model(torch.tensor([ids])).logits[0].detach().double().log_softmax(-1)
        of_domain = sums[("odd", "even")[ids[0] % 2]]
        of_domain[0] += 1
        for place in range(1, len(ids)):
            if ids[place - 1] != END:
                of_domain[1] -= float(logprobs[place - 1, ids[place]])
                of_domain[2] += 1
    total, count = (sum(of_domain[place] for of_domain in sums.values()) for place in (1, 2))
    log = read_log(tmp_path / "run")
    measured = log.filter(pl.col("held_out_nll_nats_per_token").is_not_null())
    assert measured["step"].to_list() == sorted(evenly_spaced(facts["num_steps"], 3))
    assert measured["held_out_nll_nats_per_token"][-1] == pytest.approx(total / count, abs=1e-5)
    assert facts["held_out_nll_nats_per_token"] == measured["held_out_nll_nats_per_token"][-1]
    assert log["num_tokens"][-1] == facts["num_tokens"]
    by_domain = pl.read_parquet(target / "held_out_log.parquet")
    assert by_domain["step"].unique().sort().to_list() == measured["step"].to_list()
    assert by_domain["num_tokens"].unique().sort().to_list() == measured["num_tokens"].to_list()
    last = by_domain.filter(step=facts["num_steps"]).rows_by_key("domain", named=True, unique=True)
    assert last.keys() == {domain for domain, (number, _, _) in sums.items() if number}
    for domain, row in last.items():
        assert (row["num_sequences"], row["num_scored_tokens"]) == (sums[domain][0], sums[domain][2])
        assert row["nll_nats"] == pytest.approx(sums[domain][1], abs=1e-4)
    assert facts["measured_by"] == {"num_evaluations": 3, "num_held_out_sequences": facts["num_held_out_sequences"]}
    assert facts["num_held_out_sequences"] == 6
    assert lines[0].startswith("tiny/student_checkpoint: ")
    assert "left" in lines[-1]
    names = {path.name for path in target.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "training_log.parquet"} <= names
    assert not any(path.suffix in (".bin", ".pt", ".pth", ".pkl") for path in target.iterdir())
    assert "manifest.json" not in names


class InterruptedRunError(Exception):
    pass


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch):
    """Checkpoint after every step, and let a run end in the middle of one."""
    from miniplm_assets.training import trainer

    def stop(step: int):
        write = trainer.save_checkpoint

        def save(work: Path, **arguments):
            saved = write(work, **arguments)
            if arguments["step"] == step:
                raise InterruptedRunError
            return saved

        monkeypatch.setattr(trainer, "save_checkpoint", save)

    yield stop


def every_step(job: TrainingJob) -> TrainingJob:
    return replace(job, training=job.training.model_copy(update={"checkpoint_minutes": 1e-9}))


def test_a_resumed_run_ends_with_the_same_bytes(job: TrainingJob, tmp_path: Path, stop_after, monkeypatch) -> None:
    monkeypatch.setattr("miniplm_assets.training.plan.NUM_LOG_ROWS", 7)  # so that a checkpoint falls between two rows
    whole = train(job, tmp_path / "whole")
    stop_after(11)
    with pytest.raises(InterruptedRunError):
        train(every_step(job), tmp_path / "cut")
    checkpoints = list((tmp_path / "cut" / "work").glob("*checkpoint*"))
    assert [path.name for path in checkpoints] == ["checkpoint-11"]
    assert not any(path.suffix in (".bin", ".pt", ".pth", ".pkl") for path in checkpoints[0].iterdir())

    resumed = train(job, tmp_path / "cut")
    assert resumed["resumed_from_step"] == 11
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert read_log(tmp_path / "cut").drop("seconds").equals(read_log(tmp_path / "whole").drop("seconds"))
    ignored = {"resumed_from_step", "training_seconds"}
    assert {key: resumed[key] for key in resumed.keys() - ignored} == {
        key: whole[key] for key in whole.keys() - ignored
    }


def test_the_last_states_are_kept_and_change_nothing_also_where_a_run_goes_on(
    job: TrainingJob, tmp_path: Path, stop_after
) -> None:
    from transformers import AutoModelForCausalLM

    train(job, tmp_path / "without")
    kept = replace(job, last_checkpoints=LastCheckpoints(number=3, apart=0.2))
    whole = train(kept, tmp_path / "whole")
    assert weights(tmp_path / "whole") == weights(tmp_path / "without")
    folders = earlier_states(tmp_path / "whole" / "target")
    steps = [whole["num_steps"] - round(apart * whole["num_steps"]) for apart in (0.4, 0.2)]
    assert [folder.name for folder in folders] == [f"step-{step:08d}" for step in steps]

    stop_after(steps[0])  # after the first of them was kept, before the other
    with pytest.raises(InterruptedRunError):
        train(every_step(kept), tmp_path / "cut")
    # A state is what a checkpoint of its step holds.
    checkpoint = tmp_path / "cut" / "work" / f"checkpoint-{steps[0]}" / "model.safetensors"
    assert (folders[0] / "model.safetensors").read_bytes() == checkpoint.read_bytes()
    train(kept, tmp_path / "cut")
    for one, other in zip(folders, earlier_states(tmp_path / "cut" / "target"), strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        assert AutoModelForCausalLM.from_pretrained(one).config.vocab_size == VOCAB_SIZE
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_kept_state_that_was_damaged_is_an_error(job: TrainingJob, tmp_path: Path, stop_after) -> None:
    kept = replace(job, last_checkpoints=LastCheckpoints(number=2, apart=0.7))
    stop_after(14)
    with pytest.raises(InterruptedRunError):
        train(every_step(kept), tmp_path)
    [file] = (tmp_path / "work").glob("weights-*/model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(TrainingError, match="are gone or damaged"):
        train(kept, tmp_path)


def test_more_last_states_than_steps_are_refused(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="5 states, 0.001 of .* steps apart, are not as many different ones"):
        train(replace(job, last_checkpoints=LastCheckpoints(number=5, apart=0.001)), tmp_path)


def with_objective(job: TrainingJob, name: str, folder: Path) -> TrainingJob:
    """Return a job with an objective, and what it needs."""
    from miniplm_assets.lm.architectures import build_model

    folder.mkdir()
    if name == "vanilla_kd":
        teacher = build_model(
            ARCHITECTURE, vocab_size=VOCAB_SIZE, end_of_document_id=END, max_sequence_tokens=17, seed=9
        )
        teacher.save_pretrained(folder / "teacher")
        settings = VanillaKd(type="vanilla_kd", teacher="large")
        return replace(job, objective=settings, objective_inputs={"teacher": Input(folder=folder / "teacher")})
    sequences = pl.concat(pl.read_parquet(path).with_row_index("row") for path in job.sequence_files)
    random = np.random.default_rng(7)

    def scores(path: Path) -> Input:
        num = [int((np.array(ids[:-1]) != END).sum()) for ids in sequences["token_ids"]]
        nats = [(-random.exponential(2, count)).astype(np.float16) for count in num]
        columns = {
            "sequence_id": sequences["sequence_id"].to_arrow(),
            "num_scored_tokens": pa.array(num, pa.int32()),
            "token_logprobs_nats": pa.array(nats, pa.list_(pa.float16())),
            "sampled_token_ids": pa.array([random.integers(0, VOCAB_SIZE, 3 * count) for count in num]),
            "sampled_logprobs_nats": pa.array(
                [(-random.exponential(2, 3 * count)).astype(np.float16) for count in num], pa.list_(pa.float16())
            ),
        }
        pq.write_table(pa.table(columns), path)
        return Input(files=(path,))

    teacher_scores = scores(folder / "teacher.parquet")
    if name == "sparse_kd":
        settings = SparseKd(type="sparse_kd", teacher="large")
        return replace(job, objective=settings, objective_inputs={"teacher_scores": teacher_scores})
    settings = TokenSelection(type="token_selection", teacher="large", reference="small")
    inputs = {"teacher": teacher_scores, "reference": scores(folder / "reference.parquet")}
    return replace(job, objective=settings, objective_inputs=inputs)


@pytest.mark.parametrize("name", ["vanilla_kd", "sparse_kd", "token_selection"])
def test_a_resumed_run_of_each_objective_ends_with_the_same_bytes(
    job: TrainingJob, tmp_path: Path, stop_after, name: str
) -> None:
    # Ids that no two sequences share, as packing gives them.
    files = []
    for number, path in enumerate(job.sequence_files):
        files.append(tmp_path / f"numbered_{number}.parquet")
        pl.read_parquet(path).with_columns(pl.col("sequence_id") + 1_000 * number).write_parquet(files[-1])
    job = with_objective(replace(job, sequence_files=tuple(files)), name, tmp_path / "inputs")
    plain = train(replace(job, objective=CrossEntropy(), objective_inputs={}), tmp_path / "plain")
    whole = train(job, tmp_path / "whole")
    stop_after(11)
    with pytest.raises(InterruptedRunError):
        train(every_step(job), tmp_path / "cut")
    assert train(job, tmp_path / "cut")["resumed_from_step"] == 11
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole") != weights(tmp_path / "plain")
    assert read_log(tmp_path / "cut").drop("seconds").equals(read_log(tmp_path / "whole").drop("seconds"))
    assert (whole["training_flops"] > plain["training_flops"]) == (name == "vanilla_kd")


@pytest.mark.parametrize("while_measuring", [False, True])
def test_a_stopped_run_ends_with_the_same_bytes(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_measuring: bool
) -> None:
    job = replace(job, training=job.training.model_copy(update={"token_budget": 600}))
    whole = train(job, tmp_path / "whole")
    first, second, _ = sorted(evenly_spaced(whole["num_steps"], 3))
    stop, at_step, steps = Stop(), second if while_measuring else first + 1, []
    score, record = torch_scorer.score_with_model, Journal.record

    def score_and_ask(*arguments, **others):
        stop.is_asked |= while_measuring and steps[-1] == at_step
        return score(*arguments, **others)

    def record_and_ask(journal, step, **losses):
        record(journal, step, **losses)
        steps.append(step)
        stop.is_asked |= not while_measuring and step == at_step

    with monkeypatch.context() as patched:
        patched.setattr("miniplm_assets.training.held_out.score_with_model", score_and_ask)
        patched.setattr(Journal, "record", record_and_ask)
        with pytest.raises(Stopped):
            train(job, tmp_path / "cut", stop=stop)
    assert [path.name for path in (tmp_path / "cut" / "work").glob("*checkpoint*")] == [f"checkpoint-{at_step}"]

    assert train(job, tmp_path / "cut")["resumed_from_step"] == at_step
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert read_log(tmp_path / "cut").drop("seconds").equals(read_log(tmp_path / "whole").drop("seconds"))
    logs = [tmp_path / name / "target" / "held_out_log.parquet" for name in ("cut", "whole")]
    assert pl.read_parquet(logs[0]).equals(pl.read_parquet(logs[1]))


def test_a_run_that_is_told_to_stop_in_its_last_step_is_finished(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, training=job.training.model_copy(update={"token_budget": 600, "num_evaluations": 1}))
    stop, record = Stop(), Journal.record

    def record_and_ask(journal, step, **losses):
        record(journal, step, **losses)
        stop.is_asked |= step == num_steps

    num_steps = train(job, tmp_path / "whole")["num_steps"]
    monkeypatch.setattr(Journal, "record", record_and_ask)
    train(job, tmp_path / "told", stop=stop)
    assert stop.is_asked
    assert weights(tmp_path / "told") == weights(tmp_path / "whole")


def test_looking_at_losses_changes_no_weight_and_a_resumed_run_keeps_to_its_own_looks(
    job: TrainingJob, tmp_path: Path, stop_after
) -> None:
    whole = train(job, tmp_path / "whole")
    often = replace(job, training=job.training.model_copy(update={"num_evaluations": 9, "num_held_out_sequences": 2}))
    assert train(often, tmp_path / "often")["num_held_out_sequences"] == 2
    assert weights(tmp_path / "often") == weights(tmp_path / "whole")
    assert pl.read_parquet(tmp_path / "often" / "target" / "held_out_log.parquet")["step"].n_unique() == 9
    stop_after(11)
    with pytest.raises(InterruptedRunError):
        train(every_step(job), tmp_path / "cut")
    resumed = train(often, tmp_path / "cut")
    assert resumed["measured_by"] == whole["measured_by"]
    assert resumed["num_held_out_sequences"] == whole["num_held_out_sequences"]
    for name in ("held_out_log.parquet", "model.safetensors"):
        assert (tmp_path / "cut" / "target" / name).read_bytes() == (tmp_path / "whole" / "target" / name).read_bytes()


def test_every_seed_is_measured_on_the_same_sequences(job: TrainingJob, tmp_path: Path) -> None:
    logs = []
    for seed in (3, 4):
        train(replace(job, seed=seed), tmp_path / str(seed))
        log = pl.read_parquet(tmp_path / str(seed) / "target" / "held_out_log.parquet")
        logs.append(log.select("domain", "num_sequences", "num_scored_tokens"))
    assert logs[0].equals(logs[1])
    assert weights(tmp_path / "3") != weights(tmp_path / "4")


def test_a_killed_process_is_resumed_to_the_same_bytes(job: TrainingJob, tmp_path: Path) -> None:
    """kill -9 between the files of a checkpoint: the one before it counts."""
    train(job, tmp_path / "whole")
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path, PosixPath
        import miniplm_assets.training.checkpoint as checkpoint
        from miniplm_assets.experiment import Training
        from miniplm_assets.experiment.objectives import CrossEntropy
        from miniplm_assets.training import TrainingJob, train_language_model

        write = checkpoint.write_note
        def kill_at_step_nine(path, content):
            if path.parent.name.startswith(".checkpoint-9.") and path.name == "checkpoint.json":
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, content)
        checkpoint.write_note = kill_at_step_nine
        job = {every_step(job)!r}
        train_language_model(job, work=Path({str(tmp_path / "cut" / "work")!r}),
                             target=Path({str(tmp_path / "cut" / "target")!r}), report=print)
        """
    )
    (tmp_path / "cut" / "work").mkdir(parents=True)
    (tmp_path / "cut" / "target").mkdir()
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = train(job, tmp_path / "cut")
    assert resumed["resumed_from_step"] == 8
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert read_log(tmp_path / "cut").drop("seconds").equals(read_log(tmp_path / "whole").drop("seconds"))


def test_a_damaged_checkpoint_costs_time_and_nothing_else(job: TrainingJob, tmp_path: Path, stop_after) -> None:
    train(job, tmp_path / "whole")
    stop_after(5)
    with pytest.raises(InterruptedRunError):
        train(every_step(job), tmp_path / "cut")
    moments = tmp_path / "cut" / "work" / "checkpoint-5" / "optimizer.safetensors"
    content = bytearray(moments.read_bytes())
    content[-1] ^= 1
    moments.write_bytes(content)
    lines: list[str] = []
    assert train(job, tmp_path / "cut", report=lines.append)["resumed_from_step"] is None
    assert sum("checkpoint-5 is damaged" in line for line in lines) == 1
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_checkpoint_of_another_run_is_refused(job: TrainingJob, tmp_path: Path, stop_after) -> None:
    stop_after(5)
    with pytest.raises(InterruptedRunError):
        train(every_step(job), tmp_path / "cut")
    with pytest.raises(TrainingError, match=r"data_fingerprint is 'e+', the checkpoint was written with 'f+'.*Delete"):
        train(replace(job, data_fingerprint="e" * 32), tmp_path / "cut")
    slower = job.training.model_copy(update={"peak_learning_rate": 1e-3})
    with pytest.raises(TrainingError, match=r"peak_learning_rate is 0\.001, the checkpoint was written with 0\.003"):
        train(replace(job, training=slower), tmp_path / "cut")


def test_a_diverged_run_names_its_step(job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from miniplm_assets.training import journal

    record = journal.Journal.record

    def record_nan(self, step, *, nats, **others):
        record(self, step, nats=nats * math.nan if step == 6 else nats, **others)

    monkeypatch.setattr(journal.Journal, "record", record_nan)
    with pytest.raises(TrainingError, match=r"step 6: the loss is nan.*lower peak_learning_rate"):
        train(job, tmp_path / "run")


def test_a_gradient_that_is_not_finite_gets_into_no_checkpoint(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    job = replace(job, training=job.training.model_copy(update={"token_budget": 300}))
    train(job, tmp_path / "whole")
    norm_of, norms = Trainer._get_grad_norm, []

    def nan_in_the_fourth(self, model, grad_norm=None):
        norms.append(norm_of(self, model, grad_norm=grad_norm))
        return norms[-1] * (math.nan if len(norms) == 4 else 1)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_get_grad_norm", nan_in_the_fourth)
        with pytest.raises(TrainingError, match="step 4: the norm of the gradient is nan") as diverged:
            train(every_step(job), tmp_path / "cut")
    rows = pl.concat(pl.read_parquet(file) for file in job.sequence_files).filter(split=job.split)
    size = job.training.sequences_per_step
    drawn = np.random.default_rng(job.seed).permutation(len(rows))[3 * size : 4 * size]
    named = ", ".join(str(rows["sequence_id"][int(row)]) for row in drawn)
    assert str(diverged.value).endswith(f"The step learned from sequences {named}.")
    assert [path.name for path in (tmp_path / "cut" / "work").glob("*checkpoint*")] == ["checkpoint-3"]
    assert train(job, tmp_path / "cut")["resumed_from_step"] == 3
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_loss_that_rises_too_far_ends_the_training_where_that_is_asked_for() -> None:
    import torch

    def collected(losses: list[float], max_rise: float | None) -> None:
        journal = Journal()
        journal.max_rise = max_rise
        for step, loss in enumerate(losses, start=1):
            for share in (1.5, 0.5):  # two batches of 10 tokens, whose mean is the loss
                nats = torch.tensor(10 * loss * share)
                journal.record(step, nats=nats, nll_nats=nats, num_predicted=torch.tensor(10))
            journal.collect()

    steady = [3.0, 3.2] * 6  # median 3.1
    collected([*steady, 99.0], None)
    collected([*steady, 5.0], 2.0)
    collected([*steady[:9], 99.0], 2.0)  # too few to be told by
    with pytest.raises(TrainingError, match=r"step 13: the loss is 5\.200 nats a token, more .* above 3\.100, the"):
        collected([*steady, 5.2], 2.0)


def test_layers_that_are_computed_again_give_the_same_bytes(job: TrainingJob, tmp_path: Path) -> None:
    job = replace(job, training=job.training.model_copy(update={"token_budget": 300}))
    train(job, tmp_path / "kept")
    again = job.training.model_copy(update={"gradient_checkpointing": True})
    train(replace(job, training=again), tmp_path / "again")
    assert weights(tmp_path / "again") == weights(tmp_path / "kept")


def test_compiled_layers_give_the_same_losses(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch._dynamo.utils import counters

    compile_layer = torch.nn.Module.compile
    # All but the last step, which takes a C++ compiler a minute.
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda layer, **how: compile_layer(layer, backend="aot_eager", **how)
    )

    def trained(name: str, *, num_layers: int = 2, **settings: Any) -> pl.DataFrame:
        training = job.training.model_copy(update={"token_budget": 300, **settings})
        architecture = {**NO_DROPOUT, "n_layer": num_layers}
        counters.clear()
        train(replace(job, training=training, architecture=architecture), tmp_path / name)
        return read_log(tmp_path / name)

    plain, compiled = trained("plain"), trained("compiled", compile=True)
    assert counters["stats"]["unique_graphs"] >= 2  # to train and to measure
    again = trained("again", compile=True, gradient_checkpointing=True)
    for column in ("training_nll_nats_per_token", "held_out_nll_nats_per_token"):
        np.testing.assert_allclose(compiled[column].to_numpy(), plain[column].to_numpy(), rtol=1e-5)
        np.testing.assert_allclose(again[column].to_numpy(), plain[column].to_numpy(), rtol=1e-5)
    trained("deeper", compile=True, num_layers=4)
    assert counters["stats"]["unique_graphs"] == 0  # what was compiled for two layers serves four


def test_what_cannot_be_compiled_is_said(job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def no_compiler(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler found\n\nset CXX")

    compile_layer = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **_: compile_layer(layer, backend=no_compiler))
    compiled = replace(job, training=job.training.model_copy(update={"compile": True}))
    with pytest.raises(
        TrainingError, match=r"cannot compile its layers here .*no C\+\+ compiler found.*compile to false"
    ):
        train(compiled, tmp_path / "run")


def test_a_model_of_unknown_layers_is_refused_where_they_are_to_be_compiled() -> None:
    import torch

    model = torch.nn.Linear(1, 1)
    model._no_split_modules = None
    with pytest.raises(TrainingError, match=r"training\.compile true: .* the layers of a Linear are; set it to false"):
        compile_layers(model)


def test_a_corpus_without_the_split_is_refused_before_anything_is_trained(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"split 'teacher' holds no sequence to learn from"):
        train(replace(job, split="teacher"), tmp_path / "run")


def test_a_refined_corpus_has_no_split(job: TrainingJob, tmp_path: Path) -> None:
    refined = write_sequences(tmp_path / "refined.parquet", [(None, [1, 2, 3, 4, 5])] * 10)
    job = replace(job, sequence_files=(refined,), split=None)
    facts = train(replace(job, training=job.training.model_copy(update={"token_budget": 100})), tmp_path / "run")
    assert facts["num_epochs"] == 2
    assert facts["num_tokens"] == 100


def test_bfloat16_trains_where_the_device_has_it(job: TrainingJob, tmp_path: Path) -> None:
    bf16 = job.training.model_copy(update={"dtype": "bfloat16"})
    train(replace(job, training=bf16), tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert log["training_nll_nats_per_token"][-1] < log["training_nll_nats_per_token"][0]


def test_float16_is_refused_where_it_would_quietly_be_float32(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="float16 needs an accelerator, and this machine has none; set it to"):
        train(replace(job, training=job.training.model_copy(update={"dtype": "float16"})), tmp_path / "run")


def test_the_scale_of_a_float16_loss_begins_as_published_and_survives_a_checkpoint(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after
) -> None:
    import torch

    from miniplm_assets.training import trainer as module

    scalers = []
    made = module.CourseTrainer.__init__

    def with_scaler(self, course, loss, **arguments):
        made(self, course, loss, **arguments)
        course.loss_scaler = torch.amp.GradScaler("cpu")
        scalers.append(course.loss_scaler)

    monkeypatch.setattr(module.CourseTrainer, "__init__", with_scaler)
    stop_after(3)
    with pytest.raises(InterruptedRunError):
        train(every_step(job), tmp_path / "run")
    assert scalers[0].state_dict()["scale"] == 2**11
    [state] = (tmp_path / "run" / "work").glob("checkpoint-*/state.json")
    carried = json.loads(state.read_text())["loss_scale"]
    assert carried == scalers[0].state_dict()
    train(every_step(job), tmp_path / "run")
    assert scalers[1].state_dict() == carried
