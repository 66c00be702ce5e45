"""How fast sequences are scored, against the published way, vLLM and the machine's own limit.

    python benchmarks/score_sequences.py                       # 104M parameters, float32, CPU: the full run
    python benchmarks/score_sequences.py --num-sequences 8 --rounds 1 --ways torch published
    python benchmarks/score_sequences.py --device cuda --dtype bfloat16 --shape 1.8B --ways torch published

Every way scores the same sequences with the same random weights, in turn, round after round, each in a process
of its own that loads, warms up, and reports its time and its peak memory while it was timed. The sequences are as long
as this project's packing leaves them: the demo's documents are packed to 1,024 tokens, and their lengths are taken,
evenly spaced from the shortest to the longest; what share of padding the published way has of them is printed. The
published way is a plain re-implementation of its method: batches of 16 (`--published-batch`; its memory grows with
them) in the order given, padded to the sequence length, whole float32 logits, cross-entropy. The limit is the rate of
one large matrix product on the same device in the same dtype, measured between the rounds; work is 2 FLOPs a parameter
used a token, the embedding table not counted, the output layer once, attention over the positions left out. Needs this
project's packages (and vLLM for `--ways vllm`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

VOCAB_SIZE = 151_936
END_OF_DOCUMENT = 151_643
SEQUENCE_LENGTH = 1_024
DEMO_MEGABYTES = 6
SHAPES = {
    "104M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "1.8B": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "num_attention_heads": 16},
}
WAYS = ("torch", "published", "vllm")
LENGTHS = "lengths.json"


def make_model(folder: Path, shape: str, dtype: str) -> None:
    """Write a Qwen2 model with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=SEQUENCE_LENGTH,
        num_key_value_heads=SHAPES[shape]["num_attention_heads"],
        tie_word_embeddings=False,
        **SHAPES[shape],
    )
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)


def packed_lengths(folder: Path) -> np.ndarray:
    """Return the lengths of the sequences that the demo's documents are packed into, domain by domain, sorted."""
    from miniplm_assets.core.packing import Packer
    from miniplm_assets.corpus.demo import write_demo_corpus
    from miniplm_assets.corpus.tokenizer import load_tokenizer, train_tokenizer
    from miniplm_assets.experiment import DemoSource

    write_demo_corpus(DemoSource(type="demo", num_shards=1, megabytes=DEMO_MEGABYTES), folder, tell)
    [shard] = folder.glob("*.jsonl")
    texts: dict[str, list[str]] = {}
    for line in shard.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts.setdefault(row["domain"], []).append(row["text"])
    train_tokenizer((text for some in texts.values() for text in some), vocab_size=4_096, folder=folder)
    tokenizer = load_tokenizer(folder)
    packer: Packer[str] = Packer(
        max_tokens=SEQUENCE_LENGTH + 1,
        end_of_document_id=tokenizer.end_of_document_id,
        ends_sentence=tokenizer.ends_sentence,
    )
    packed = []
    for domain, some in texts.items():
        packed.append(packer.push([domain], [len(some)], np.arange(len(some)), tokenizer.encode(some)))
        packed.append(packer.finish([domain]))
    return np.sort(np.concatenate([one.num_tokens for one in packed]))


def make_sequences(lengths: np.ndarray, num_sequences: int) -> list[np.ndarray]:
    """Return random tokens in sequences of evenly spaced lengths from the shortest to the longest, in random order."""
    rng = np.random.default_rng(0)
    places = ((np.arange(num_sequences) + 0.5) / num_sequences * len(lengths)).astype(int)
    chosen = rng.permutation(lengths[places])
    return [rng.integers(0, END_OF_DOCUMENT, size=length, dtype=np.int32) for length in chosen]


