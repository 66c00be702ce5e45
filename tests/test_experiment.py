"""The experiment file: what is wrong in it is said at its key, all at once."""

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field, JsonValue

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment import load_experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.registry import EXPERIMENT_VARIABLE, WAREHOUSE_VARIABLE, open_chosen

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
        ("warehouse", "ftp://bucket/results", r"ftp://bucket/results is no place for a warehouse: that is a folder"),
        ("warehouse", "s3://", r"s3://: name a bucket and a prefix in it"),
        ("warehouse", "s3://bucket/../other", r"s3://bucket/../other: name a bucket and a prefix in it"),
        ("warehouse", "s3://bucket/a b", r"s3://bucket/a b: name a bucket and a prefix in it"),
        ("teachers.large.scoring", {"tensor_parallel_size": 2}, r"tensor_parallel_size 2 needs backend vllm"),
        (
            "selections.half.rank_by",
            "loss",
            r"half\.rank_by: .*'nats_per_token', 'nats_per_sequence' or 'nats_per_byte'",
        ),
        (
            "selections.half.teacher",
            "larg",
            r"selections\.half\.teacher 'larg' is not in this file; did you mean 'large'\?",
        ),
        ("selections.half.reference", "none", r"selections\.half\.reference 'none' is not in this file; known: small"),
        ("selections.half.score", "randm", r"selections\.half\.score: .*'prior' or 'random' \(found 'randm'\)"),
        ("selections.half.within", "shard", r"selections\.half\.within: .*'domain' \(found 'shard'\)"),
        ("selections.half.temperature", 0, r"selections\.half\.temperature: .*greater than 0 \(found 0\)"),
        ("selections.half.temperature", -1.5, r"selections\.half\.temperature: .*greater than 0 \(found -1\.5\)"),
        ("selections.half.teacher", None, r"selections\.half\.teacher: score difference needs one.*; known: large"),
        ("selections.half.reference", None, r"selections\.half\.reference: score difference needs one.*known: small"),
        (
            "selections.half.score",
            "teacher",
            r"selections\.half\.reference 'small' is not asked by score teacher; .*score: difference",
        ),
        (
            "selections.half",
            {"score": "reference", "teacher": "large", "keep_fraction": 0.5},
            r"selections\.half\.teacher 'large' is not asked by score reference; leave it out, or write score: teacher",
        ),
        (
            "selections.half",
            {"score": "random", "reference": "small", "tokenizer": "bpe", "keep_fraction": 0.5},
            r"half\.reference 'small' is not asked by score random; leave it out, or write score: reference",
        ),
        (
            "selections.half",
            {"score": "prior", "keep_fraction": 0.5},
            r"selections\.half\.tokenizer: score prior needs one, and none is named; known: bpe, other",
        ),
        (
            "selections.half",
            {"score": "prior", "tokenizer": "bqe", "keep_fraction": 0.5},
            r"selections\.half\.tokenizer 'bqe' is not in this file; did you mean 'bpe'\?",
        ),
        (
            "selections.half.tokenizer",
            "bpe",
            r"selections\.half\.tokenizer 'bpe': .* its models' tokenizer; leave it out",
        ),
        (
            "selections.half.seed",
            3,
            r"selections\.half\.seed 3: nothing is drawn here; .* score: random or a temperature",
        ),
        (
            "selections.half",
            {
                "score": "random",
                "tokenizer": "bpe",
                "keep_fraction": 0.5,
                "rank_by": "nats_per_token",
                "temperature": 2,
            },
            r"rank_by nats_per_token: score random is in no nats; leave it out\n.*temperature 2: score random is drawn",
        ),
        (
            "selections.half",
            {"score": "teacher", "teacher": "large", "keep_fraction": 0.5, "scale_correction": "residual"},
            r"scale_correction residual: it brings two models to one scale, .* write score: difference",
        ),
        (
            "selections.half",
            {
                "teacher": "large",
                "reference": "small",
                "keep_fraction": 0.5,
                "order": "lowest",
                "agreement": {"dtype": "bfloat16"},
            },
            r"selections\.half\.agreement: .*put it at such a selection of the same teacher and reference",
        ),
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


