"""The real vLLM against a float64 brute force. Slow: an engine takes half a minute to start on two cores."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from miniplm_assets.core.errors import ModelError, ScoringError
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm import vllm_process
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.lm.vllm_engine import _lost, max_batched_tokens
from miniplm_assets.lm.vllm_scorer import VllmScorer
from tests.scoring_oracle import END_OF_DOCUMENT, brute_force, scrambled_sequences, tiny_model

pytestmark = pytest.mark.long

NATS_PER_TOKEN = 1e-4


def processes_of(session):
    listed = subprocess.run(["ps", "-o", "pid=,stat=,args=", "-s", str(session)], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if line.split()[1][0] != "Z"]


def log_of(failure):
    return Path(str(failure.value).partition("Its whole log: ")[2].splitlines()[0])


def opened(folder, lines, **scoring):
    # 128 positions and sequences of up to 129 tokens: the last one is predicted, never read.
    # 100 tokens a step, so that long prompts come in chunks and short ones share a step.
    return open_scorer(
        folder,
        scoring=Scoring(backend="vllm", tokens_per_batch=100, **scoring),
        end_of_document_id=END_OF_DOCUMENT,
        max_sequence_tokens=129,
        report=lines.append,
    )


@pytest.mark.vllm
def test_vllm_gives_the_scores_of_the_brute_force(tmp_path, monkeypatch):
    model = tiny_model("qwen2", tmp_path)
    sequences = [*scrambled_sequences(model.config.vocab_size, longest=129, num=16), np.array([4], np.int32)]
    sequence_ids = np.arange(len(sequences), dtype=np.int64)[::-1] + 900
    lines = []
    with opened(tmp_path, lines) as scorer:
        assert isinstance(scorer, VllmScorer)
        for score_after_end_of_document in (False, True):
            # The rule is applied to what the engine returns: one engine serves both.
            monkeypatch.setattr(
                scorer,
                "_rule",
                TokenRule(end_of_document_id=END_OF_DOCUMENT, score_after_end_of_document=score_after_end_of_document),
            )
            scores = scorer.score(sequences, sequence_ids)
            expected, num_scored = brute_force(
                model, sequences[:-1], score_after_end_of_document=score_after_end_of_document
            )
            np.testing.assert_array_equal(scores.num_scored_tokens, [*num_scored, 0])
            error = np.abs(scores.logprob_nats - [*expected, 0.0])
            assert np.all(error <= NATS_PER_TOKEN * np.maximum(scores.num_scored_tokens, 1))
        # Behind a first token: what it says of the sequence's own first is not counted.
        rule = TokenRule(end_of_document_id=END_OF_DOCUMENT, score_after_end_of_document=True, begin_of_sequence_id=1)
        with monkeypatch.context() as changed:
            changed.setattr(scorer, "_rule", rule)
            begun = [np.array([1, *token_ids[:128]], np.int32) for token_ids in sequences]
            found = scorer.score([token_ids[1:] for token_ids in begun], sequence_ids)
        whole, _ = brute_force(model, begun, score_after_end_of_document=True)
        first, _ = brute_force(model, [token_ids[:2] for token_ids in begun], score_after_end_of_document=True)
        assert found.num_scored_tokens.tolist() == [len(token_ids) - 2 for token_ids in begun]
        assert np.all(
            np.abs(found.logprob_nats - (whole - first)) <= NATS_PER_TOKEN * np.maximum(found.num_scored_tokens, 1)
        )
        # Parts that come together share the engine's steps; each thread gets what is its own.
        parts = [list(part) for part in (sequences[:5], sequences[5:], sequences[8:3:-1])]
        with ThreadPoolExecutor(3) as threads:
            together = list(threads.map(lambda part: scorer.score(part, np.arange(len(part))), parts))
        expected = dict(zip(map(id, sequences), scores.logprob_nats, strict=True))
        for part, found in zip(parts, together, strict=True):
            np.testing.assert_allclose(found.logprob_nats, [expected[id(one)] for one in part], atol=1e-3)
        session = scorer.session
        assert len(processes_of(session)) >= 2
        # Its worker dies in the middle.
        worker = next(int(line.split()[0]) for line in processes_of(session) if "VLLM::" in line)
        os.kill(worker, signal.SIGKILL)
        part = [*sequences[:-1], sequences[0]]
        with ThreadPoolExecutor(2) as threads:
            one, other = (threads.submit(scorer.score, part, np.arange(17)) for _ in range(2))
            with pytest.raises(ScoringError, match=r"after 0 of (17|34) sequences the engine (failed|has ended)"):
                one.result(60)
            with pytest.raises(ScoringError, match="the engine (failed|has ended)") as failure:
                other.result(60)
        assert "vLLM's process EngineCore is gone (SIGKILL ended it" in str(failure.value)
        assert "printed" not in str(failure.value)  # nothing but harmless warnings
        log_of(failure).unlink()
    assert processes_of(session) == []
    assert lines[0].startswith("starting vLLM")


def test_how_a_process_ended_is_told_though_another_thread_was_told_first():
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), name="Core")
    child.start()
    child.kill()
    _, status = os.waitpid(child.pid, 0)  # as vLLM's own watch does, which notes it a moment later
    note = threading.Timer(0.2, setattr, (child._popen, "returncode", os.waitstatus_to_exitcode(status)))
    note.start()
    assert _lost([child]).startswith("vLLM's process Core is gone (SIGKILL ended it")
    note.join()


@pytest.mark.vllm
def test_a_model_that_vllm_does_not_know_gives_its_reason(tmp_path):
    tiny_model("xglm", tmp_path, d_model=64, num_layers=2, attention_heads=2, ffn_dim=96, vocab_size=300)
    with pytest.raises(ModelError, match=r"vLLM does not start") as failure, opened(tmp_path, []):
        pass
    assert "XGLMForCausalLM" in str(failure.value)
    log_of(failure).unlink()


# Answers one part before it reads the next, and gives the tokens themselves as log-probabilities.
PLAYED = """
import json, time
import numpy as np
from miniplm_assets.lm.engine_process import Sender, serve

