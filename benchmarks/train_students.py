"""How fast a student is trained, and in how much memory: here, by transformers' Trainer, and by a plain loop.

    python benchmarks/train_students.py                                  # 104M parameters, float32, CPU
    python benchmarks/train_students.py --ways here_kd loop_kd           # Vanilla KD, teacher of 200M
    python benchmarks/train_students.py --steps 3 --rounds 1
    python benchmarks/train_students.py --device cuda --dtype bfloat16 --shape 200M --sequences 16 --steps 10

Every way trains the same model, random weights of one seed, on the same random sequences of 1,025 tokens over a
vocabulary of 151,936, one sequence a step (`--sequences`) with AdamW, in turn, round after round, each in a process of
its own. The first step is warm-up; the seconds of a step are the median of the others. `here` is
`train_language_model` itself. `trainer` is transformers' Trainer as it comes: its model computes whole logits and their
cross-entropy. `loop` is the shortest loop in torch: whole logits, `cross_entropy`, backward, clip, step. With `_kd`, a
teacher runs beside the student and the loss is 0.5 cross-entropy and 0.5 forward KL; the loop computes both whole.
`here_sparse_kd` learns from 12 ids a token that a teacher's scores have kept: no model beside it.

Memory is the peak of the process (of a GPU: of what torch holds there) during the timed steps, above what it holds when
the model (and its teacher) are loaded and beyond gradients and the two moments of AdamW, 12 bytes a parameter: what a
step itself takes. The losses of the first step are printed: all ways of one loss must agree on them. Of the limit: 6
FLOPs a parameter and token, by the rate of one large matrix product on the same device in the same dtype.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.score_sequences import (
    END_OF_DOCUMENT,
    SEQUENCE_LENGTH,
    VOCAB_SIZE,
    forget_peaks,
    matmul_flops,
    own_peak_bytes,
)
from benchmarks.score_sequences import SHAPES as SCORED_SHAPES

SHAPES = {
    "104M": SCORED_SHAPES["104M"],
    "200M": {"hidden_size": 768, "intermediate_size": 2112, "num_hidden_layers": 12, "num_attention_heads": 12},
}
WAYS = ("here", "trainer", "loop", "here_kd", "loop_kd", "here_sparse_kd")
LEARNING_RATE = 1e-4
NUM_KEPT_IDS = 12


def architecture(shape: str) -> dict[str, Any]:
    """Return a Qwen2 shape."""
    heads = SHAPES[shape]["num_attention_heads"]
    return {
        "model_type": "qwen2",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": SEQUENCE_LENGTH,
        "num_key_value_heads": heads,
        "tie_word_embeddings": True,
        **SHAPES[shape],
    }


def build(shape: str, seed: int) -> Any:
    """Return a model with random weights: those that training here would begin with."""
    from miniplm_assets.lm.architectures import build_model

    return build_model(
        architecture(shape),
        vocab_size=VOCAB_SIZE,
        end_of_document_id=END_OF_DOCUMENT,
        max_sequence_tokens=SEQUENCE_LENGTH + 1,
        seed=seed,
    )


def make_inputs(folder: Path, num_sequences: int, teacher: str) -> None:
    """Write sequences to learn from, a tokenizer's stand-in, and a teacher."""
    import polars as pl

    random = np.random.default_rng(0)
    rows = random.integers(0, END_OF_DOCUMENT, size=(num_sequences + 1, SEQUENCE_LENGTH + 1))
    pl.DataFrame(
        {
            "sequence_id": range(len(rows)),
            "domain": "random",
            "split": ["candidate"] * num_sequences + ["validation"],
            "num_tokens": SEQUENCE_LENGTH + 1,
            "token_ids": pl.Series(rows.tolist(), dtype=pl.List(pl.Int32)),
        }
    ).write_parquet(folder / "sequences.parquet")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    build(teacher, seed=1).save_pretrained(folder / "teacher")
    write_kept_tokens(folder / "scores.parquet", num_sequences, random)