def test_a_second_pass_is_for_the_plain_difference_alone(tmp_path):
    content = minimal()
    half = content["selections"]["half"]
    content["selections"]["low"] = {**half, "order": "lowest"}
    content["selections"]["again"] = {**half, "rescoring": {"around": "low", "within_nats": 0.1, "dtype": "float16"}}
    with pytest.raises(ExperimentError, match=r"again\.rescoring\.around: .*; 'low' ranks in another way"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"half": {"pre_filter": "half"}},
            r"half\.pre_filter 'half': half -> half is a circle; .*pre_filter: chance, odd",
        ),
        (
            {"half": {"pre_filter": "second"}, "second": {"pre_filter": "half"}},
            r"half\.pre_filter 'second': half -> second -> half is a circle; .*\n.*: second -> half -> second is a",
        ),
        ({"half": {"pre_filter": "chanse"}}, r"half\.pre_filter 'chanse' is not in this file; did you mean 'chance'\?"),
        (
            {"half": {"pre_filter": "odd"}},
            r"half\.pre_filter 'odd' keeps sequences of tokenizer other, .* of bpe; name one of the same: chance, sec",
        ),
        (
            {"chance": {"pre_filter": "half"}},
            r"chance\.pre_filter 'half': .*score random asks no teacher; leave it out",
        ),
        (
            {"half": {"pre_filter": "chance", "agreement": {"dtype": "float16"}}},
            r"half\.agreement: a sample is held against the cutoff of the highest differences of all candidates",
        ),
    ],
)
def test_a_pre_filter_is_another_selection_of_the_same_sequences(tmp_path, changes, message):
    content = minimal()
    content["selections"] |= {
        "second": dict(content["selections"]["half"]),
        "chance": {"score": "random", "tokenizer": "bpe", "keep_fraction": 0.5},
        "odd": {"score": "random", "tokenizer": "other", "keep_fraction": 0.5},
    }
    load(tmp_path, content)
    for name, change in changes.items():
        content["selections"][name] |= change
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, content)


PROXY = {"share": 0.1, "training": {"token_budget": 9}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"score": "teacher", "reference": None},
            r"half\.proxy: .*score teacher is none; leave it out, or write score: d",
        ),
        (
            {"scale_correction": "residual"},
            r"half\.proxy: .*scale_correction residual needs what each model says of every",
        ),
        ({"pre_filter": "chance"}, r"half\.proxy: pre_filter 'chance' and a proxy both say what the teacher is spared"),
        (
            {"agreement": {"dtype": "float16"}},
            r"half\.agreement: a sample is held against the cutoff of .*, proxy; put",
        ),
        (
            {"rescoring": {"around": "second", "within_nats": 0.1, "dtype": "float16"}},
            r"half\.rescoring\.around: a second pass moves .*, proxy; this selection ranks in another way",
        ),
        ({"proxy": {**PROXY, "share": 1.0}}, r"half\.proxy\.share: .*less than 1"),
        ({"proxy": {"share": 0.1}}, r"half\.proxy\.training: Field required"),
        ({"proxy": {**PROXY, "held_out": 0.1}}, r"half\.proxy\.held_out: unknown key; did you mean 'held_out_share'\?"),
    ],
)
def test_a_proxy_is_of_a_difference_as_it_is(tmp_path, changes, message):
    content = minimal()
    content["selections"] |= {
        "second": dict(content["selections"]["half"]),
        "chance": {"score": "random", "tokenizer": "bpe", "keep_fraction": 0.5},
        # What another asks for of it, it gives.
        "third": {**content["selections"]["half"], "pre_filter": "half"},
    }
    half = content["selections"]["half"]
    half["proxy"] = PROXY
    for steps in ({}, {"order": "lowest"}, {"temperature": 0.5}, {"within": "domain"}):
        content["selections"]["half"] = half | steps
        load(tmp_path, content)
    content["selections"]["half"] = {name: value for name, value in (half | changes).items() if value is not None}
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, content)


def test_a_selection_without_a_model_says_itself_in_whose_tokens_it_is(tmp_path):
    content = changed("selections.half", {"score": "random", "tokenizer": "other", "keep_fraction": 0.5})
    assert load(tmp_path, content).selection_tokenizer("half") == "other"
    content["selections"]["half"]["tokenizer"] = "bpe"
    assert load(tmp_path, content).selection_tokenizer("half") == "bpe"


