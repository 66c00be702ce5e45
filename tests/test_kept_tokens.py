"""What scores keep of a model's distribution: held against the inverse of the cumulative one, in NumPy and float64."""

import copy
import pickle
import queue

import numpy as np
import polars as pl
import pytest
import torch

from miniplm_assets.core.errors import ExperimentError, ScoringError
from miniplm_assets.experiment import KeepTokens, Scoring
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lm.device_time import DeviceTime
from miniplm_assets.lm.kept_tokens import TokenKeeper
from miniplm_assets.lm.part_threads import PartThreads
from miniplm_assets.lm.ray_workers import ModelActor
from miniplm_assets.lm.score_shard import ShardScores
from miniplm_assets.lm.scorer import ScorerSettings, open_scorer
from tests.corpora import tiny_experiment, write_experiment
from tests.scoring_oracle import END_OF_DOCUMENT, scrambled_sequences, tiny_model

SEED = 41
NUMBER = 5
# How far float32 logits, of several hundred in size, may move a cumulative probability.
ROUNDING = 2e-5


def opened(folder, *, vocab_size, method="sampled", begin_of_sequence_id=None, **scoring):
    seed = {"seed": SEED} if method == "sampled" else {}
    return open_scorer(
        folder,
        scoring=Scoring(device="cpu", keep_tokens=KeepTokens(method=method, number=NUMBER, **seed), **scoring),
        end_of_document_id=END_OF_DOCUMENT,
        begin_of_sequence_id=begin_of_sequence_id,
        max_sequence_tokens=100,
        report=lambda _: None,
        vocab_size=vocab_size,
    )


def ids_of(sequences):
    return np.arange(len(sequences), dtype=np.int64)[::-1] * 11 + 5_000_000_000


def distributions(model, token_ids, vocab_size, *, scored_after=False, first=None):
    """Return the place and p over the tokenizer's ids of each scored token: float64, the sequence alone."""
    model = copy.deepcopy(model).double()
    behind = [] if first is None else [first]
    read = torch.tensor([*behind, *token_ids.tolist()])[None]
    with torch.no_grad():
        logits = model(input_ids=read[:, :-1]).logits[0, len(behind) :, :vocab_size].double()
    p = torch.softmax(logits, 1).numpy()
    places = np.arange(len(token_ids) - 1)
    if not scored_after:
        places = places[token_ids[:-1] != END_OF_DOCUMENT]
    return places, p[places]


def uniforms(sequence_id, places):
    """Return the numbers that a draw is by: NumPy's own of that key, as many for each place as are drawn."""
    generator = np.random.Generator(np.random.Philox(key=[SEED, sequence_id]))
    return np.sort(generator.random((int(places.max()) + 1, NUMBER))[places], axis=1)


def split(scores):
    kept = scores.kept_tokens()
    borders = np.cumsum(scores.num_scored_tokens)[:-1]
    return list(zip(np.split(kept.token_ids, borders), np.split(kept.logprobs_nats, borders), strict=True))


@pytest.mark.parametrize(
    ("kind", "padding", "scored_after", "first"),
    [("qwen2", 0, False, None), ("qwen2", 43, True, None), ("llama", 0, False, 9), ("gemma2", 20, False, None)],
)
def test_draws_invert_the_cumulative_distribution(kind, padding, scored_after, first, tmp_path):
    model = tiny_model(kind, tmp_path)
    vocab_size = model.config.vocab_size - padding
    sequences = scrambled_sequences(vocab_size, longest=60, num=9)
    with opened(
        tmp_path,
        vocab_size=vocab_size,
        score_after_end_of_document=scored_after,
        begin_of_sequence_id=first,
    ) as scorer:
        scores = scorer.score(sequences, ids_of(sequences))
    num_drawn = num_same = 0
    for token_ids, sequence_id, (ids, logprobs) in zip(sequences, ids_of(sequences), split(scores), strict=True):
        if len(token_ids) < 2:
            assert len(ids) == 0
            continue
        places, p = distributions(model, token_ids, vocab_size, scored_after=scored_after, first=first)
        assert ids.shape == logprobs.shape == (len(places), NUMBER)
        if not len(places):
            continue
        rows = np.arange(len(places))[:, None]
        wanted, cumulative = uniforms(int(sequence_id), places), np.cumsum(p, axis=1)
        below = np.where(ids > 0, cumulative[rows, np.maximum(ids.astype(int) - 1, 0)], 0)
        assert (below <= wanted + ROUNDING).all() and (wanted < cumulative[rows, ids] + ROUNDING).all()
        expected = np.array([np.searchsorted(c, u, side="right") for c, u in zip(cumulative, wanted, strict=True)])
        num_same, num_drawn = num_same + (ids == expected).sum(), num_drawn + ids.size
        assert np.allclose(logprobs, np.log(p[rows, ids]), rtol=2**-10, atol=1e-3)
    assert num_drawn > 500 and num_same >= num_drawn - 2  # a number next to a border may fall on its other side