def write_kept_tokens(path: Path, num_sequences: int, random: np.random.Generator) -> None:
    """Write scores of a teacher that keep some ids of its distribution for every token."""
    import polars as pl

    kept_ids = random.integers(0, END_OF_DOCUMENT, size=(num_sequences, SEQUENCE_LENGTH * NUM_KEPT_IDS))
    logprobs = np.full(kept_ids.shape, -12.0)
    pl.DataFrame(
        {
            "sequence_id": pl.Series(range(num_sequences), dtype=pl.Int64),
            "num_scored_tokens": pl.Series([SEQUENCE_LENGTH] * num_sequences, dtype=pl.Int32),
            "sampled_token_ids": pl.Series(kept_ids.tolist(), dtype=pl.List(pl.UInt32)),
            "sampled_logprobs_nats": pl.Series(logprobs.tolist(), dtype=pl.List(pl.Float32)),
        }
    ).write_parquet(path)


class Clock:
    """Notes when each step ends, its loss, and the memory."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.loaded_bytes = 0
        self.ends: list[float] = []
        self.losses: list[float] = []

    def begin(self) -> None:
        """Once everything is loaded."""
        forget_peaks(self._device)
        self.loaded_bytes = self._peak_bytes()  # which has just become what is held now
        self.ends.append(time.perf_counter())

    def _peak_bytes(self) -> int:
        if self._device == "cpu":
            return own_peak_bytes()
        import torch

        return torch.cuda.max_memory_allocated()

    def step(self, loss: float) -> None:
        """Note a step; its loss is a number by now, so that the device is done with its forward pass."""
        if self._device != "cpu":
            import torch

            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())
        self.losses.append(loss)

    def answer(self) -> dict[str, Any]:
        """Return what was noted."""
        seconds = np.diff(self.ends).tolist()
        return {
            "seconds": statistics.median(seconds[1:]),
            "loss": self.losses[0],
            "peak_bytes": self._peak_bytes() - self.loaded_bytes,
        }


def train_here(folder: Path, arguments: argparse.Namespace, way: str) -> dict[str, Any]:
    """Train with this project, and look on."""
    from miniplm_assets.experiment import Training, VanillaKd
    from miniplm_assets.experiment.objectives import CrossEntropy, SparseKd
    from miniplm_assets.training import TrainingJob, train_language_model, trainer
    from miniplm_assets.training.journal import Journal
    from miniplm_assets.training.objectives import Input

    objective, inputs = {
        "here": (CrossEntropy(), {}),
        "here_kd": (VanillaKd(type="vanilla_kd", teacher="large"), {"teacher": Input(folder=folder / "teacher")}),
        "here_sparse_kd": (
            SparseKd(type="sparse_kd", teacher="large"),
            {"teacher_scores": Input(files=(folder / "scores.parquet",))},
        ),
    }[way]
    clock = Clock(arguments.device)
    losses: list[float] = []
    record, on_train_begin, on_step_end = (
        Journal.record,
        trainer.CourseCallback.on_train_begin,
        trainer.CourseCallback.on_step_end,
    )

    def note(self: Any, step: int, **tensors: Any) -> None:
        losses.append(float(tensors["nats"] / tensors["num_predicted"]))
        record(self, step, **tensors)

    def begin(self: Any, *positional: Any, **objects: Any) -> None:
        on_train_begin(self, *positional, **objects)
        clock.begin()

    def end(self: Any, *positional: Any, **objects: Any) -> None:
        clock.step(losses[-1])
        if len(clock.losses) == arguments.steps + 1:
            raise EndOfBenchmarkError
        on_step_end(self, *positional, **objects)

    Journal.record = note  # type: ignore[method-assign, assignment]
    trainer.CourseCallback.on_train_begin = begin  # type: ignore[method-assign]
    trainer.CourseCallback.on_step_end = end  # type: ignore[method-assign]
    job = TrainingJob(
        name="benchmark",
        architecture=architecture(arguments.shape),
        training=Training(
            token_budget=(arguments.steps + 2) * arguments.sequences * (SEQUENCE_LENGTH + 1),
            sequences_per_step=arguments.sequences,
            peak_learning_rate=LEARNING_RATE,
            num_evaluations=1,
            dtype=arguments.dtype,
        ),
        tokenizer_folder=folder / "tokenizer",
        vocab_size=VOCAB_SIZE,
        end_of_document_id=END_OF_DOCUMENT,
        sequence_files=(folder / "sequences.parquet",),
        split="candidate",
        held_out_files=(folder / "sequences.parquet",),
        max_sequence_tokens=SEQUENCE_LENGTH + 1,
        seed=0,
        data_fingerprint="benchmark",
        objective=objective,
        objective_inputs=inputs,
    )
    with tempfile.TemporaryDirectory() as scratch:
        work, target = Path(scratch, "work"), Path(scratch, "target")
        work.mkdir()
        target.mkdir()
        try:
            train_language_model(job, work=work, target=target, report=lambda _: None)
        except EndOfBenchmarkError:
            return clock.answer()
    raise AssertionError("the benchmark ended by itself")


class EndOfBenchmarkError(Exception):
    """Enough steps were timed."""


def batches(folder: Path, num_steps: int, sequences_per_step: int) -> list[Any]:
    """Return the sequences of each step, in the order in which they are drawn here."""
    import polars as pl
    import torch

    from miniplm_assets.training.plan import plan_training

    rows = pl.read_parquet(folder / "sequences.parquet", glob=False).filter(pl.col("split") == "candidate")["token_ids"]
    plan = plan_training(
        np.full(len(rows), SEQUENCE_LENGTH + 1),
        token_budget=num_steps * sequences_per_step * (SEQUENCE_LENGTH + 1),
        sequences_per_step=sequences_per_step,
        num_evaluations=1,
        seed=0,
    )
    drawn = [torch.tensor(rows[int(row)].to_list(), dtype=torch.long) for row in plan.order]
    return [
        torch.stack(drawn[start : start + sequences_per_step]) for start in range(0, len(drawn), sequences_per_step)
    ]


def train_with_trainer(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with transformers' Trainer as it comes."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows = batches(folder, arguments.steps + 1, arguments.sequences)
    clock, losses = Clock(arguments.device), []

    class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step(losses[-1])

    class Watched(Trainer):  # type: ignore[misc, unused-ignore]
        def compute_loss(self, *positional: Any, **others: Any) -> Any:
            loss = super().compute_loss(*positional, **others)
            losses.append(float(loss[0] if isinstance(loss, tuple) else loss))
            return loss

    with tempfile.TemporaryDirectory() as scratch:
        training = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=arguments.sequences,
            max_steps=len(rows),
            learning_rate=LEARNING_RATE,
            adam_beta2=0.98,
            adam_epsilon=1e-6,
            weight_decay=0.01,
            bf16=arguments.dtype == "bfloat16",
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=arguments.device == "cpu",
        )
        # Its models shift labels themselves, and read the last token for nothing.
        data = [{"input_ids": row, "labels": row} for step in rows for row in step]
        trainer = Watched(model=build(arguments.shape, seed=0), args=training, train_dataset=data, callbacks=[Watch()])
        trainer.train()
    return clock.answer()


def train_in_a_loop(folder: Path, arguments: argparse.Namespace, *, is_kd: bool) -> dict[str, Any]:
    """Train in the shortest loop that does it."""
    import torch
    from torch.nn.functional import cross_entropy, log_softmax
    from transformers import AutoModelForCausalLM

    rows = batches(folder, arguments.steps + 1, arguments.sequences)
    model = build(arguments.shape, seed=0).to(arguments.device).train()
    teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher").to(arguments.device).eval() if is_kd else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    clock = Clock(arguments.device)
    clock.begin()
    for row in rows:
        tokens = row.to(arguments.device)
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.flatten(0, 1).float()
        loss = cross_entropy(logits, tokens[:, 1:].flatten())
        if teacher is not None:
            with torch.no_grad():
                of_teacher = teacher(input_ids=tokens[:, :-1], use_cache=False).logits.flatten(0, 1)
                log_p = log_softmax(of_teacher.float(), dim=-1)
            log_q = log_softmax(logits, dim=-1)
            loss = 0.5 * loss + 0.5 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.step(loss.item())
    return clock.answer()


def run_way(way: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train in this process."""
    if way == "trainer":
        return train_with_trainer(folder, arguments)
    if way.startswith("here"):
        return train_here(folder, arguments, way)
    return train_in_a_loop(folder, arguments, is_kd=way.endswith("_kd"))


