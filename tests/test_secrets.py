"""A secret that opens the corpus is in nothing that a run leaves behind: files, the instance, the log."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import fsspec
import pytest
import yaml

from miniplm_assets.assets.build import build_assets
from miniplm_assets.cli import main
from miniplm_assets.kinds.registry import open_pipeline
from tests.pages import value_of

SECRET = "Plant3dS3cret"
CONTENT = b"".join(json.dumps({"text": f"text number {i}"}).encode() + b"\n" for i in range(20))


class Guarded(BaseHTTPRequestHandler):
    """Serves the corpus to those who know the secret."""

    def do_GET(self) -> None:
        is_known = self.headers.get("Authorization") == f"Bearer {SECRET}"
        self.send_response(200 if is_known else 403)
        self.send_header("Content-Length", str(len(CONTENT) if is_known else 0))
        self.end_headers()
        if is_known and self.command == "GET":
            self.wfile.write(CONTENT)

    do_HEAD = do_GET  # noqa: N815 - the server asks for these names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"Authorization": f"Bearer {SECRET}"}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a.jsonl"
    server.shutdown()
    server.server_close()
    thread.join()


def write(folder: Path, url: str) -> Path:
    path = folder / "experiment.yaml"
    content = {
        "warehouse": "wh",
        "corpus": {"source": {"type": "jsonl", "path": url}},
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 260}},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def left_behind(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_secret_of_the_environment_is_left_nowhere(
    tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline = open_pipeline(write(tmp_path, url))
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        result = dg.materialize(build_assets(pipeline), selection=["raw_corpus", "documents"], instance=instance)
        assert result.success
        (documents,) = result.asset_materializations_for_node("documents")
        assert value_of(documents, "num_documents") == 20
        events = instance.all_logs(result.run_id)
    assert SECRET not in repr(events)
    assert left_behind(tmp_path) == []
    assert SECRET not in "".join(capfd.readouterr())


def test_a_secret_in_a_url_is_refused_before_anything_is_written(
    tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, url.replace("://", f"://user:{SECRET}@") + f"?sig={SECRET}")
    assert main(["plan", str(path)]) == 2
    printed = "".join(capfd.readouterr())
    assert "corpus.source.path: holds a user, a password" in printed and SECRET not in printed
    assert left_behind(tmp_path) == [path] and not (tmp_path / "wh").exists()
