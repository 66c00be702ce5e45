"""Sending an export to a hub: a server stands in for it, and the token is in nothing but the requests."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants

from miniplm_assets.cli import main
from miniplm_assets.commands import export
from miniplm_assets.core.errors import PublishingError
from miniplm_assets.publishing.push import push, require_repository_id, token_in

TOKEN = "hf_" + "S3cretT0ken" * 3
FILES = {"README.md": b"---\nlicense: mit\n---\n\n# x\n", "data/train-00000-of-00001.parquet": bytes(range(256))}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload of small files asks for; its server remembers what it was asked."""

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_GET(self) -> None:
        if not self._is_known():
            return self._answer({"error": "who are you"}, 401)
        self.server.asked.append((self.path.partition("?")[0], None))
        if "/tree/" in self.path:
            return self._answer(
                [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.server.there]
            )
        return self._answer(
            {"id": "me/half", "sha": "0" * 40, "siblings": [{"rfilename": n} for n in self.server.there]}
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._is_known() or self.server.is_closed:
            return self._answer({"error": f"not for {self.headers.get('Authorization')}"}, 403)
        path = self.path.partition("?")[0]
        self.server.asked.append((path, body))
        if path == "/api/repos/create":
            return self._answer({"url": f"{constants.ENDPOINT}/datasets/me/half", "name": "me/half"})
        if path.endswith("/preupload/main"):
            named = [file["path"] for file in json.loads(body)["files"]]
            return self._answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in named]})
        if path.endswith("/commit/main"):
            return self._answer(
                {
                    "success": True,
                    "commitOid": "1" * 40,
                    "commitUrl": f"{constants.ENDPOINT}/datasets/me/half/commit/{40 * chr(49)}",
                }
            )
        return self._answer({"errors": [], "warnings": []})

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.there, server.is_closed = [], [], False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "my export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "my export"


def committed(hub):
    """Return the content of each file of the only commit, and what it deletes."""
    [body] = [body for path, body in hub.asked if path.endswith("/commit/main")]
    lines = [json.loads(line) for line in body.splitlines()]
    files = {one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"}
    return files, {one["value"]["path"] for one in lines if one["key"] == "deletedFile"}


def test_a_folder_arrives_whole_in_a_private_repository(hub, folder, capfd):
    hub.there = ["data/train-00000-of-00002.parquet", "data/train-00000-of-00001.parquet", "LICENSE", ".gitattributes"]
    address = push(folder, repository="half", kind="dataset", token=TOKEN)
    assert address == f"{constants.ENDPOINT}/datasets/me/half"
    made = json.loads(next(body for path, body in hub.asked if path == "/api/repos/create"))
    assert made.get("private") or made.get("visibility") == "private"
    assert made["type"] == "dataset" and made["name"] == "half"
    files, deleted = committed(hub)
    assert files == FILES
    # What an earlier export has left under other names would be read as well; what somebody added stays.
    assert deleted == {"data/train-00000-of-00002.parquet"}
    assert any(path == "/api/validate-yaml" for path, _ in hub.asked)
    assert TOKEN not in "".join(capfd.readouterr())


@contextmanager
def refused_by_the_hub():
    with pytest.raises(PublishingError) as caught:
        yield caught
    error = caught.value
    while error is not None:  # nor in what hangs on it, which a log may show
        assert TOKEN not in str(error) and TOKEN not in repr(error)
        error = error.__cause__ or error.__context__


def test_a_hub_that_says_no(hub, folder):
    hub.is_closed = True
    with refused_by_the_hub() as caught:
        push(folder, repository="me/half", kind="model", token=TOKEN)
    said = str(caught.value)
    assert f"{folder} is complete, and the hub did not take it as model me/half" in said and "HF_TOKEN" in said
    assert f"hf upload me/half '{folder}' . --repo-type model" in said
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("length", [10, 590, 5_000])
def test_a_token_in_an_error_is_not_told(length, folder, monkeypatch):
    class Talkative:
        def __init__(self, token):
            self.token = token

        def create_repo(self, *_, **__):
            raise OSError("x" * length + f" header Bearer {self.token}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Talkative)
    with refused_by_the_hub() as caught:
        push(folder, repository="me/half", kind="model", token=TOKEN)
    assert "(OSError)" in str(caught.value) and TOKEN[:6] not in str(caught.value)


@pytest.mark.parametrize("environment", [{}, {"HF_TOKEN": ""}, {"HF_TOKEN": " \n"}])
def test_no_token(environment):
    with pytest.raises(
        PublishingError, match=r"HF_TOKEN is not set; nothing was written.*huggingface\.co/settings/tokens"
    ):
        token_in(environment)


def test_a_token_from_a_file_with_a_line_end():
    assert token_in({"HF_TOKEN": f"{TOKEN}\n"}) == TOKEN


@pytest.mark.parametrize("name", ["a/b/c", "", "me/ha lf", "-x", "datasets/me/half"])
def test_no_name_of_a_repository(name):
    with pytest.raises(PublishingError, match=r"expected <user or organisation>/<name>"):
        require_repository_id(name)


def test_the_command_asks_for_token_and_name_before_anything_else(tmp_path, monkeypatch, capsys):
    def unexpected(*_):
        raise AssertionError("the experiment was opened")

    monkeypatch.setattr(export, "open_experiment", unexpected)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    command = ["export", "refined/half", str(tmp_path / "out"), "--push"]
    assert main([*command, "me/half"]) == 2 and "HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main([*command, "me/ha lf"]) == 2
    said = capsys.readouterr().err
    assert "expected <user or organisation>/<name>" in said and TOKEN not in said
    assert list(tmp_path.iterdir()) == []
