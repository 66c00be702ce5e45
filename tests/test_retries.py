"""What may pass is tried again, with growing waits; bad input is not. Either is told as a sentence, without a trace."""

import errno
import os
from dataclasses import replace

import dagster as dg
import pytest

from miniplm_assets.assets import failures
from miniplm_assets.assets.build import build_asset, build_assets
from miniplm_assets.assets.failures import console_logger, may_pass
from miniplm_assets.core.errors import CorpusError, StoreError, UnreachableCorpusError
from miniplm_assets.kinds.raw_corpus import RAW_CORPUS
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard


@pytest.fixture
def materialise_failing(tmp_path, monkeypatch):
    """Materialise `raw_corpus`, where the first tries end in the given errors."""
    monkeypatch.setattr(failures, "SECONDS_BEFORE_RETRY", 0)
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    pipeline = open_pipeline(
        write_experiment(tmp_path / "e.yaml", tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse"))
    )

    def materialise(*errors):
        tries = []

        def make(work):
            tries.append(work)
            if len(tries) <= len(errors):
                raise errors[len(tries) - 1]
            return RAW_CORPUS.make(work)

        node = pipeline.graph["raw_corpus"]
        asset = build_asset(pipeline, replace(node, kind=replace(node.kind, make=make)), "as asked")
        location = dg.Definitions(
            [asset],
            jobs=[dg.define_asset_job("job")],
            executor=dg.in_process_executor,
            loggers={"console": console_logger.configured({"log_level": "INFO"})},
        )
        with dg.DagsterInstance.ephemeral() as instance:
            job = location.resolve_job_def("job")
            result = job.execute_in_process(
                run_config={"loggers": {"console": {}}}, instance=instance, raise_on_error=False
            )
        return result, len(tries)

    return materialise


def test_a_network_that_fails_is_tried_again(materialise_failing):
    lost = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    result, num_tries = materialise_failing(lost, UnreachableCorpusError("timed out"))
    assert (result.success, num_tries) == (True, 3)


def test_it_is_given_up_in_the_end(materialise_failing):
    result, num_tries = materialise_failing(*[UnreachableCorpusError("timed out")] * 5)
    assert (result.success, num_tries) == (False, 3)


@pytest.mark.parametrize(
    "error", [CorpusError("not a corpus"), OSError(errno.ENOLCK, "No locks available"), KeyError("mistake")]
)
def test_bad_input_a_local_disk_and_a_mistake_of_the_code_are_not_tried_again(materialise_failing, error):
    result, num_tries = materialise_failing(error)
    assert (result.success, num_tries) == (False, 1)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TimeoutError("read timed out"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), False),
        (StoreError("the disk is full"), False),
        (UnreachableCorpusError("503"), True),
    ],
)
def test_only_a_network_may_pass(error, passes):
    assert may_pass(error) == passes


def test_an_error_is_one_sentence_told_once(materialise_failing, capfd):
    error = CorpusError("shard a.jsonl: none of its 3 rows is a document. Correct that.")
    error.add_note("while making documents")
    result, _ = materialise_failing(error)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    shown = failure.step_failure_data.error
    assert shown.message == f"{error}\nwhile making documents"
    assert (list(shown.stack), shown.cause) == ([], None)
    assert "raise errors" in failure.step_failure_data.user_failure_data.metadata["trace"].value
    printed = "".join(capfd.readouterr())
    told = [line for line in printed.splitlines() if "none of its 3 rows" in line]
    assert len(told) == 1
    assert "Stack Trace" not in printed


def test_a_mistake_of_the_code_keeps_its_trace(materialise_failing, capfd):
    result, _ = materialise_failing(KeyError("mistake"))
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.error.cause.stack
    assert "Stack Trace" in "".join(capfd.readouterr())


def test_what_a_failed_check_found_is_told(tmp_path, capfd):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse", evaluation={"excluded_domains": ["nois"]})
    pipeline = open_pipeline(write_experiment(tmp_path / "e.yaml", content))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            build_assets(pipeline),
            selection=["raw_corpus", "documents", "bpe/tokenizer"],
            instance=instance,
            resources={},
            raise_on_error=False,
        )
    printed = "".join(capfd.readouterr())
    assert "check excluded_domains_are_found of documents failed. no document is of these" in printed
    assert "nois: did you mean 'noise'?" in printed
    assert not result.success and not result.asset_materializations_for_node("bpe__tokenizer")
