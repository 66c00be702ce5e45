"""The experiment file: what is wrong in it is said at its key, all at once."""

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field, JsonValue

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment import load_experiment
from miniplm_assets.experiment.settings import Settings

ROOT = Path(__file__).parents[1]


def minimal():
    return {
        "warehouse": "results",
        "corpus": {"source": {"type": "jsonl", "path": "texts"}, "splits": {"teacher": 0.2}},
        "tokenizers": {
            "bpe": {"source": "trained", "vocab_size": 300},
            "other": {"source": "trained", "vocab_size": 400},
        },
        "architectures": {"tiny": {"model_type": "qwen2"}},
        "teachers": {"large": {"tokenizer": "bpe", "model": {"source": "folder", "path": "models/large"}}},
        "references": {
            "small": {
                "tokenizer": "bpe",
                "model": {"source": "trained", "architecture": "tiny", "training": {"token_budget": 10}},
            }
        },
        "selections": {"half": {"teacher": "large", "reference": "small", "keep_fraction": 0.5}},
        "students": {
            "plain": {"architecture": "tiny", "tokenizer": "bpe", "training": {"token_budget": 10}},
            "better": {
                "architecture": "tiny",
                "tokenizer": "bpe",
                "corpus": "refined_corpus/half",
                "training": {"token_budget": 10},
                "baseline": "plain",
            },
        },
    }


def load(tmp_path, content, **options):
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_experiment(path, **options)


def changed(path, value):
    content = minimal()
    *parents, last = path.split(".")
    section = content
    for name in parents:
        section = section[name]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return content


def test_relative_paths_are_relative_to_the_file(tmp_path):
    experiment = load(tmp_path, minimal())
    assert experiment.warehouse == str(tmp_path / "results")
    assert experiment.corpus.source.path == str(tmp_path / "texts")
    assert experiment.teachers["large"].model.path == str(tmp_path / "models" / "large")


def test_urls_stay_as_they_are(tmp_path):
    experiment = load(tmp_path, changed("corpus.source.path", "s3://bucket/texts/*.jsonl.zst"))
    assert experiment.corpus.source.path == "s3://bucket/texts/*.jsonl.zst"


def test_a_warehouse_from_outside_takes_the_place_of_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, minimal(), warehouse="elsewhere").warehouse == str(tmp_path / "elsewhere")


def test_top_level_keys_with_x_are_left_alone(tmp_path):
    load(tmp_path, {**minimal(), "x-anchors": {"anything": 1}})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("corpus.split", {}, r"corpus\.split: unknown key; did you mean 'splits'\?"),
        ("studens", {}, r"studens: unknown key; did you mean 'students'\?"),
        (
            "selections.half.keep_fractoin",
            0.5,
            r"selections\.half\.keep_fractoin: unknown key; did you mean 'keep_fraction'",
        ),
        ("selections.half.keep_fraction", 0, r"selections\.half\.keep_fraction: .*greater than 0 \(found 0\)"),
        (
            "selections.half.keep_fraction",
            1.2,
            r"selections\.half\.keep_fraction: .*less than or equal to 1 \(found 1\.2\)",
        ),
        ("selections.half.token_budget", 5, r"selections\.half: give exactly one of keep_fraction and token_budget"),
        ("selections.half.keep_fraction", None, r"give exactly one of keep_fraction and token_budget"),
        ("warehouse", "s3://bucket/results", r"s3://bucket/results is a URL, and only a local folder"),
        ("teachers.large.scoring", {"tensor_parallel_size": 2}, r"tensor_parallel_size 2 needs backend vllm"),
        ("selections.half.rank_by", "loss", r"selections\.half\.rank_by: .*'nats_per_token' or 'nats_per_sequence'"),
        (
            "selections.half.teacher",
            "larg",
            r"selections\.half\.teacher 'larg' is not in this file; did you mean 'large'\?",
        ),
        ("selections.half.reference", "none", r"selections\.half\.reference 'none' is not in this file; known: small"),
        (
            "students.better.corpus",
            "refined_corpus/hlaf",
            r"selection 'hlaf' is not in this file; did you mean 'half'\?",
        ),
        (
            "students.better.corpus",
            "everything",
            r"'everything' is neither 'candidates' nor 'refined_corpus/<selection>'",
        ),
        ("students.better.architecture", "tyni", r"architecture 'tyni' is not in this file; did you mean 'tiny'\?"),
        (
            "students.better.tokenizer",
            "other",
            r"tokenizer other differs from bpe, in whose tokens refined_corpus/half is",
        ),
        (
            "references.small.tokenizer",
            "other",
            r"teacher large uses tokenizer bpe, reference small uses other; .*same token",
        ),
        ("references.small.scoring", {"score_after_end_of_document": True}, r"score_after_end_of_document differs"),
        (
            "students.better.baseline",
            "plane",
            r"students\.better\.baseline 'plane' is not in this file; did you mean 'plain'\?",
        ),
        ("corpus.splits", {"reference": 0.6, "validation": 0.5}, r"= 1\.1 leaves no candidates"),
        ("architectures.tiny", {"hidden_size": 8}, r"architectures\.tiny: no model_type"),
        ("tokenizers", None, r"tokenizers: Field required"),
        (
            "teachers.large.model",
            {"source": "hub", "id": "a/b", "revision": "main"},
            r"teachers\.large\.model\.hub\.revision: .*pattern .*\(found 'main'\)",
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_key(tmp_path, path, value, message):
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, changed(path, value))


