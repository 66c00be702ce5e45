"""The objective sparse_kd: against float64, its expectation against the whole divergence, and what it refuses."""

import itertools
import math
import os
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.errors import ExperimentError, TrainingError
from miniplm_assets.experiment.objectives import SparseKd
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lm.score_shard import KEPT_TOKENS, SCHEMA, encoding_of
from miniplm_assets.training.objectives import Input, Objective, objective_of
from miniplm_assets.training.token_file import Row, TokenFile
from tests.corpora import tiny_experiment, write_experiment
from tests.test_golden import SHAPE, two_models
from tests.test_objectives import (
    END,
    VOCAB_SIZE,
    batch_of,
    check,
    chunk_tokens,
    cross_entropy,
    model_of,
    opened_as,
    rows,
)

__all__ = ["chunk_tokens", "rows"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

NUMBER = 4
Kept = dict[int, tuple[np.ndarray, np.ndarray]]


def tokens_of(rows: list[Row]) -> TokenFile:
    lengths = [len(row.token_ids) for row in rows]
    together = np.concatenate([row.token_ids for row in rows]).astype(np.uint32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenFile(together, offsets, np.array([row.sequence_id for row in rows], dtype=np.int64))


def kept_at_random(rows: list[Row], *, scored_after: bool, number: int = NUMBER) -> Kept:
    """Return ids and log-probabilities for the scored tokens of each sequence."""
    random = np.random.default_rng(8)
    kept = {}
    for row in rows:
        num = len(row.token_ids) - 1 if scored_after else int((row.token_ids[:-1] != END).sum())
        logprobs = np.log(random.uniform(0.01, 1 / number, size=(num, number))).astype(np.float16)
        kept[row.sequence_id] = random.integers(0, VOCAB_SIZE, (num, number)), logprobs
    return kept


def write_scores(path: Path, kept: Kept, method: str = "sampled") -> Path:
    """Write a table of scores, as a scoring pass does, the rows in the order of the ids."""
    ordered = sorted(kept.items())
    fields = KEPT_TOKENS[method]
    schema = pa.schema([*SCHEMA, *fields])
    columns: dict[str, Any] = {
        "sequence_id": [sequence_id for sequence_id, _ in ordered],
        "logprob_nats": [-1.0] * len(ordered),
        "num_scored_tokens": [len(ids) for _, (ids, _) in ordered],
        fields[0].name: [ids.reshape(-1).tolist() for _, (ids, _) in ordered],
        fields[1].name: [logprobs.reshape(-1) for _, (_, logprobs) in ordered],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path, **encoding_of(schema))
    return path


def opened(
    model: Any, tokens: TokenFile, work: Path, *files: Path, weight: float = 0.5, report: Any = lambda _: None
) -> Objective:
    settings = SparseKd(type="sparse_kd", teacher="large", weight=weight)
    scores = Input(files=files)
    return opened_as(objective_of(settings), settings, model, work, tokens, report=report, teacher_scores=scores)


def predicted_of(rows: list[Row], kept: Kept, *, scored_after: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what is kept for each predicted token, in order."""
    found = []
    for row in rows:
        (places,) = np.nonzero(row.token_ids[:-1] != END)
        ids, logprobs = kept[row.sequence_id]
        found += [(ids[one], logprobs[one]) for one in (places if scored_after else range(len(places)))]
    return found


def sparse_divergence(method: str, ids: np.ndarray, logprobs: np.ndarray, logits: Any) -> Any:
    import torch

    log_p, log_q = torch.tensor(logprobs.astype(np.float64)), torch.log_softmax(logits, 0)[torch.tensor(ids)]
    if method == "sampled":
        return (log_p - log_q).mean()
    p = log_p.exp() / log_p.exp().sum()
    return (p * (p.log() - log_q)).sum()


@pytest.mark.parametrize(
    ("method", "weight", "mean_over", "scored_after"),
    [
        ("sampled", 0.5, "tokens", False),
        ("sampled", 1.0, "sequences", True),
        ("top_k", 0.3, "tokens", True),
        ("top_k", 0.5, "sequences", False),
    ],
)
def test_sparse_kd_is_that_of_float64(rows, tmp_path, chunk_tokens, method, weight, mean_over, scored_after):
    kept = kept_at_random(rows, scored_after=scored_after)
    others = {7: kept[100], 900: kept[101]}  # of sequences that nobody learns from
    first = write_scores(tmp_path / "a" / "scores.parquet", {101: kept[101], 7: others[7]}, method)
    rest = {one: kept[one] for one in (100, 102, 103)}
    second = write_scores(tmp_path / "b" / "scores.parquet", rest | {900: others[900]}, method)
    student = model_of("student")
    scrambled = [rows[place] for place in (2, 0, 3, 1)]
    objective = opened(student, tokens_of(scrambled), tmp_path, first, second, weight=weight)
    tokens = predicted_of(rows, kept, scored_after=scored_after)

    def expected(number: int, token: int, logits: Any, _: int) -> Any:
        apart = sparse_divergence(method, *tokens[number], logits)
        return (1 - weight) * cross_entropy(token, logits) + weight * apart

    check(objective, student, rows, expected, mean_over=mean_over)


SMALL = 11


def distribution() -> tuple[np.ndarray, np.ndarray, float]:
    """Return p over a small vocabulary, its logarithms as they are stored, and what these lack to add up to 1."""
    logits = np.random.default_rng(4).normal(size=SMALL) * 1.5
    stored = (logits - np.log(np.exp(logits).sum())).astype(np.float16)
    total = np.exp(stored.astype(np.float64)).sum()
    return np.exp(stored.astype(np.float64)) / total, stored, math.log(total)


def one_token(number_of: int) -> list[Row]:
    return [Row(place, np.array([3, 5])) for place in range(number_of)]


def gradient_of(model: Any) -> np.ndarray:
    found = np.concatenate([one.grad.double().numpy().reshape(-1) for one in model.parameters()])
    model.zero_grad()
    return found


def whole_divergence(model: Any, p: np.ndarray) -> tuple[float, np.ndarray]:
    """Return KL(p || q) of the one predicted token and its gradient: float64, by torch's own derivative."""
    import copy

    import torch

    double = copy.deepcopy(model).double()
    log_q = torch.log_softmax(double(input_ids=torch.tensor([[3]])).logits[0, 0, :SMALL], 0)
    divergence = (torch.tensor(p) * (torch.tensor(np.log(p)) - log_q)).sum()
    divergence.backward()
    return divergence.item(), gradient_of(double)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("tests.test_objectives.VOCAB_SIZE", SMALL)
    return model_of("student")


def test_the_expectation_over_all_draws_is_the_whole_divergence(small, tmp_path):
    p, logprobs, lacking = distribution()
    draws = list(itertools.product(range(SMALL), repeat=2))
    rows = one_token(len(draws))
    kept = {row.sequence_id: (np.array([one]), logprobs[[one]]) for row, one in zip(rows, draws, strict=True)}
    objective = opened(small, tokens_of(rows), tmp_path, write_scores(tmp_path / "s.parquet", kept), weight=1.0)
    mean, gradient, values = 0.0, 0.0, []
    for row, (first, second) in zip(rows, draws, strict=True):
        loss = objective.loss(small, batch_of([row], objective))
        loss.total.backward()
        values.append(loss.total.item())
        mean += p[first] * p[second] * loss.total.item()
        gradient = gradient + p[first] * p[second] * gradient_of(small)
    whole, slope = whole_divergence(small, p)
    assert np.std(values) > 0.5  # a draw alone tells little
    assert mean - lacking == pytest.approx(whole, abs=1e-6)
    assert np.abs(gradient - slope).max() <= 1e-6 * np.abs(slope).max()


def test_the_likeliest_are_biased_by_the_tail_that_they_leave_out(small, tmp_path):
    p, logprobs, _ = distribution()
    best = np.argsort(-p)[:3]
    kept = {0: (best[None], logprobs[best][None])}
    scores = write_scores(tmp_path / "s.parquet", kept, "top_k")
    objective = opened(small, tokens_of(one_token(1)), tmp_path, scores, weight=1.0)
    loss = objective.loss(small, batch_of(one_token(1), objective))
    loss.total.backward()
    gradient = gradient_of(small)
    only = np.zeros(SMALL)
    only[best] = p[best] / p[best].sum()
    with np.errstate(divide="ignore"):
        truncated, of_truncated = whole_divergence(small, np.where(only > 0, only, 1e-300))
    assert loss.total.item() == pytest.approx(truncated, rel=1e-5)
    assert np.abs(gradient - of_truncated).max() <= 1e-5 * np.abs(of_truncated).max()
    whole, slope = whole_divergence(small, p)
    assert p[best].sum() < 0.9
    assert abs(truncated - whole) > 0.05 and np.abs(of_truncated - slope).max() > 0.05 * np.abs(slope).max()


def test_a_sequence_without_a_row_is_named(rows, tmp_path):
    kept = kept_at_random(rows, scored_after=False)
    first = write_scores(tmp_path / "a" / "scores.parquet", {one: kept[one] for one in (100, 101)})
    second = write_scores(tmp_path / "b" / "scores.parquet", {103: kept[103]})
    with pytest.raises(TrainingError) as found:
        opened(model_of("student"), tokens_of(rows), tmp_path, first, second)
    for part in ("sequence 102 ", str(first), "1 of 4", "materialise large/teacher_scores"):
        assert part in str(found.value)


def test_scores_of_other_sequences_or_of_another_tokenizer_are_refused(rows, tmp_path):
    kept = kept_at_random(rows, scored_after=False)
    ids, logprobs = kept[101]
    fewer = write_scores(tmp_path / "a" / "scores.parquet", kept | {101: (ids[:-2], logprobs[:-2])})
    with pytest.raises(TrainingError, match=f"sequence 101 has {len(ids) - 2} scored tokens, but {len(ids)} are"):
        opened(model_of("student"), tokens_of(rows), tmp_path, fewer)
    larger = write_scores(tmp_path / "b" / "scores.parquet", kept | {101: (ids + VOCAB_SIZE, logprobs)})
    with pytest.raises(TrainingError, match=r"kept token id \d+, but the tokenizer has 61"):
        opened(model_of("student"), tokens_of(rows), tmp_path, larger)
    uneven = write_scores(tmp_path / "c" / "scores.parquet", kept | {101: (ids[:, :-1], logprobs[:, :-1])})
    with pytest.raises(TrainingError, match="expected"):
        opened(model_of("student"), tokens_of(rows), tmp_path, uneven)
    plain = tmp_path / "plain.parquet"
    pq.write_table(pq.read_table(fewer, columns=SCHEMA.names), plain)
    with pytest.raises(TrainingError, match="keep_tokens: {method: sampled, number: 12} into the teacher's scoring"):
        opened(model_of("student"), tokens_of(rows), tmp_path, plain)


def test_what_is_whole_is_taken_and_what_a_kill_or_damage_left_is_made_anew(rows, tmp_path):
    kept = kept_at_random(rows, scored_after=False)
    scores, folder = write_scores(tmp_path / "a" / "scores.parquet", kept), tmp_path / "kept_tokens"
    student, lines = model_of("student"), []

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def again() -> bool:
        """Open once more; say whether it was made again."""
        before = (folder / "starts.bin").stat().st_mtime_ns if (folder / "starts.bin").exists() else 0
        opened(student, tokens_of(rows), tmp_path, scores, report=lines.append)
        return (folder / "starts.bin").stat().st_mtime_ns != before

    assert again()
    expected = files()
    os.utime(folder / "starts.bin", ns=(1, 1))
    assert not again()
    (folder / "contents.json").unlink()  # killed before the last write
    assert again() and files() == expected
    damaged = bytearray(expected["token_ids.bin"])
    damaged[3] ^= 1
    (folder / "token_ids.bin").write_bytes(damaged)
    os.utime(folder / "starts.bin", ns=(1, 1))
    assert again() and files() == expected
    assert any("token_ids.bin) and is made anew" in line for line in lines)


def test_what_it_needs_and_costs():
    settings = SparseKd(type="sparse_kd", teacher="large")
    assert objective_of(settings).inputs(settings) == {"teacher_scores": ("teacher_scores", "large")}
    assert objective_of(settings).flops_per_token(settings, 7, {}) == 42


def experiment_of(folder: Path, **changes: Any) -> dict[str, Any]:
    content = tiny_experiment(folder / "corpus", folder / "warehouse", **changes)
    content["students"]["no_kd"]["objective"] = {"type": "sparse_kd", "teacher": "large"}
    return content


def test_a_teacher_whose_scores_keep_nothing_is_refused(tmp_path):
    content = experiment_of(tmp_path)
    with pytest.raises(ExperimentError) as found:
        open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    for part in ("students.no_kd.objective.teacher", "sparse_kd", "keep_tokens: {method: sampled, number: 12}"):
        assert part in str(found.value)
    assert "under teachers.large.scoring" in str(found.value)
    content["students"]["no_kd"]["objective"]["teacher"] = "larg"
    with pytest.raises(ExperimentError, match="did you mean 'large'"):
        open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    content["students"]["no_kd"]["objective"] = {"type": "sparse_kd", "teacher": "large", "weight": 0}
    with pytest.raises(ExperimentError, match="weight"):
        open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher that all selections ask for what survives a pre_filter alone, and two students of what it keeps."""
    folder = tmp_path_factory.mktemp("sparse")
    content = two_models(folder)
    content["teachers"]["large"]["scoring"] = {"keep_tokens": {"number": 6}, "sequences_per_part": 30}
    training = {"token_budget": 4_000, "sequences_per_step": 8, "num_evaluations": 1, "num_held_out_sequences": 8}
    sparse = {"type": "sparse_kd", "teacher": "large"}
    student = {"architecture": "tiny", "tokenizer": "bpe", "training": training, "objective": sparse}
    content |= {
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 290}},
        "architectures": {"tiny": {**SHAPE, "num_hidden_layers": 1}},
        "selections": {
            "hard": {"score": "reference", "reference": "small", "order": "lowest", "keep_fraction": 0.5},
            "after": {"teacher": "large", "reference": "small", "keep_fraction": 0.5, "pre_filter": "hard"},
        },
        "students": {
            "sparse": student,
            "both": {**student, "corpus": "refined_corpus/after", "baseline": "sparse"},
        },
    }
    del content["architectures"]["tiny"]["vocab_size"]
    pipeline = open_pipeline(write_experiment(folder / "experiment.yaml", content))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(build_assets(pipeline), instance=instance)
    return pipeline, result, content


def tables(pipeline: Any, pattern: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(pipeline.store.root.glob(pattern)))


def test_students_learn_from_what_the_teacher_keeps(made):
    pipeline, result, _ = made
    assert result.success
    assert "large/teacher_scores" in pipeline.graph  # though its one selection has a pre_filter
    assert pipeline.graph["sparse/student_checkpoint"].inputs["teacher_scores"] == "large/teacher_scores"
    scores = tables(pipeline, "large/teacher_scores/*/scores.parquet")
    assert (scores["sampled_token_ids"].list.len() == 6 * scores["num_scored_tokens"]).all()
    assert scores["sampled_token_ids"].list.max().max() < 290  # the model has 300
    surviving = tables(pipeline, "after/surviving_teacher_scores/*/scores.parquet")
    both = surviving.join(scores, on="sequence_id", validate="1:1")
    assert len(both) == len(surviving) > 0
    assert both["sampled_token_ids"].equals(both["sampled_token_ids_right"], check_names=False)
    assert "sampled_token_ids" not in tables(pipeline, "small/reference_scores/*/scores.parquet").columns
    for student in ("sparse", "both"):
        log = tables(pipeline, f"{student}/student_checkpoint/*/training_log.parquet")
        rows = log.filter(pl.col("training_nll_nats_per_token").is_not_null())
        assert (rows["objective_nats_per_token"] != rows["training_nll_nats_per_token"]).all()
        assert rows["training_nll_nats_per_token"][-1] < rows["training_nll_nats_per_token"][0]


def test_a_teacher_whom_no_student_asks_is_spared_as_before(made, tmp_path):
    _, _, content = made
    plain = {**content, "students": {}}
    assert "large/teacher_scores" not in open_pipeline(write_experiment(tmp_path / "experiment.yaml", plain)).graph