def test_draws_of_given_logits_are_exactly_those_of_float64():
    logits = np.random.default_rng(0).normal(size=(400, 11)) * 3
    logits[:, 4] = -np.inf  # never drawn
    logits = logits.astype(np.float32)
    keeper = TokenKeeper(KeepTokens(number=NUMBER, seed=SEED), vocab_size=9)
    places = np.tile(np.arange(40), 10)
    ids = np.repeat(np.arange(10), 40)
    found = keeper.score(
        torch.from_numpy(logits), None, torch.zeros(400, dtype=torch.int64), keeper.uniforms(ids, places)
    )
    p = np.exp(logits[:, :9].astype(np.float64))
    cumulative = np.cumsum(p / p.sum(1, keepdims=True), axis=1)
    wanted = np.concatenate([uniforms(number, np.arange(40)) for number in range(10)])
    expected = [np.searchsorted(c, u, side="right") for c, u in zip(cumulative, wanted, strict=True)]
    assert np.array_equal(found.token_ids.numpy(), expected)
    assert not (found.token_ids == 4).any()
    whole = torch.log_softmax(torch.from_numpy(logits).double(), 1)[:, 0]  # of the text's token: padding counts
    assert torch.allclose(found.logprobs.double(), whole, atol=1e-6)


def test_top_k_keeps_the_most_likely_in_order(tmp_path):
    model = tiny_model("qwen2", tmp_path)
    vocab_size = 960
    sequences = scrambled_sequences(vocab_size, longest=60, num=6)
    with opened(tmp_path, vocab_size=vocab_size, method="top_k") as scorer:
        scores = scorer.score(sequences, ids_of(sequences))
    for token_ids, (ids, logprobs) in zip(sequences, split(scores), strict=True):
        if len(token_ids) < 2:
            continue
        _, p = distributions(model, token_ids, vocab_size)
        assert np.array_equal(ids, np.argsort(-p, axis=1)[:, :NUMBER])
        assert np.allclose(logprobs, np.log(-np.sort(-p, axis=1)[:, :NUMBER]), rtol=2**-10, atol=1e-3)


def test_what_is_kept_depends_on_neither_batches_nor_threads_and_changes_no_score(tmp_path):
    tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(1_003, longest=100, num=40)
    was, found, plain = torch.get_num_threads(), {}, Scoring(device="cpu")
    try:
        for num_threads, tokens_per_batch in ((1, 2_048), (3, 2_048), (2, 130), (2, 700)):
            torch.set_num_threads(num_threads)
            with opened(tmp_path, vocab_size=1_003, tokens_per_batch=tokens_per_batch) as scorer:
                found[num_threads, tokens_per_batch] = scorer.score(sequences, ids_of(sequences))
    finally:
        torch.set_num_threads(was)
    first = found[1, 2_048]
    assert found[3, 2_048].logprob_nats.tobytes() == first.logprob_nats.tobytes()
    assert found[3, 2_048].kept_tokens().logprobs_nats.tobytes() == first.kept_tokens().logprobs_nats.tobytes()
    for scores in found.values():
        assert np.array_equal(scores.kept_tokens().token_ids, first.kept_tokens().token_ids)
        logprobs = (one.kept_tokens().logprobs_nats.astype(np.float64) for one in (scores, first))
        assert np.allclose(*logprobs, rtol=2**-9)
    with open_scorer(
        tmp_path, scoring=plain, end_of_document_id=END_OF_DOCUMENT, max_sequence_tokens=129, report=lambda _: None
    ) as scorer:
        expected = scorer.score(sequences, ids_of(sequences))
    assert np.allclose(first.logprob_nats, expected.logprob_nats, atol=1e-3)
    assert np.array_equal(first.num_scored_tokens, expected.num_scored_tokens) and expected.kept is None


def test_an_actor_of_a_cluster_keeps_the_same(tmp_path):
    tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(900, longest=40, num=8)
    with opened(tmp_path, vocab_size=900) as scorer:
        expected = scorer.score(sequences, ids_of(sequences)).kept_tokens()
    settings = ScorerSettings(
        model_folder=tmp_path,
        scoring=Scoring(device="cpu", keep_tokens=KeepTokens(number=NUMBER, seed=SEED)),
        end_of_document_id=END_OF_DOCUMENT,
        max_sequence_tokens=129,
        vocab_size=900,
    )
    actor = ModelActor(pickle.loads(pickle.dumps(settings)))  # as Ray hands it over
    actor.open()
    lengths = np.array([len(one) for one in sequences])
    scores, _ = pickle.loads(pickle.dumps(actor.compute(np.concatenate(sequences), lengths, ids_of(sequences))))
    actor._stack.close()
    assert scores.kept_tokens().token_ids.tobytes() == expected.token_ids.tobytes()
    assert scores.kept_tokens().logprobs_nats.tobytes() == expected.logprobs_nats.tobytes()


def test_a_sequence_without_a_scored_token_keeps_nothing(tmp_path):
    tiny_model("qwen2", tmp_path)
    for method in ("sampled", "top_k"):
        with opened(tmp_path, vocab_size=1_003, method=method) as scorer:
            for sequences in ([np.array([4], np.int32)], [np.array([END_OF_DOCUMENT, 5], np.int32)]):
                kept = scorer.score(sequences, np.array([7])).kept_tokens()
                assert kept.token_ids.shape == kept.logprobs_nats.shape == (0, NUMBER)