@pytest.mark.parametrize("objective", [{"type": "sparse_kd"}, {"type": "token_selection", "reference": "foreign"}])
def test_scores_of_candidates_are_not_of_a_text_that_is_tokenised_anew(tmp_path, objective):
    content = minimal()
    scoring = {"keep_token_logprobs": True, "keep_tokens": {}}
    for models in ("teachers", "references"):
        foreign = {**next(iter(content[models].values())), "tokenizer": "other", "scoring": scoring}
        content[models]["foreign"] = foreign
    better = content["students"]["better"]
    better |= {"tokenizer": "other", "objective": {"teacher": "foreign", **objective}}
    message = (
        rf"students\.better\.objective: {objective['type']} reads .*of the candidates' own tokens, and those of "
        r"refined_corpus/half are others; take the candidates or a refined corpus of tokenizer other, or an objective"
    )
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, content)
    better["objective"] = {"type": "vanilla_kd", "teacher": "foreign"}
    load(tmp_path, content)
    better["objective"]["teacher"] = "large"
    with pytest.raises(ExperimentError, match=r"large has tokenizer bpe, the student other; vanilla_kd learns from"):
        load(tmp_path, content)
    better["objective"] = {"teacher": "foreign", **objective}
    better["corpus"] = "candidates"
    load(tmp_path, content)


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
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()[1:]] == [
        "corpus.sorce",
        "selections.half.keep_fraction",
        "tokenizers.bpe.trained.vocab_size",
    ]


def test_what_does_not_fit_together_is_told_with_what_is_wrong_in_itself(tmp_path):
    """Each at its line; nothing is said of what follows from a part that is wrong."""
    content = changed("students.better.baseline", "plane")
    content["selections"]["half"]["keep_fraction"] = 7
    content["corpus"]["sorce"] = {}
    content["tokenizers"]["bpe"]["vocab_size"] = 3
    content["teachers"]["large"]["model"]["pth"] = "x"
    content["architectures"]["tiny"] = {}
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, content)
    lines = (tmp_path / "experiment.yaml").read_text().splitlines()
    problems = [line.removeprefix("  - line ").split(": ") for line in str(caught.value).splitlines()[1:]]
    assert [(keys.split(" ")[0], lines[int(line) - 1].split(":")[0].strip()) for line, keys, *_ in problems] == [
        ("architectures.tiny", "tiny"),
        ("corpus.sorce", "sorce"),
        ("selections.half.keep_fraction", "keep_fraction"),
        ("students.better.baseline", "baseline"),
        ("teachers.large.model.folder.pth", "pth"),
        ("tokenizers.bpe.trained.vocab_size", "vocab_size"),
    ]


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping at the top level, found list"),
        ("", "expected a mapping at the top level, found NoneType"),
        ("a: 1\nb: caf\xe9".encode("latin-1"), r"line 2: not UTF-8 \(byte 0xe9\)"),
        ("a: 1".encode("utf-16"), "written in UTF-16"),
        ("a: \0", "not valid YAML"),
        ("a: " + "[" * 5_000, "line 1: nested more than 50 deep"),
        ("x-a: &a [*a]", "line 1: an alias stands within what it stands for"),
        (LAUGHS, "stand for more than 100,000 values"),
        ("# " + "x" * 2**20, "larger than"),
        ("a: .inf", "line 1: .inf is no finite number"),
        ("architectures: {tiny: {model_type: qwen2, rms_norm_eps: .nan}}", "line 1: .nan is no finite number"),
        ("a: 1e999", "1e999 is no finite number"),
        ("a: " + "9" * 5_000, "is more than 9223372036854775807"),
        ("a: !!python/name:os.system", "python/name:os.system is not allowed here"),
        ("a: !!binary aGk=", "binary is not allowed here"),
        ("? [a]\n: 1", "a key must be a text"),
        ("seed: 1\nstudents: {}\nselections: {}\nstudents: {}", r"line 4: 'students' .*; the first is in line 2"),
        ("a:\n  half: 1\n  'half': 2", r"line 3: 'half' .*; the first is in line 2"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_experiment(tmp_path, content, message):
    (tmp_path / "experiment.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ExperimentError, match=message):
        load_experiment(tmp_path / "experiment.yaml")


@pytest.mark.parametrize("path", ["nul\0.yaml", "", "x" * 300])
def test_a_path_that_cannot_be_is_said_so(tmp_path, path):
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_experiment(tmp_path / path)


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    """PyYAML's own 1.1 would read them as a text, 8, 90, a boolean and 8."""
    values = "{model_type: qwen2, a: 1e-6, b: 010, c: 1:30, d: no, e: 0o10, f: 2_300_000, g: 0x1F, h: -.5, i: 1_0.5e+1}"
    text = yaml.safe_dump(minimal()).replace("tiny:\n    model_type: qwen2", f"tiny: {values}")
    (tmp_path / "experiment.yaml").write_text(text)
    tiny = load_experiment(tmp_path / "experiment.yaml").architectures["tiny"]
    assert tiny == {
        "model_type": "qwen2",
        "a": 1e-6,
        "b": 10,
        "c": "1:30",
        "d": "no",
        "e": 8,
        "f": 2_300_000,
        "g": 31,
        "h": -0.5,
        "i": 105.0,
    }
    assert isinstance(tiny["a"], float) and isinstance(tiny["b"], int)


def test_a_merge_key_is_no_duplicate(tmp_path):
    content = yaml.safe_dump(minimal()) + "x-shape: &shape {model_type: llama, a: 1}\n"
    tiny = "tiny: {<<: *shape, a: 2}"
    text = content.replace("tiny:\n    model_type: qwen2", "later: &later {}")
    text += f"x-architectures: {{{tiny}}}\n"
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(ExperimentError, match=r"architecture 'tiny' is not in this file; known: later"):
        load_experiment(tmp_path / "experiment.yaml")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("corpus.splits.validation", True, r"splits\.validation: a number is expected, not true or false"),
        ("students.plain.seeds", [True], r"students\.plain\.seeds: a number is expected"),
        ("sequences", {"sequence_length": False}, r"sequences\.sequence_length: a number is expected"),
        ("students." + "x" * 300, {}, "at most 100 characters"),
        ("seed", 2**63, "is more than 9223372036854775807"),
        ("students.plain.training.token_budget", "1:30", r"token_budget: .*valid integer"),
    ],
)
def test_a_number_is_a_number_and_a_name_is_short(tmp_path, path, value, message):
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, changed(path, value))