def run_apart(way: str, folder: Path) -> dict[str, Any]:
    """Train in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--way", way, "--folder", str(folder)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this script
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def report(runs: dict[str, list[dict[str, Any]]], limits: list[float], arguments: argparse.Namespace) -> None:
    """Print the medians, side by side, those of one loss against the fastest and the leanest of the others."""
    num_parameters = sum(parameter.numel() for parameter in build(arguments.shape, seed=0).parameters())
    kept, limit = 12 * num_parameters, statistics.median(limits)
    num_tokens = arguments.sequences * SEQUENCE_LENGTH
    print(
        f"\n{arguments.shape} shape ({num_parameters:,} parameters), {arguments.dtype}, {arguments.device}, "
        f"{num_tokens:,} tokens a step, vocabulary {VOCAB_SIZE:,}; medians of {arguments.rounds} rounds of "
        f"{arguments.steps} steps; matrix product: {limit / 1e12:,.2f} TFLOP/s"
    )
    print(f"{'way':<15}{'tokens/s':>10}{'from':>9}{'to':>9}{'of limit':>10}{'step GB':>10}{'first loss':>12}")
    rates = {way: [num_tokens / run["seconds"] for run in done] for way, done in runs.items()}
    memories = {way: statistics.median(run["peak_bytes"] - kept for run in done) for way, done in runs.items()}
    for way, done in runs.items():
        rate = statistics.median(rates[way])
        # A teacher's forward passes are beside the 6 FLOPs a parameter.
        share = "" if way in ("here_kd", "loop_kd") else f"{6 * num_parameters * rate / limit:.1%}"
        print(f"{way:<15}{rate:>10,.0f}{min(rates[way]):>9,.0f}{max(rates[way]):>9,.0f}{share:>10}", end="")
        print(f"{memories[way] / 1e9:>10.2f}{done[0]['loss']:>12.6f}")
    against = {"here": ("trainer", "loop"), "here_kd": ("loop_kd",), "here_sparse_kd": ("here",)}
    for here, named in against.items():
        others = [way for way in named if way in runs]
        if here in runs and others:
            fastest = max(others, key=lambda way: statistics.median(rates[way]))
            leanest = min(others, key=memories.__getitem__)
            # Round by round: what the machine did beside them was the same.
            ratio = statistics.median(mine / its for mine, its in zip(rates[here], rates[fastest], strict=True))
            print(f"{here}: {ratio:.2f} times the tokens a second of {fastest}, ", end="")
            print(f"{memories[here] / memories[leanest]:.2f} of the memory of {leanest}")


def main() -> None:
    """Run everything, or one way where a parent asks for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="104M")
    parser.add_argument("--sequences", type=int, default=1, help="a step, of 1,025 tokens each")
    parser.add_argument("--teacher", choices=SHAPES, default="200M")
    parser.add_argument("--steps", type=int, default=5, help="that are timed, after one of warm-up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(run_way(arguments.way, arguments.folder, arguments)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_inputs(folder, (arguments.steps + 2) * arguments.sequences, arguments.teacher)
        limits: list[float] = []
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
        for number in range(arguments.rounds):
            for way in arguments.ways:
                limits.append(matmul_flops(arguments.device, arguments.dtype))
                runs[way].append(run_apart(way, folder))
                rate = arguments.sequences * SEQUENCE_LENGTH / runs[way][-1]["seconds"]
                print(f"round {number + 1}: {way} {rate:,.0f} tokens/s", file=sys.stderr)
        report(runs, limits, arguments)


if __name__ == "__main__":
    main()
