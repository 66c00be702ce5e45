"""Inputs that were got wrong once, each as a user gives it: an experiment file and a corpus, and what comes of it."""

import json
import queue
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from miniplm_assets.cli import main
from miniplm_assets.core.errors import CorpusError, ExperimentError, MissingResultError
from miniplm_assets.core.facts import SEEN_IN_FILES
from miniplm_assets.core.stop import Stop
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

pytestmark = pytest.mark.long

WORDS = "the quick brown fox jumps over one lazy dog and thinks of nothing at all while the sun goes down"
ARCHITECTURE = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


@dataclass
class Case:
    """One experiment, and its assets made one after the other, without Dagster."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    stop: Stop = field(default_factory=Stop)
    errands: "queue.SimpleQueue[Any]" = field(default_factory=queue.SimpleQueue)
    checks: dict[str, tuple[bool, str]] = field(default_factory=dict)
    run_id: None = None

    def progressed(self, _tally: Any, _pieces: Any) -> None:
        """Nobody watches."""

    def write(self, **changes: Any) -> "Case":
        content: dict[str, Any] = {
            "warehouse": "wh",
            "corpus": {
                "source": {"type": "jsonl", "path": "corpus"},
                "splits": {"validation": 0.1, "reference": 0.2, "teacher": 0.2},
            },
            "sequences": {"sequence_length": 16},
            "tokenizers": {"bpe": {"source": "trained", "vocab_size": 260}},
            "architectures": {"tiny": ARCHITECTURE},
        }
        (self.folder / "experiment.yaml").write_text(yaml.safe_dump(content | changes))
        return self

    def corpus(self, name: str, *rows: Any, ending: str = "") -> "Case":
        path = self.folder / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + ending)
        return self

    @property
    def pipeline(self) -> Pipeline:
        return open_pipeline(self.folder / "experiment.yaml")

    def make(self, *keys: str) -> Result:
        pipeline = self.pipeline
        for key in keys:
            node = pipeline.graph[key]
            work = Work(pipeline, node, self)
            result = node.kind.make(work)
            for outcome in (*result.manifest.checks, *work.tally.checks):
                self.checks[outcome.name] = (outcome.passed, outcome.description)
        return result

    def report(self, line: str) -> None:
        self.lines.append(line)

    def snapshot(self) -> Snapshot:
        return latest_snapshot(self.pipeline.graph["raw_corpus"], self.pipeline.store)

    def asked_snapshot(self) -> None:
        return None

    def maker_of(self, _key: str) -> None:
        return None

    def pin(self, _snapshot: Snapshot) -> None:
        """Each asset asks for the latest."""

    def device(self):
        return nullcontext()

    def connect_ray(self) -> None:
        raise AssertionError("no case scores on Ray")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def texts(num: int, **fields: Any) -> list[dict[str, Any]]:
    words = WORDS.split()
    return [{"text": " ".join([*words[i % 7 :], f"number {i}."]), **fields} for i in range(num)]


def test_the_warehouse_in_the_corpus_folder_is_no_corpus(case: Case) -> None:
    case.corpus("a.jsonl", *texts(20)).write(warehouse="corpus/warehouse")
    first = case.make("raw_corpus", "documents")
    again = case.make("raw_corpus", "documents")
    assert first.manifest.fingerprint == again.manifest.fingerprint
    assert first.facts["num_documents"] == 20
    assert case.checks["nothing_is_left_out"][0]


def test_what_looks_like_corpus_and_is_not_read_is_a_failed_check(case: Case) -> None:
    case.corpus("a.jsonl", *texts(3)).corpus("b.jsonl.7z").corpus("c.parquet").write().make("raw_corpus")
    passed, description = case.checks["nothing_is_left_out"]
    assert not passed and "b.jsonl.7z: its ending" in description and "c.parquet: its ending" in description


def test_rows_without_the_text_field_stop_the_documents(case: Case) -> None:
    case.corpus("a.jsonl", *({"content": f"text {i}"} for i in range(40))).write().make("raw_corpus")
    with pytest.raises(CorpusError, match=r"a\.jsonl: none of its 40 rows .*no_text 40.*fields content"):
        case.make("documents")


def test_a_json_array_is_said_to_be_one(case: Case) -> None:
    case.corpus("good.jsonl", *texts(3)).corpus("array.json", texts(5)).write().make("raw_corpus")
    with pytest.raises(CorpusError, match=r"array\.json: this file is one JSON array"):
        case.make("documents")


FIELDS = {"source": {"type": "jsonl", "path": "corpus"}, "fields": {"domain_field": "meta.sorce"}}


def test_a_domain_field_that_no_row_has_is_a_failed_check(case: Case) -> None:
    case.corpus("a.jsonl", *texts(5, meta={"source": "web"})).write(corpus=FIELDS).make("raw_corpus", "documents")
    passed, description = case.checks["domain_field_is_found"]
    assert not passed and "a.jsonl: did you mean 'meta.source'?" in description


def test_a_domain_field_that_one_file_lacks_is_a_warning(case: Case) -> None:
    case.corpus("a.jsonl", *texts(5, meta={"sorce": "web"})).corpus("b.jsonl", *texts(5, meta={"source": "web"}))
    result = case.write(corpus=FIELDS).make("raw_corpus", "documents")
    passed, description = case.checks["domain_field_is_found"]
    assert not passed and "b.jsonl: did you mean 'meta.source'?" in description and "a.jsonl" not in description
    assert result.facts["num_without_domain"] == 5


def test_an_excluded_domain_that_is_none_is_a_failed_check(case: Case) -> None:
    case.corpus("noise/a.jsonl", *texts(5))
    case.write(evaluation={"excluded_domains": ["nois", "noise"]}).make("raw_corpus", "documents")
    passed, description = case.checks["excluded_domains_are_found"]
    assert not passed and "nois: did you mean 'noise'?" in description


def test_many_rejected_rows_are_a_warning(case: Case) -> None:
    case.corpus("a.jsonl", *texts(50), {"text": ""}, {"text": 3}).write().make("raw_corpus", "documents")
    passed, description = case.checks["few_rows_are_rejected"]
    assert not passed
    assert description.startswith("2 rows, 3.85% of all, are no documents (empty 1, text_not_a_string 1)")


def with_faults_of_every_kind(case: Case) -> Case:
    """Two corpus files, of which each check of `documents` says something."""
    case.corpus("a.jsonl", *texts(50, meta={"source": "web"}), {"text": ""}, {"text": 3})
    case.corpus("b.jsonl", *texts(50, meta={"sorce": "web"}), {"text": ""})
    return case.write(corpus=FIELDS, evaluation={"excluded_domains": ["nois"]})


def test_what_is_said_of_stored_documents_takes_none_of_their_manifests(case: Case) -> None:
    whole = with_faults_of_every_kind(case).make("raw_corpus", "documents")
    told, case.checks = case.checks, {}
    assert sum(not passed for passed, _ in told.values()) == 3
    pieces = [path for path in whole.folder.parent.glob("*/manifest.json") if path.parent != whole.folder]
    assert len(pieces) == 2
    for path in pieces:
        path.write_text("nobody looks into this")
    case.make("documents")
    assert {name: told[name] for name in case.checks} == case.checks and len(case.checks) == 4


def test_what_an_earlier_release_did_not_note_is_read_again(case: Case) -> None:
    whole = with_faults_of_every_kind(case).make("raw_corpus", "documents")
    told, case.checks = case.checks, {}
    earlier = {name: value for name, value in whole.facts.items() if name != SEEN_IN_FILES}
    manifest = whole.manifest.model_copy(update={"facts": earlier}).sealed()
    (whole.folder / "manifest.json").write_text(json.dumps(manifest.model_dump(mode="json")))
    assert SEEN_IN_FILES not in case.make("documents").facts
    assert {name: told[name] for name in case.checks} == case.checks and len(case.checks) == 4


def test_a_flat_key_with_a_dot_is_the_domain(case: Case) -> None:
    case.corpus("a.jsonl", *texts(5, **{"meta.source": "web"}))
    case.write(corpus={**FIELDS, "fields": {"domain_field": "meta.source"}}).make("raw_corpus", "documents")
    assert case.checks["domain_field_is_found"][0]
    assert case.make("documents").facts["num_without_domain"] == 0


def test_a_string_view_that_is_not_utf8_is_one_rejected_row(case: Case) -> None:
    (case.folder / "corpus").mkdir()
    texts_column = pa.array([b"\xff\xfe bad", b"fine"]).view(pa.string()).cast(pa.string_view())
    pq.write_table(pa.table({"text": texts_column}), case.folder / "corpus" / "a.parquet")
    case.write(corpus={"source": {"type": "parquet", "path": "corpus"}})
    assert case.make("raw_corpus", "documents").facts["rejected_per_reason"] == {"not_utf8": 1}


@pytest.mark.parametrize("name", ["wh [v2] #1 100%20 'q' x=1", "a::b", "x*y", "%s {a,b}", "~x", "ünï"])
def test_a_warehouse_may_have_any_name(case: Case, name: str) -> None:
    case.corpus("a.jsonl", *texts(60)).write(warehouse=f"./{name}")
    decoy = case.folder / "wh v #1 100%20 'q' x=1"  # what the first name matches as a pattern
    decoy.mkdir()
    case.make("raw_corpus", "documents", "bpe/tokenizer", "bpe/sequences", "warehouse_catalog")
    assert (case.folder / name / "warehouse.duckdb").is_file()
    with duckdb.connect(case.folder / name / "warehouse.duckdb", read_only=True) as connection:
        assert connection.execute("select count(*) from documents").fetchone() == (60,)


def test_a_corpus_that_is_not_there_is_said_so(case: Case) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.source\.path .*corpus does not exist"):
        case.write().make("raw_corpus")


def test_rejected_rows_are_in_the_catalog(case: Case) -> None:
    case.corpus("a.jsonl", *texts(60), {"text": ""}).write()
    case.make("raw_corpus", "documents")
    result = case.pipeline.store.root / "documents"
    (rejected,) = result.rglob("rejected.parquet")
    assert pl.read_parquet(rejected, glob=False)["reason"].to_list() == ["empty"]


def architecture_case(case: Case, **changes: Any) -> Case:
    training = {"token_budget": 100}
    return case.corpus("a.jsonl", *texts(60)).write(
        architectures={"tiny": ARCHITECTURE | changes, "other": {"model_type": "lama"}},
        students={
            name: {"architecture": architecture, "tokenizer": "bpe", "training": training}
            for name, architecture in (("one", "tiny"), ("two", "other"))
        },
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layer": 1}, r"qwen2 has no key 'num_hidden_layer'; did you mean 'num_hidden_layers'\?"),
        ({"hidden_act": "gelo"}, "gelo"),
        ({"max_position_embeddings": 4}, "max_position_embeddings"),
        ({"rms_norm_eps": "1:30"}, "rms_norm_eps"),
    ],
)
def test_an_architecture_that_cannot_be_built_stops_the_first_step(case: Case, changes: Any, message: str) -> None:
    with pytest.raises(ExperimentError, match=message) as caught:
        architecture_case(case, **changes).make("raw_corpus")
    assert "one/student_checkpoint: " in str(caught.value)
    assert "two/student_checkpoint: architecture: model_type 'lama' is not a causal" in str(caught.value)


def test_plan_says_what_cannot_be_built(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    architecture_case(case, num_hidden_layer=1)
    assert main(["plan", str(case.folder / "experiment.yaml")]) == 2
    assert "did you mean 'num_hidden_layers'?" in capsys.readouterr().err


def test_a_document_without_tokens_is_a_rejected_row(case: Case) -> None:
    """As a tokenizer that drops control characters does with a document of nothing else."""
    spec = Tokenizer(models.BPE())
    spec.normalizer = normalizers.Replace("\x00", "")
    spec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    spec.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["</s>"]))
    (case.folder / "tok").mkdir()
    spec.save(str(case.folder / "tok" / "tokenizer.json"))
    (case.folder / "tok" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    case.corpus("a.jsonl", *texts(30), {"text": "\x00\x00"})
    case.write(tokenizers={"bpe": {"source": "folder", "path": "tok"}})
    case.make("raw_corpus", "documents", "bpe/tokenizer", "bpe/sequences", "warehouse_catalog")
    assert case.checks["every_document_is_packed"][0]
    assert case.checks["no_document_is_rejected"] == (False, "1 documents are in no sequence (no_tokens 1)")
    with duckdb.connect(case.folder / "wh" / "warehouse.duckdb", read_only=True) as connection:
        assert connection.execute("select file, line, reason from rejected_documents").fetchall() == [
            ("a.jsonl", 31, "no_tokens")
        ]


def test_a_copied_warehouse_never_shows_the_old_one(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.corpus("a.jsonl", *texts(60)).write()
    steps = ("raw_corpus", "documents", "bpe/tokenizer", "bpe/sequences", "warehouse_catalog")
    case.make(*steps)
    shutil.copytree(case.folder / "wh", case.folder / "copy")
    catalog = case.folder / "copy" / "warehouse.duckdb"
    with (
        duckdb.connect(catalog, read_only=True) as connection,
        pytest.raises(duckdb.Error, match=r"shows the files of the warehouse .*/wh, and lies elsewhere now"),
    ):
        connection.execute("select count(*) from documents").fetchall()
    case.write(warehouse="copy")
    experiment = str(case.folder / "experiment.yaml")
    assert main(["verify", experiment]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert [line.split(": ")[1] for line in wrong] == [
        f"view {name}" for name in ("documents", "rejected_documents", "sequences")
    ]
    shutil.rmtree(case.folder / "wh")
    case.lines.clear()
    case.make(*steps)
    assert [line.split(": ")[0] for line in case.lines if ": making " in line] == ["warehouse_catalog"]
    assert main(["verify", experiment]) == 0
    with duckdb.connect(catalog, read_only=True) as connection:
        assert connection.execute("select count(*) from documents").fetchall() == [(60,)]


def test_the_demo_corpus_of_a_copied_warehouse_is_its_own(case: Case) -> None:
    """Its files lie in the warehouse."""
    demo = {"source": {"type": "demo", "num_shards": 1, "megabytes": 0.05}}
    case.write(corpus=demo).make("raw_corpus")
    shutil.copytree(case.folder / "wh", case.folder / "copy")
    case.write(warehouse="copy", corpus=demo)
    assert main(["verify", str(case.folder / "experiment.yaml")]) == 0
    with pytest.raises(MissingResultError, match="Materialise it first"):
        case.make("documents")
    result = case.make("raw_corpus")
    (files,) = pl.read_parquet(result.file("files.parquet"), glob=False)["files"].to_list()
    assert files[0].startswith((case.folder / "copy").as_uri())