def test_a_teacher_trained_here_needs_a_split_of_its_own(tmp_path):
    content = changed("teachers.large.model", minimal()["references"]["small"]["model"])
    content["corpus"]["splits"] = {}
    with pytest.raises(ExperimentError, match=r"teachers\.large is trained here, but corpus\.splits\.teacher is 0"):
        load(tmp_path, content)


def test_all_errors_are_told_at_once(tmp_path):
    content = changed("selections.half.keep_fraction", 7)
    content["corpus"]["sorce"] = {}
    content["tokenizers"]["bpe"]["vocab_size"] = 3
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, content)
    assert [line.split(":")[0].strip(" -") for line in str(caught.value).splitlines()[1:]] == [
        "corpus.sorce",
        "tokenizers.bpe.trained.vocab_size",
        "selections.half.keep_fraction",
    ]


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "expected a mapping"), ("", "expected a mapping")]
)
def test_a_file_that_is_no_experiment(tmp_path, text, message):
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(ExperimentError, match=message):
        load_experiment(tmp_path / "experiment.yaml")


def test_a_missing_file_names_the_variable(tmp_path):
    with pytest.raises(ExperimentError, match="MINIPLM_EXPERIMENT"):
        load_experiment(tmp_path / "none.yaml")


def test_what_only_says_how_fast_is_no_part_of_the_identity(tmp_path):
    plain = load(tmp_path, minimal())
    content = changed("teachers.large.scoring", {"tokens_per_batch": 7, "device": "cpu", "sequences_per_part": 3})
    content["students"]["plain"]["training"]["sequences_per_device"] = 2
    other = load(tmp_path, content)
    assert plain.teachers["large"].scoring.identity() == other.teachers["large"].scoring.identity()
    assert plain.students["plain"].training.identity() == other.students["plain"].training.identity()
    bfloat16 = load(tmp_path, changed("teachers.large.scoring", {"dtype": "bfloat16"}))
    assert bfloat16.teachers["large"].scoring.identity() == {"dtype": "bfloat16"}
    assert plain.students["plain"].training.identity() == {"token_budget": 10}


def test_a_setting_that_a_later_release_adds_changes_no_identity_at_its_default():
    class Inner(Settings):
        runtime_only = frozenset({"speed"})
        old: int
        speed: int = 1

    class Section(Settings):
        kind: Literal["section"]
        inner: Inner = Inner(old=1)
        listed: tuple[Inner, ...] = ()
        named: dict[str, Inner] | None = None
        value: JsonValue = None

    class LaterInner(Inner):
        added: tuple[int, ...] = (1, 2)

    class LaterSection(Section):
        inner: LaterInner = LaterInner(old=1)
        listed: tuple[LaterInner, ...] = ()
        named: dict[str, LaterInner] | None = None
        added: LaterInner | None = None
        more: LaterInner = Field(LaterInner(old=7), description="a section of its own")

    content = {
        "kind": "section",
        "inner": {"old": 3, "speed": 9},
        "listed": [{"old": 1}],
        "named": {"a": {"old": 2}},
        "value": [1, {"x": None}],
    }
    expected = {**content, "inner": {"old": 3}}
    assert Section.model_validate(content).identity() == LaterSection.model_validate(content).identity() == expected
    assert Section(kind="section").identity() == LaterSection(kind="section").identity() == {"kind": "section"}
    # What says the same as the default is the default.
    assert Section.model_validate({"kind": "section", "inner": {"old": 1}}).identity() == {"kind": "section"}
    # Away from its default it counts, at every depth.
    later = LaterSection.model_validate({**content, "inner": {"old": 3, "added": [5]}, "more": {"old": 8}})
    assert later.identity() == expected | {"inner": {"old": 3, "added": [5]}, "more": {"old": 8}}


def test_a_seed_that_is_named_twice_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match=r"students\.plain: seeds: 4 is named twice"):
        load(tmp_path, changed("students.plain.seeds", [3, 4, 4]))


@pytest.mark.parametrize("owner", ["team:", "nobody", "a b@c"])
def test_an_owner_is_an_address_or_a_team(tmp_path, owner):
    with pytest.raises(ExperimentError, match=r"owners\.0: "):
        load(tmp_path, changed("owners", [owner]))


def test_the_demo_is_a_valid_experiment():
    load_experiment(ROOT / "experiments" / "demo.yaml")