def answer(connection, settings):
    sender = Sender(connection)
    sender.send({"ready": True})
    while "end" not in (message := json.loads(connection.recv_bytes())):
        tokens = np.frombuffer(connection.recv_bytes(), dtype=np.int32)
        time.sleep(0.5)  # until the next part waits to be read
        sender.send({"finished": len(message["lengths"])})
        found = [-part[1:].astype(np.float32) for part in np.split(tokens, np.cumsum(message["lengths"])[:-1])]
        lengths = [len(one) for one in found]
        sender.send({"done": message["part"], "lengths": lengths}, np.concatenate(found).tobytes())

if __name__ == "__main__":
    serve(answer)
"""


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A scorer whose engine is played by a few lines."""
    (tmp_path / "played_vllm.py").write_text(PLAYED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    real = vllm_process.EngineProcess
    monkeypatch.setattr(vllm_process, "EngineProcess", lambda _, *rest, **more: real("played_vllm", *rest, **more))
    scorer = VllmScorer(
        tmp_path,
        SimpleNamespace(vocab_size=1_000, num_attention_heads=1, hidden_size=8, num_hidden_layers=1),
        scoring=Scoring(backend="vllm"),
        rule=TokenRule(end_of_document_id=END_OF_DOCUMENT, score_after_end_of_document=True),
        max_sequence_tokens=1_000,
        max_positions=None,
        report=lambda _: None,
    )
    yield scorer
    scorer.close()


def test_large_parts_that_meet_in_the_middle_do_not_wait_for_each_other(played):
    # A megabyte each way: far more than a socket holds.
    parts = [[np.full(1_000, number, np.int32)] * 300 for number in (3, 5, 7)]
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(played.score, part, np.arange(300)) for part in parts]
        found = [future.result(60) for future in futures]
    for number, scores in zip((3, 5, 7), found, strict=True):
        assert scores.logprob_nats.tolist() == [-999.0 * number] * 300


def test_who_waits_hears_of_whatever_ends_the_thread_that_listens(played, monkeypatch):
    monkeypatch.setattr(played._engine._process, "receive", lambda **_: {"of": "another version"})
    with ThreadPoolExecutor(1) as threads:
        scoring = threads.submit(played.score, [np.array([1, 2], np.int32)], np.arange(1))
        with pytest.raises(ScoringError, match="'finished'"):
            scoring.result(60)


def test_the_tokens_of_a_step_follow_from_the_memory():
    paper = {"vocab_size": 151_936, "max_read_tokens": 1_025, "tokens_per_batch": 16_384}
    # A tenth of 80 GB, at 151,936 x 6 bytes a token: 8e9 / 911,616.
    assert max_batched_tokens(**paper, bytes_per_weight=2, memory_bytes=80_000_000_000, is_cpu=False) == 8_775
    # A CPU takes one sequence at once, where its memory holds it.
    assert max_batched_tokens(**paper, bytes_per_weight=4, memory_bytes=24_000_000_000, is_cpu=True) == 1_025
    assert max_batched_tokens(**paper, bytes_per_weight=4, memory_bytes=8_000_000_000, is_cpu=True) == 658
