"""How fast a student is trained, and in how much memory: here, by transformers' Trainer, and by a plain loop.

    python benchmarks/train_students.py                                  # 104M parameters, float32, CPU
    python benchmarks/train_students.py --ways here_kd loop_kd           # Vanilla KD, teacher of 200M
    python benchmarks/train_students.py --steps 3 --rounds 1

Every way trains the same model, random weights of one seed, on the same random sequences of 1,025 tokens over a
vocabulary of 151,936, one sequence a step with AdamW, in turn, round after round, each in a process of its own. The
first step is warm-up; the seconds of a step are the median of the others. `here` is `train_language_model` itself.
`trainer` is transformers' Trainer as it comes: its model computes whole logits and their cross-entropy. `loop` is the
shortest loop in torch: whole logits, `cross_entropy`, backward, clip, step. With `_kd`, a teacher runs beside the
student and the loss is 0.5 cross-entropy and 0.5 forward KL; the loop computes both whole.

Memory is the peak of the process during the timed steps, above what it holds when the model (and its teacher) are
loaded and beyond gradients and the two moments of AdamW, 12 bytes a parameter: what a step itself takes. The losses of
the first step are printed: all ways must agree on them.
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
    own_peak_bytes,
)
from benchmarks.score_sequences import SHAPES as SCORED_SHAPES

SHAPES = {
    "104M": SCORED_SHAPES["104M"],
    "200M": {"hidden_size": 768, "intermediate_size": 2112, "num_hidden_layers": 12, "num_attention_heads": 12},
}
WAYS = ("here", "trainer", "loop", "here_kd", "loop_kd")
LEARNING_RATE = 1e-4


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
            "token_ids": pl.Series(rows.tolist(), dtype=pl.List(pl.Int32)),
        }
    ).write_parquet(folder / "sequences.parquet")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    build(teacher, seed=1).save_pretrained(folder / "teacher")


class Clock:
    """Notes when each step ends, its loss, and the memory."""

    def __init__(self) -> None:
        self.loaded_bytes = 0
        self.ends: list[float] = []
        self.losses: list[float] = []

    def begin(self) -> None:
        """Once everything is loaded."""
        forget_peaks("cpu")
        self.loaded_bytes = own_peak_bytes()  # which has just become what is held now
        self.ends.append(time.perf_counter())

    def step(self, loss: float) -> None:
        """Note a step."""
        self.ends.append(time.perf_counter())
        self.losses.append(loss)

    def answer(self) -> dict[str, Any]:
        """Return what was noted."""
        seconds = np.diff(self.ends).tolist()
        return {
            "seconds": statistics.median(seconds[1:]),
            "loss": self.losses[0],
            "peak_bytes": own_peak_bytes() - self.loaded_bytes,
        }


def train_here(folder: Path, arguments: argparse.Namespace, *, is_kd: bool) -> dict[str, Any]:
    """Train with this project, and look on."""
    from miniplm_assets.experiment import Training, VanillaKd
    from miniplm_assets.experiment.objectives import CrossEntropy
    from miniplm_assets.training import TrainingJob, train_language_model, trainer
    from miniplm_assets.training.journal import Journal
    from miniplm_assets.training.objectives import Input

    clock = Clock()
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
        architecture=architecture("104M"),
        training=Training(
            token_budget=(arguments.steps + 2) * (SEQUENCE_LENGTH + 1),
            sequences_per_step=1,
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
        objective=VanillaKd(type="vanilla_kd", teacher="large") if is_kd else CrossEntropy(),
        objective_inputs={"teacher": Input(folder=folder / "teacher")} if is_kd else {},
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


def batches(folder: Path, num_steps: int) -> list[Any]:
    """Return a sequence for each step, in the order in which they are drawn here."""
    import polars as pl
    import torch

    from miniplm_assets.training.plan import plan_training

    rows = pl.read_parquet(folder / "sequences.parquet", glob=False).filter(pl.col("split") == "candidate")["token_ids"]
    plan = plan_training(
        np.full(len(rows), SEQUENCE_LENGTH + 1),
        token_budget=num_steps * (SEQUENCE_LENGTH + 1),
        sequences_per_step=1,
        num_evaluations=1,
        seed=0,
    )
    return [torch.tensor(rows[int(row)].to_list(), dtype=torch.long) for row in plan.order]


def train_with_trainer(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with transformers' Trainer as it comes."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows = batches(folder, arguments.steps + 1)
    clock, losses = Clock(), []

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
            per_device_train_batch_size=1,
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
        data = [{"input_ids": row, "labels": row} for row in rows]
        trainer = Watched(model=build("104M", seed=0), args=training, train_dataset=data, callbacks=[Watch()])
        trainer.train()
    return clock.answer()


def train_in_a_loop(folder: Path, arguments: argparse.Namespace, *, is_kd: bool) -> dict[str, Any]:
    """Train in the shortest loop that does it."""
    import torch
    from torch.nn.functional import cross_entropy, log_softmax
    from transformers import AutoModelForCausalLM

    rows = batches(folder, arguments.steps + 1)
    model = build("104M", seed=0).to(arguments.device).train()
    teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher").to(arguments.device).eval() if is_kd else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    clock = Clock()
    clock.begin()
    for row in rows:
        tokens = row.to(arguments.device)[None]
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0].float()
        loss = cross_entropy(logits, tokens[0, 1:])
        if teacher is not None:
            with torch.no_grad():
                log_p = log_softmax(teacher(input_ids=tokens[:, :-1], use_cache=False).logits[0].float(), dim=-1)
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
    train = train_here if way.startswith("here") else train_in_a_loop
    return train(folder, arguments, is_kd=way.endswith("_kd"))


def run_apart(way: str, folder: Path) -> dict[str, Any]:
    """Train in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--way", way, "--folder", str(folder)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this script
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def report(runs: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    """Print the medians, side by side, those of one loss against the fastest and the leanest of the others."""
    num_parameters = sum(parameter.numel() for parameter in build("104M", seed=0).parameters())
    kept = 12 * num_parameters
    print(
        f"\n104M shape ({num_parameters:,} parameters), {arguments.dtype}, {arguments.device}, {SEQUENCE_LENGTH:,} ",
        end="",
    )
    print(f"tokens a step, vocabulary {VOCAB_SIZE:,}; medians of {arguments.rounds} rounds of {arguments.steps} steps")
    print(f"{'way':<10}{'tokens/s':>10}{'from':>8}{'to':>8}{'step GB':>10}{'first loss':>12}")
    rates = {way: [SEQUENCE_LENGTH / run["seconds"] for run in done] for way, done in runs.items()}
    memories = {way: statistics.median(run["peak_bytes"] - kept for run in done) for way, done in runs.items()}
    for way, done in runs.items():
        spread = f"{min(rates[way]):>8,.0f}{max(rates[way]):>8,.0f}"
        print(f"{way:<10}{statistics.median(rates[way]):>10,.0f}{spread}", end="")
        print(f"{memories[way] / 1e9:>10.2f}{done[0]['loss']:>12.6f}")
    for here in ("here", "here_kd"):
        others = [way for way in runs if way != here and way.endswith("_kd") == here.endswith("_kd")]
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
        make_inputs(folder, arguments.steps + 2, arguments.teacher)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
        for number in range(arguments.rounds):
            for way in arguments.ways:
                runs[way].append(run_apart(way, folder))
                done = runs[way][-1]
                print(f"round {number + 1}: {way} {SEQUENCE_LENGTH / done['seconds']:,.0f} tokens/s", file=sys.stderr)
        report(runs, arguments)


if __name__ == "__main__":
    main()