def test_home_and_variables_in_paths_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLACE", "some where")
    content = changed("corpus.source.path", "~/texts")
    content["warehouse"] = "$HOME/wh"
    content["teachers"]["large"]["model"]["path"] = "a/${PLACE}/b"
    experiment = load(tmp_path, content)
    assert experiment.corpus.source.path == str(tmp_path / "home" / "texts")
    assert experiment.warehouse == str(tmp_path / "home" / "wh")
    assert experiment.teachers["large"].model.path == str(tmp_path / "a" / "some where" / "b")


@pytest.mark.parametrize(
    ("warehouse", "message"),
    [
        ("$NOT_SET/wh", r"warehouse: \$NOT_SET is an environment variable that is not set"),
        ("~nobody_of_this_name/wh", "there is no such user"),
        ("/", "is the root of the file system"),
        ("", "is no path"),
        ("a\0b", "is no path"),
        ("x" * 2_000, "is no path"),
        ("/dev/null/x", "lies below /dev/null, which is no folder"),
        ("experiment.yaml", "is a file"),
        ("what?", r"DuckDB takes what follows a \?"),
    ],
)
@pytest.mark.parametrize("is_from_outside", [False, True])
def test_a_place_that_cannot_be_a_warehouse_is_said_so_at_once(
    tmp_path, monkeypatch, warehouse, message, is_from_outside
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match=message):
        if is_from_outside:
            load(tmp_path, minimal(), warehouse=warehouse)
        else:
            load(tmp_path, changed("warehouse", warehouse))


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:S3CRET@bucket/texts",
        "sftp://S3CRET@host/texts",
        "https://host/texts.jsonl?X-Amz-Signature=S3CRET",
        "https://host/texts.jsonl?sv=1&sig=S3CRET",
        "zip://*.jsonl::https://host/a.zip?access_token=S3CRET",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(tmp_path, url):
    with pytest.raises(ExperimentError, match=r"corpus\.source\.path: holds a user, a password") as caught:
        load(tmp_path, changed("corpus.source.path", url))
    assert "S3CRET" not in str(caught.value)