class _KilledError(Exception):
    """Stands for the end of a process."""


class _EndsAfter:
    """A scorer whose process ends after some parts."""

    num_devices = 1

    def __init__(self, scorer, num_parts):
        self._scorer, self._num_left = scorer, num_parts

    def score(self, sequences, sequence_ids):
        if self._num_left == 0:
            raise _KilledError
        self._num_left -= 1
        return self._scorer.score(sequences, sequence_ids)


def test_what_is_stored_depends_on_neither_parts_nor_a_kill(tmp_path):
    tiny_model("qwen2", tmp_path / "model")
    sequences = scrambled_sequences(1_003, longest=60, num=40)
    table = {"sequence_id": np.arange(40) + 900, "split": "candidate", "domain": "d", "token_ids": sequences}
    pl.DataFrame(table).write_parquet(tmp_path / "sequences.parquet")

    def stored(name, scorer, sequences_per_part, work=None):
        work = tmp_path / (work or f"{name}-work")
        for folder in (tmp_path / name, work):
            folder.mkdir(exist_ok=True)
        shard = ShardScores(
            tmp_path / "sequences.parquet",
            shard="a",
            scorer=scorer,
            device_time=DeviceTime(1),
            sequences_per_part=sequences_per_part,
            work=work,
            folder=tmp_path / name,
            report=lambda _: None,
            keeps_token_logprobs=True,
            keep_tokens=KeepTokens(number=NUMBER, seed=SEED),
        )
        with PartThreads(1) as threads:
            for _, part in threads.in_order((("a", work) for work in shard.works()), queue.SimpleQueue()):
                shard.add(part)
        shard.close()
        return tmp_path / name / "scores.parquet"

    with opened(tmp_path / "model", vocab_size=1_003) as scorer:
        expected = scorer.score(sequences, np.arange(40) + 900)
        whole, pieces = stored("whole", scorer, 40), stored("pieces", scorer, 7)
        with pytest.raises(_KilledError):
            stored("killed", _EndsAfter(scorer, 3), 7)
        assert 1 <= len(list((tmp_path / "killed-work").glob("part-*.parquet"))) <= 3
        resumed = stored("resumed", _EndsAfter(scorer, 5), 7, work="killed-work")
    assert resumed.read_bytes() == pieces.read_bytes()
    for path in (whole, pieces):
        rows = pl.read_parquet(path)
        assert rows.schema["sampled_token_ids"] == pl.List(pl.UInt32)
        assert (rows["sampled_token_ids"].list.len() == NUMBER * rows["num_scored_tokens"]).all()
        assert (rows["sampled_logprobs_nats"].list.len() == NUMBER * rows["num_scored_tokens"]).all()
        ids = rows["sampled_token_ids"].explode().drop_nulls().to_numpy()
        assert np.array_equal(ids, expected.kept_tokens().token_ids.reshape(-1))
        logprobs = rows["sampled_logprobs_nats"].explode().drop_nulls().cast(pl.Float64).to_numpy()
        assert np.allclose(logprobs, expected.kept_tokens().logprobs_nats.reshape(-1), rtol=2**-9)


def test_a_second_scoring_keeps_nothing():
    kept = Scoring(keep_tokens=KeepTokens())
    assert kept.by(None, None).keep_tokens is None
    assert kept.by("vllm", "bfloat16").keep_tokens is None


@pytest.mark.parametrize(
    ("scoring", "problem"),
    [
        ({"backend": "vllm", "keep_tokens": {}}, "keep_tokens needs backend torch; vllm"),
        ({"keep_tokens": {"method": "top_k", "seed": 3}}, "seed needs method sampled"),
        ({"keep_tokens": {"number": 0}}, "number: Input should be greater than or equal to 1"),
        ({"keep_tokens": {"methd": "top_k"}}, "did you mean 'method'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(scoring, problem, tmp_path):
    content = tiny_experiment(tmp_path, tmp_path)
    content["teachers"]["large"]["scoring"] = scoring
    with pytest.raises(ExperimentError, match=problem):
        open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))


def test_more_of_the_likeliest_than_there_are_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "corpus").mkdir()
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    content["teachers"]["large"]["scoring"] = {"keep_tokens": {"method": "top_k", "number": 301}}
    pipeline = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    problems = {one.key: one.problems for one in plan(pipeline) if one.problems}
    assert problems.keys() == {"large/teacher_scores"}
    assert "300; set it to 300 or less" in problems["large/teacher_scores"][0]
    with pytest.raises(ScoringError, match="scoring.keep_tokens.number.*set it to 300 or less"):
        TokenKeeper(KeepTokens(method="top_k", number=301), vocab_size=300)
    content["teachers"]["large"]["scoring"]["keep_tokens"]["number"] = 300
    pipeline = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    assert not [one.problems for one in plan(pipeline) if one.problems]