def flops_per_token(shape: str) -> float:
    """Return 2 FLOPs a parameter that a token uses: the layers and the output layer, not the embedding table."""
    sizes = SHAPES[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    used = sizes["num_hidden_layers"] * (4 * hidden * hidden + 3 * hidden * inner) + VOCAB_SIZE * hidden
    return 2.0 * used


def matmul_flops(device: str, dtype: str) -> float:
    """Return FLOPs a second of one large matrix product: the median of seven."""
    import torch

    size = 2_048 if device == "cpu" else 8_192
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    out, seconds = torch.empty_like(left), []
    for _ in range(8):
        started = time.perf_counter()
        for _ in range(4):
            torch.mm(left, right, out=out)
        if device != "cpu":
            torch.accelerator.synchronize()
        seconds.append((time.perf_counter() - started) / 4)
    return 2.0 * size**3 / statistics.median(seconds[1:])


def score_published(folder: Path, device: str, dtype: str, batch_size: int) -> tuple[Any, Any]:
    """Return functions that score the published way, and that close it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()

    def score(some: list[np.ndarray]) -> np.ndarray:
        sums = []
        for start in range(0, len(some), batch_size):
            batch = some[start : start + batch_size]
            padded = np.full((len(batch), SEQUENCE_LENGTH + 1), END_OF_DOCUMENT, dtype=np.int64)
            for row, token_ids in enumerate(batch):
                padded[row, : len(token_ids)] = token_ids
            tokens = torch.from_numpy(padded).to(device)
            inputs, labels = tokens[:, :-1], tokens[:, 1:]
            with torch.no_grad():
                mask = (inputs != END_OF_DOCUMENT).long()
                logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits.float()
                losses = torch.nn.functional.cross_entropy(
                    logits.view(-1, logits.shape[-1]), labels.reshape(-1), reduction="none"
                ).view(labels.shape)
            is_real = torch.tensor([len(token_ids) - 1 for token_ids in batch], device=device)
            losses = losses * (torch.arange(SEQUENCE_LENGTH, device=device) < is_real.unsqueeze(1))
            sums.append(-losses.sum(dim=1, dtype=torch.float64).cpu().numpy())
        return np.concatenate(sums)

    return score, lambda: None


def score_ours(way: str, folder: Path, device: str, dtype: str, tokens_per_batch: int) -> tuple[Any, Any]:
    """Return functions that score with this project's scorer, and that close it."""
    open_scorer = {"torch": open_torch_scorer, "vllm": open_vllm_scorer}[way]
    context = open_scorer(folder, device, dtype, tokens_per_batch)
    scorer = context.__enter__()
    return (
        lambda some: scorer.score(some, np.arange(len(some))).logprob_nats,
        lambda: context.__exit__(None, None, None),
    )


@contextmanager
def open_torch_scorer(folder: Path, device: str, dtype: str, tokens_per_batch: int) -> Iterator[Any]:
    """Load the model as `open_scorer` does, without what an experiment file needs."""
    import torch
    from transformers import AutoModelForCausalLM

    from miniplm_assets.lm.memory import kept_memory
    from miniplm_assets.lm.scores import TokenRule
    from miniplm_assets.lm.torch_scorer import TorchScorer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    rule = TokenRule(end_of_document_id=END_OF_DOCUMENT, score_after_end_of_document=True)
    scorer = TorchScorer(model, rule=rule, tokens_per_batch=tokens_per_batch, report=tell)
    with kept_memory(), closing(scorer):
        yield scorer


def open_vllm_scorer(folder: Path, _device: str, dtype: str, tokens_per_batch: int) -> Any:
    """Start vLLM."""
    from miniplm_assets.experiment import Scoring
    from miniplm_assets.lm.scorer import open_scorer

    return open_scorer(
        folder,
        scoring=Scoring(
            backend="vllm", dtype=dtype, score_after_end_of_document=True, tokens_per_batch=tokens_per_batch
        ),
        end_of_document_id=END_OF_DOCUMENT,
        max_sequence_tokens=SEQUENCE_LENGTH + 1,
        report=tell,
    )


def tell(line: str) -> None:
    """Show a line beside the result."""
    print(line, file=sys.stderr, flush=True)


class PeakMemory(threading.Thread):
    """Watches the memory of this process and of all that it started, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0

    def run(self) -> None:
        """Sample ten times a second."""
        import psutil

        this = psutil.Process()
        while True:
            total = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)
            time.sleep(0.1)


def forget_peaks(device: str) -> None:
    """Let what `own_peak_bytes` and torch report be the peak from now on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()


def own_peak_bytes() -> int:
    """Return the peak memory of this process: not `ru_maxrss`, which it takes over from the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [peak_kib] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return peak_kib * 1024


def run_way(way: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Score in this process; return seconds, tokens, peak memory and the scores."""
    sequences = make_sequences(np.array(arguments.lengths), arguments.num_sequences)
    watcher = None
    if way == "vllm":  # its memory lies in processes of its own
        watcher = PeakMemory()
        watcher.start()
    if way == "published":
        score, close = score_published(folder, arguments.device, arguments.dtype, arguments.published_batch)
    else:
        score, close = score_ours(way, folder, arguments.device, arguments.dtype, arguments.tokens_per_batch)
    score(sequences[:2])
    forget_peaks(arguments.device)
    if watcher:
        watcher.peak_bytes = 0
    started = time.perf_counter()
    logprobs = score(sequences)
    seconds = time.perf_counter() - started
    peak_bytes = watcher.peak_bytes if watcher else own_peak_bytes()
    if arguments.device != "cpu" and way != "vllm":
        import torch

        peak_bytes = torch.cuda.max_memory_allocated()
    close()
    return {
        "seconds": seconds,
        "num_tokens": sum(len(token_ids) - 1 for token_ids in sequences),
        "peak_bytes": peak_bytes,
        "logprobs": logprobs.tolist(),
    }


def run_apart(way: str, folder: Path) -> dict[str, Any]:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--folder", str(folder)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this script
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def report(runs: dict[str, list[dict[str, Any]]], limits: list[float], arguments: argparse.Namespace) -> None:
    """Print the medians, side by side."""
    limit = statistics.median(limits)
    print(f"\n{arguments.shape}, {arguments.dtype}, {arguments.device}, {arguments.num_sequences} sequences, ", end="")
    print(f"median of {arguments.rounds}; matrix product: {limit / 1e9:,.0f} GFLOP/s")
    num_tokens = runs[arguments.ways[0]][0]["num_tokens"]
    padding = 1 - num_tokens / (arguments.num_sequences * SEQUENCE_LENGTH)
    batch = min(arguments.published_batch, arguments.num_sequences)
    print(f"published way: {padding:.1%} padding, batches of {batch}")
    print(f"{'way':<11}{'tokens/s':>12}{'of limit':>10}{'peak MB':>10}{'vs published':>14}{'largest difference':>22}")
    rates = {way: statistics.median(run["num_tokens"] / run["seconds"] for run in done) for way, done in runs.items()}
    reference = np.array(runs[next(iter(runs))][0]["logprobs"])
    for way, done in runs.items():
        share = rates[way] * flops_per_token(arguments.shape) / limit
        peak = statistics.median(run["peak_bytes"] for run in done) / 1e6
        ratio = f"{rates[way] / rates['published']:.2f} x" if "published" in rates else "-"
        difference = np.abs(np.array(done[0]["logprobs"]) - reference).max() / num_tokens * arguments.num_sequences
        print(f"{way:<11}{rates[way]:>12,.0f}{share:>10.1%}{peak:>10,.0f}{ratio:>14}{difference:>13.1e} nats/token")


def main() -> None:
    """Run everything, or one way where a parent asks for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="104M")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-sequences", type=int, default=48)
    parser.add_argument("--published-batch", type=int, default=16, help="sequences at once, as its scripts have it")
    parser.add_argument("--tokens-per-batch", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        arguments.lengths = json.loads((arguments.folder / LENGTHS).read_text(encoding="utf-8"))
        print(json.dumps(run_way(arguments.way, arguments.folder, arguments)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder, arguments.shape, arguments.dtype)
        (folder / "texts").mkdir()
        lengths = packed_lengths(folder / "texts")
        (folder / LENGTHS).write_text(json.dumps(lengths.tolist()), encoding="utf-8")
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
        limits = []
        for number in range(arguments.rounds):
            for way in arguments.ways:
                limits.append(matmul_flops(arguments.device, arguments.dtype))
                runs[way].append(run_apart(way, folder))
                done = runs[way][-1]
                tell(f"round {number + 1}: {way} {done['num_tokens'] / done['seconds']:,.0f} tokens/s")
        report(runs, limits, arguments)


if __name__ == "__main__":
    main()
