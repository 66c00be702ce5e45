"""Scripts beside the product: a corpus of the files of installed packages, and an experiment without Dagster."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.snapshot import latest_snapshot
from tests.corpora import tiny_experiment, write_experiment, write_shard

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def package_texts() -> Any:
    spec = importlib.util.spec_from_file_location("package_texts", PROJECT / "experiments" / "package_texts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_parts_of_a_file_are_the_file_and_end_with_lines(package_texts) -> None:
    text = "".join(f"line {number} of a file\n" for number in range(4_000)) + "x" * 25_000 + "\nend"
    parts = list(package_texts.documents_of(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 20_000
    assert sum(part.endswith("\n") for part in parts) == len(parts) - 2  # the one that is cut, and the last
    assert len(list(package_texts.documents_of("y" * 1_000_000))) == 10


def test_a_corpus_of_packages_holds_what_they_hold(package_texts, tmp_path: Path, capsys) -> None:
    root = tmp_path / "site-packages"
    files = {
        "one/code.py": "x = 1\n" * 100,
        "one/tests/other.py": "y = 1\n" * 100,
        "one/README.md": "z " * 200,
        "one-1.0.dist-info/METADATA": "m " * 200,
        "one/LICENSE.txt": "l " * 200,
        "one/short.py": "s",
        "one/picture.png": "p" * 1_000,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "one" / "latin.py").write_bytes(b"\xe9" * 500)
    (root / "one" / "link.py").symlink_to(root / "one" / "code.py")
    package_texts.write_corpus([root], tmp_path / "corpus", megabytes=1, num_shards=2)
    texts = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "corpus").iterdir())]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    assert {row["file"].removeprefix("site-packages/"): row["text"] for row in rows} == {
        name: text for name, text in files.items() if name not in ("one/short.py", "one/picture.png")
    }
    assert Counter(row["domain"] for row in rows) == dict.fromkeys(
        ("python sources", "python tests", "documentation", "installation records", "licences"), 1
    )
    said = capsys.readouterr()
    assert "left: 1 (not UTF-8)" in said.out and "left: 1 (documents under 200 characters)" in said.out
    assert "the packages hold no 1 MB" in said.err
    with pytest.raises(SystemExit, match="is not empty"):
        package_texts.write_corpus([root], tmp_path / "corpus", megabytes=1, num_shards=2)


def materialise(experiment: Path, *until: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, PROJECT / "benchmarks" / "materialise.py", experiment, "--until", *until]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_experiment_is_made_without_dagster(tmp_path: Path) -> None:
    write_shard(tmp_path / "corpus" / "a.jsonl")
    experiment = write_experiment(
        tmp_path / "experiment.yaml", tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    )
    done = materialise(experiment, "bpe/tokenizer")
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines()[-4:]] == [
        "raw_corpus", "documents", "bpe/tokenizer", "together",
    ]  # fmt: skip
    pipeline = open_pipeline(experiment)
    fingerprints = pipeline.fingerprints(latest_snapshot(pipeline.graph["raw_corpus"], pipeline.store))
    assert pipeline.store.find(fingerprints.recipe("bpe/tokenizer")) is not None


def test_what_fails_without_dagster_is_named_with_what_hangs_on_it(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": 7}\n')
    experiment = write_experiment(
        tmp_path / "experiment.yaml", tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    )
    done = materialise(experiment, "bpe/tokenizer")
    assert done.returncode == 1
    assert "failed: documents" in done.stdout
    assert "not made, since an input failed: bpe/tokenizer" in done.stdout


def test_the_experiment_for_a_gpu_can_be_read() -> None:
    pipeline = open_pipeline(PROJECT / "experiments" / "scaled_up.yaml")
    assert {"sparse_kd/student_checkpoint", "half/refined_corpus", "prior/refined_corpus"} <= set(pipeline.graph)
