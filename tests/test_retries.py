"""What may pass is tried again, with growing waits; bad input is not."""

import errno
from dataclasses import replace

import dagster as dg
import pytest

from miniplm_assets.assets import build
from miniplm_assets.assets.build import build_asset
from miniplm_assets.core.errors import CorpusError, UnreachableCorpusError
from miniplm_assets.kinds.raw_corpus import RAW_CORPUS
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard


@pytest.fixture
def materialise_failing(tmp_path, monkeypatch):
    """Materialise `raw_corpus`, where the first tries end in the given errors; return how many tries there were."""
    monkeypatch.setattr(build, "SECONDS_BEFORE_RETRY", 0)
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
        asset = build_asset(pipeline, replace(node, kind=replace(node.kind, make=make)))
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize([asset], instance=instance, raise_on_error=False)
        return result.success, len(tries)

    return materialise


def test_a_read_error_and_a_network_that_fails_are_tried_again(materialise_failing):
    assert materialise_failing(OSError(errno.EIO, "Input/output error"), UnreachableCorpusError("timed out")) == (
        True,
        3,
    )


def test_it_is_given_up_in_the_end(materialise_failing):
    assert materialise_failing(*[OSError(errno.EIO, "Input/output error")] * 5) == (False, 3)


def test_bad_input_is_not_tried_again(materialise_failing):
    assert materialise_failing(CorpusError("not a corpus")) == (False, 1)


def test_a_mistake_of_the_code_is_not_tried_again(materialise_failing):
    assert materialise_failing(KeyError("mistake")) == (False, 1)