def test_urls_without_a_secret_are_taken(tmp_path):
    for url in ("hf://datasets/a/b@main/x.jsonl", "https://host/a.jsonl?versionId=3", "s3://bucket/mail@home/*.jsonl"):
        assert load(tmp_path, changed("corpus.source.path", url)).corpus.source.path == url


def test_an_empty_variable_names_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = {EXPERIMENT_VARIABLE: "", WAREHOUSE_VARIABLE: ""}
    assert open_chosen(None, empty).store.root == ROOT / "warehouse"


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


def test_a_budget_is_of_tokens_or_of_what_another_student_costs(tmp_path):
    kd = {"type": "vanilla_kd", "teacher": "large"}
    content = changed("students.better.training", {"same_flops_as": "plain"})
    content["students"]["better"]["objective"] = kd
    student = load(tmp_path, content).students["better"]
    assert (student.training.token_budget, student.training.same_flops_as) == (None, "plain")
    assert student.objective.type == "vanilla_kd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {}}, "students.better.training: give token_budget or same_flops_as, and only one of them"),
        (
            {"training": {"same_flops_as": "plain", "token_budget": 3}},
            "students.better.training: give token_budget or same_flops_as, and only one of them",
        ),
        (
            {"training": {"same_flops_as": "plian"}},
            "students.better.training.same_flops_as 'plian' is not in this file; did you mean 'plain'?",
        ),
        (
            {"training": {"same_flops_as": "better"}},
            "students.better.training.same_flops_as: better -> better goes round; give one of them a token_budget",
        ),
        (
            {"tokenizer": "other", "corpus": "candidates", "training": {"same_flops_as": "plain"}},
            "students.better.training.same_flops_as: plain has tokenizer bpe, this student other; what costs the same "
            "is counted in tokens, so that both must have the same",
        ),
        (
            {"objective": {"type": "vanilla_kd", "teacher": "lrage"}},
            "students.better.objective.teacher 'lrage' is not in this file; did you mean 'large'?",
        ),
        (
            {"tokenizer": "other", "corpus": "candidates", "objective": {"type": "vanilla_kd", "teacher": "large"}},
            "students.better.objective.teacher: large has tokenizer bpe, the student other; vanilla_kd learns from "
            "probabilities of single tokens",
        ),
        (
            {"objective": {"type": "token_selection", "teacher": "large", "reference": "small"}},
            "students.better.objective.reference: small keeps no log-probabilities of tokens, and token_selection "
            "selects by them; add scoring: {keep_token_logprobs: true} to references.small",
        ),
    ],
)
def test_what_a_student_is_trained_with_is_checked(tmp_path, changes, message):
    content = minimal()
    content["students"]["better"] |= changes
    with pytest.raises(ExperimentError) as raised:
        load(tmp_path, content)
    assert message in str(raised.value)


def test_a_circle_of_equal_costs_is_told_at_each_of_its_students(tmp_path):
    content = minimal()
    students = content["students"]
    students["third"] = students["plain"] | {"training": {"same_flops_as": "plain"}}
    students["plain"] = students["plain"] | {"training": {"same_flops_as": "better"}}
    students["better"] |= {"training": {"same_flops_as": "plain"}}
    with pytest.raises(ExperimentError) as raised:
        load(tmp_path, content)
    told = [line for line in str(raised.value).splitlines() if "goes round" in line]
    assert [line.partition("same_flops_as: ")[2].partition(" goes")[0] for line in told] == [
        "better -> plain -> better",
        "plain -> better -> plain",
    ]


@pytest.mark.parametrize("owner", ["team:", "nobody", "a b@c"])
def test_an_owner_is_an_address_or_a_team(tmp_path, owner):
    with pytest.raises(ExperimentError, match=r"owners\.0: "):
        load(tmp_path, changed("owners", [owner]))


def test_the_demo_is_a_valid_experiment():
    load_experiment(ROOT / "experiments" / "demo.yaml")
