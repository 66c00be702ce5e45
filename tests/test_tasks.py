"""Students on tasks of the real lm-evaluation-harness: against the project's own scorer, and with everything wrong."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.errors import ExperimentError, ModelError, TaskError, UnreachableTaskError
from miniplm_assets.core.stop import Stopped
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.evaluation import task_files
from miniplm_assets.evaluation.evaluated_tasks import evaluate_task
from miniplm_assets.evaluation.held_out_tasks import pieces_of, questions_of
from miniplm_assets.evaluation.loaded_tasks import open_tasks
from miniplm_assets.evaluation.task_comparison import TaskScore, score_of, task_table
from miniplm_assets.experiment import Cloze, Scoring, Tasks
from miniplm_assets.kinds import student_tasks
from miniplm_assets.kinds.registry import PROJECT, open_pipeline
from miniplm_assets.kinds.student_tasks import _require_same
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lm.scorer import open_scorer
from tests.corpora import tiny_experiment, write_experiment, write_shard
from tests.pages import value_of

pytest.importorskip("lm_eval")
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning"),
    # Of the harness and what it loads; ours are errors still.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::SyntaxWarning"),
]

QUESTIONS = [
    {"question": "def main(", "options": ["self):", ")", "zzzz qqqq"], "right": 1},
    {"question": "import ", "options": ["os", "!?!?", "sys, re"], "right": 0},
    {"question": "return ", "options": ["None", "value", "0x"], "right": 2},
    {"question": "for name in", "options": [" names:", " qq", " 17"], "right": 0},
    {"question": "class Error", "options": ["(Exception):", " 3", "s"], "right": 0},
]
METRICS = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]


def write_tasks(folder):
    """A multiple choice with a function of its own, a last word, and a text that is written."""
    folder.mkdir()
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (folder / "mine.jsonl").write_text(lines, encoding="utf-8")
    (folder / "mine_tools.py").write_text("def text(doc):\n    return '# ' + doc['question']\n", encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "mine.jsonl"}},
        "test_split": "test",
        "metadata": {"version": 2.0},
    }
    choice = {
        "task": "mine",
        **common,
        "output_type": "multiple_choice",
        "doc_to_choice": "options",
        "doc_to_target": "right",
        "target_delimiter": "",
        "metric_list": METRICS,
    }
    text = yaml.safe_dump(choice) + "doc_to_text: !function mine_tools.text\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    word = {
        "task": "last_word",
        **common,
        "output_type": "loglikelihood",
        "doc_to_text": "question",
        "doc_to_target": "{{options[right]}}",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            METRICS[0],
        ],
    }
    (folder / "last_word.yaml").write_text(yaml.safe_dump(word), encoding="utf-8")
    written = {
        "task": "written",
        **common,
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "{{options[right]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "written.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    return folder


NAMES = ["held_out_cloze", "held_out_bits_per_byte", "mine", "last_word", "written"]


def write(folder, **tasks):
    """An experiment of two students, of two seeds each, that learn from everything."""
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    for section in ("teachers", "references", "selections"):
        del content[section]
    content["corpus"]["splits"] = {"validation": 0.2, "reference": 0.2}
    student = content["students"]["no_kd"] | {"seeds": [1, 2]}
    student["training"] = student["training"] | {"token_budget": 2_000, "num_evaluations": 1}
    content["students"] = {"plain": student, "other": {**student, "seeds": [3, 4], "baseline": "plain"}}
    content["evaluation"]["tasks"] = {
        "names": NAMES,
        "folder": str(folder / "tasks"),
        "held_out": {"num_documents": 12, "context_characters": 60, "continuation_characters": 20},
        **tasks,
    }
    return write_experiment(folder / "experiment.yaml", content)


def materialise(path, select="*"):
    pipeline = open_pipeline(path)
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(build_assets(pipeline), instance=instance, selection=select, raise_on_error=True)
    return pipeline, {
        "/".join(event.asset_key.path): event.materialization for event in done.get_asset_materialization_events()
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_shard(folder / "corpus" / "a.jsonl", ("argparse", "ast", "calendar"), document_characters=400)
    write_tasks(folder / "tasks")
    pipeline, made = materialise(write(folder))
    return folder, pipeline, made


def tables(pipeline, student, seed, name):
    recipe = pipeline.latest_fingerprints().pieces(f"{student}/student_tasks")[str(seed)]
    return pl.read_parquet(pipeline.store.require(recipe).file(f"{name}.parquet"), glob=False)


class Oracle:
    """The project's own scorer on the student, one text at a time: what follows a text, as the whole less the text."""

    def __init__(self, pipeline, student, seed):
        fingerprints = pipeline.latest_fingerprints()
        self.folder = pipeline.store.require(fingerprints.pieces(f"{student}/student_checkpoint")[str(seed)]).folder
        self.tokenizer = load_tokenizer(self.folder)

    def __enter__(self):
        self.context = open_scorer(
            self.folder,
            scoring=Scoring(score_after_end_of_document=True),
            end_of_document_id=self.tokenizer.end_of_document_id,
            max_sequence_tokens=65,
            report=lambda _: None,
        )
        self.scorer = self.context.__enter__()
        return self

    def __exit__(self, *error):
        self.context.__exit__(*error)

    def tokens(self, text):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)(text, add_special_tokens=False)["input_ids"]

    def of_ids(self, ids):
        scores = self.scorer.score([np.array(ids, dtype=np.int32)], np.array([1]))
        return float(scores.logprob_nats[0])

    def continuation(self, text, more):
        """Both spelt as one, as the harness does, which lets white space between them belong to what follows."""
        stripped = text.rstrip()
        text, more = stripped, text[len(stripped) :] + more
        before = self.tokens(text)
        whole = [*before, *self.tokens(text + more)[len(before) :]]
        assert len(whole) <= 65
        return self.of_ids(whole) - self.of_ids(before)

    def rolling(self, text):
        """In windows of 64 tokens, none of which is asked for twice; the first follows an end of document."""
        ids = [self.tokenizer.end_of_document_id, *self.tokens(text)]
        assert len(ids) <= 65
        return self.of_ids(ids)


def expected_choice(oracle, text, choices, right):
    nats = [oracle.continuation(text, choice) for choice in choices]
    by_character = [value / len(choice) for value, choice in zip(nats, choices, strict=True)]
    return nats, int(np.argmax(nats)) == right, int(np.argmax(by_character)) == right


def test_a_multiple_choice_is_as_our_own_scorer_has_it(evaluated):
    _, pipeline, _ = evaluated
    held_out = pipeline.store.require(pipeline.latest_fingerprints().recipe("held_out_tasks"))
    cloze = [json.loads(line) for line in (held_out.folder / "held_out_cloze.jsonl").read_text("utf-8").splitlines()]
    asked = {
        "mine": [("# " + one["question"], one["options"], one["right"]) for one in QUESTIONS],
        "held_out_cloze": [(one["context"], one["choices"], one["label"]) for one in cloze],
    }
    for student, seed in (("plain", 1), ("other", 4)):
        answers, metrics = (tables(pipeline, student, seed, name) for name in ("answers", "metrics"))
        with Oracle(pipeline, student, seed) as oracle:
            for task, questions in asked.items():
                rows = answers.filter(pl.col("task") == task).sort("doc_id").to_dicts()
                assert len(rows) == len(questions)
                accuracies = []
                for row, (text, choices, right) in zip(rows, questions, strict=True):
                    if len(oracle.tokens(text + max(choices, key=len))) > 60:  # cut in front
                        accuracies.append((row["acc"], row["acc_norm"]))
                        continue
                    nats, is_right, is_right_by_character = expected_choice(oracle, text, choices, right)
                    assert row["logprob_nats"] == pytest.approx(nats, abs=2e-4)
                    assert (row["acc"], row["acc_norm"]) == (is_right, is_right_by_character)
                    assert row["prediction"] == choices[int(np.argmax(nats))]
                    assert row["target"] == str(right)
                    accuracies.append((is_right, is_right_by_character))
                found = {row["metric"]: row for row in metrics.filter(pl.col("task") == task).to_dicts()}
                for place, metric in enumerate(("acc", "acc_norm")):
                    values = [pair[place] for pair in accuracies]
                    assert found[metric]["value"] == pytest.approx(np.mean(values))
                    assert found[metric]["stderr"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))
                assert found["acc_norm"]["is_primary"] and not found["acc"]["is_primary"]


def test_a_last_word_and_bits_per_byte_are_as_our_own_scorer_has_them(evaluated):
    _, pipeline, _ = evaluated
    answers, metrics = (tables(pipeline, "plain", 2, name) for name in ("answers", "metrics"))
    with Oracle(pipeline, "plain", 2) as oracle:
        words = [(one["question"], one["options"][one["right"]]) for one in QUESTIONS]
        nats = [oracle.continuation(*pair) for pair in words]
        rows = answers.filter(pl.col("task") == "last_word").sort("doc_id")
        assert [row[0] for row in rows["logprob_nats"]] == pytest.approx(nats, abs=2e-4)
        found = {row["metric"]: row for row in metrics.filter(pl.col("task") == "last_word").to_dicts()}
        assert found["perplexity"]["value"] == pytest.approx(math.exp(-np.mean(nats)), rel=1e-4)
        assert found["acc"]["is_primary"] and not found["perplexity"]["higher_is_better"]
        held_out = pipeline.store.require(pipeline.latest_fingerprints().recipe("held_out_tasks"))
        lines = (held_out.folder / "held_out_bits_per_byte.jsonl").read_text("utf-8").splitlines()
        rows = answers.filter(pl.col("task") == "held_out_bits_per_byte").sort("doc_id")
        total_nats, total_bytes, num_short = 0.0, 0, 0
        for row, line in zip(rows.to_dicts(), map(json.loads, lines), strict=True):
            text = line["context"] + line["choices"][line["label"]]
            [found_nats] = row["logprob_nats"]
            if len(oracle.tokens(text)) <= 64:
                assert found_nats == pytest.approx(oracle.rolling(text), abs=2e-4)
                num_short += 1
            total_nats += found_nats
            total_bytes += len(text.encode())
        assert num_short
        [bits] = metrics.filter(task="held_out_bits_per_byte", metric="bits_per_byte")["value"]
        assert bits == pytest.approx(-total_nats / math.log(2) / total_bytes)
        assert rows["value"].mean() == pytest.approx(bits)


def test_each_seed_has_its_results_and_every_task_is_there(evaluated):
    _, pipeline, made = evaluated
    for student, seeds in (("plain", (1, 2)), ("other", (3, 4))):
        for seed in seeds:
            metrics = tables(pipeline, student, seed, "metrics")
            assert metrics.filter("is_primary")["task"].to_list() == NAMES
            assert metrics["num_documents"].to_list() == [12] * 4 + [5] * 5
            assert set(metrics["task_version"]) == {"1.0", "2.0"}
        assert {row["seed"] for row in pipeline.store.require(
            pipeline.latest_fingerprints().recipe(f"{student}/student_tasks")
        ).facts["by_seed"]} == {str(seed) for seed in seeds}  # fmt: skip
    one, other = (tables(pipeline, "plain", seed, "answers") for seed in (1, 2))
    assert one["doc_hash"].to_list() == other["doc_hash"].to_list()
    assert one["logprob_nats"].to_list() != other["logprob_nats"].to_list()
    assert "lm_eval 0.4.13" in str(value_of(made["tasks"], "harness"))
    written = one.filter(pl.col("task") == "written")
    assert written["prediction"].null_count() == 0 and written["metric"].to_list() == ["exact_match"] * 5


def test_the_comparison_is_of_the_stored_answers(evaluated):
    _, pipeline, made = evaluated
    result = pipeline.store.require(pipeline.latest_fingerprints().recipe("task_comparison"))
    table = pl.read_parquet(result.file("compared_tasks.parquet"), glob=False)
    assert table.filter(student="other")["task"].to_list() == [*NAMES, "average"]
    row = table.filter(student="other", task="mine").row(0, named=True)

    def mean(student, seeds):
        return np.mean([tables(pipeline, student, seed, "answers").filter(task="mine")["acc_norm"] for seed in seeds])

    assert row["value"] == pytest.approx(mean("other", (3, 4)))
    assert row["difference"] == pytest.approx(mean("other", (3, 4)) - mean("plain", (1, 2)))
    assert row["p_value"] is None and row["num_seeds"] == 2
    bits = table.filter(student="other", task="held_out_bits_per_byte").row(0, named=True)
    assert bits["difference_low"] < bits["difference"] < bits["difference_high"] and bits["low"] is None
    assert "other" in made["task_comparison"].metadata["verdict"].value
    interval = f"{bits['difference']:+.3f} ({bits['difference_low']:+.3f} to {bits['difference_high']:+.3f})"
    assert interval in value_of(made["task_comparison"], "tasks")


def test_a_second_run_computes_nothing_and_leaves_no_file_in_a_result(evaluated):
    folder, pipeline, _ = evaluated
    _, made = materialise(folder / "experiment.yaml")
    assert not [key for key, one in made.items() if value_of(one, "num_results_computed")]
    for key in ("tasks", "held_out_tasks"):
        assert list(pipeline.store.require(pipeline.latest_fingerprints().recipe(key)).problems()) == []


def test_another_task_costs_itself_alone(evaluated, tmp_path, monkeypatch):
    folder, pipeline, _ = evaluated
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    more = yaml.safe_load((copy / "tasks" / "last_word.yaml").read_text()) | {"task": "more"}
    (copy / "tasks" / "more.yaml").write_text(yaml.safe_dump(more), encoding="utf-8")
    with (copy / "tasks" / "mine.yaml").open("a", encoding="utf-8") as file:
        file.write("description: changed\n")
    asked = []

    def counted(loaded, *rest):
        asked.append(loaded.name)
        return evaluate_task(loaded, *rest)

    monkeypatch.setattr(student_tasks, "evaluate_task", counted)
    names = ["more", "held_out_cloze", "mine", "last_word"]
    other, _ = materialise(write(copy, names=names))
    assert sorted(asked) == ["mine"] * 4 + ["more"] * 4
    before, after = (tables(one, "other", 3, "answers") for one in (pipeline, other))
    assert after["task"].unique(maintain_order=True).to_list() == names
    for task in ("held_out_cloze", "last_word"):
        assert after.filter(task=task).equals(before.filter(task=task))
    assert after.filter(task="more")["value"].to_list() == before.filter(task="last_word")["value"].to_list()
    assert tables(other, "other", 3, "metrics").filter("is_primary")["task"].to_list() == names
    # A function that a task calls may have changed, though its own file has not.
    asked.clear()
    with (copy / "tasks" / "mine_tools.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    materialise(write(copy, names=["held_out_cloze", "last_word"]))
    assert sorted(asked) == ["held_out_cloze"] * 4 + ["last_word"] * 4


def test_a_changed_data_file_is_another_question(evaluated, tmp_path):
    folder, pipeline, _ = evaluated
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "tasks" / "mine.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(QUESTIONS[0]) + "\n")
    content = yaml.safe_load((copy / "experiment.yaml").read_text())
    content["evaluation"]["tasks"]["folder"] = str(copy / "tasks")
    before = pipeline.latest_fingerprints()
    after = open_pipeline(write_experiment(copy / "experiment.yaml", content)).latest_fingerprints()
    changed = {key for key in before.graph if before.recipe(key) != after.recipe(key)}
    students = {f"{name}/student_tasks" for name in ("plain", "other")}
    assert changed == {"tasks", "task_comparison", "report", "warehouse_catalog"} | students


# ---- what is wrong


def problems(path):
    return [problem for planned in plan(open_pipeline(path)) for problem in planned.problems]


def failure(path):
    """What the asset itself says, made by itself: a whole run says all problems before anything is made."""
    with pytest.raises(dg.Failure) as caught:
        materialise(path, "tasks")
    return caught.value.description


@pytest.fixture
def asked(tmp_path):
    """Return what writes an experiment whose tasks alone are looked at."""
    write_shard(tmp_path / "corpus" / "a.jsonl", ("heapq",))
    write_tasks(tmp_path / "tasks")
    return lambda *names, **tasks: write(tmp_path, names=list(names), **tasks)


def test_an_unknown_name_is_refused_with_the_nearest(asked):
    path = asked("mine", "helaswag", "mime")
    [problem] = problems(path)
    assert "helaswag: did you mean 'hellaswag'?" in problem and "mime: did you mean 'mine'?" in problem
    assert problem in failure(path)


def test_data_that_is_not_there_is_named_with_its_place(asked, tmp_path):
    (tmp_path / "tasks" / "mine.jsonl").unlink()
    path = asked("last_word")
    assert f"{tmp_path}/tasks/last_word.yaml: reads {tmp_path}/tasks/mine.jsonl, which does not exist." in failure(path)
    assert problems(path) == []  # what is not here yet can still be planned for


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: [broken\n", "bad.yaml: cannot be read as a task file"),
        ("- task\n", "bad.yaml: cannot be read as a task file"),
        ("task: mine\n", "defines the task mine, as bad.yaml does; rename one of them"),
        (
            "task: bad\ndataset_path: json\ndataset_kwargs: {data_files: mine.jsonl}\noutput_type: guess\n",
            "task bad: cannot be made",
        ),
        ("task: bad\ndoc_to_text: !function nowhere.at_all\n", "bad.yaml: cannot be loaded as a task"),
        ("task: bad\ndataset_path: json\n", "dataset_path is json, which reads files, and none is named"),
        (
            "task: bad\ndataset_path: json\ndataset_kwargs: {data_files: mine_tools.py}\ntest_split: train\n",
            "task bad: its data cannot be read as json",
        ),
    ],
)
def test_a_wrong_task_file_is_named(asked, tmp_path, text, told):
    (tmp_path / "tasks" / "bad.yaml").write_text(text, encoding="utf-8")
    path = asked("bad" if "task: bad" in text else "mine")
    assert told in failure(path)


def test_a_task_is_not_called_as_those_of_the_validation_split(asked, tmp_path):
    (tmp_path / "tasks" / "held_out_cloze.yaml").write_text("task: held_out_cloze\n", encoding="utf-8")
    assert "held_out_cloze is what a task made of the validation split is called" in failure(asked("mine"))


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (
            ConnectionError("Couldn't reach 'Rowan/hellaswag'"),
            UnreachableTaskError,
            "copy what that leaves in its HF_HOME",
        ),
        (RuntimeError("Dataset scripts are no longer supported"), TaskError, "write a task file of your own"),
    ],
)
def test_a_data_set_that_is_not_here_is_named(monkeypatch, error, kind, told):
    import datasets

    def load_dataset(*_args, **_keywords):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with (
        pytest.raises(TaskError, match="task hellaswag: its data set Rowan/hellaswag cannot be read") as caught,
        open_tasks(["hellaswag"], None, num_fewshot=0, limit=None),
    ):
        pass
    assert type(caught.value) is kind and told in str(caught.value)


def test_examples_are_refused_by_a_task_that_has_none(tmp_path):
    folder = write_tasks(tmp_path / "tasks")
    with (folder / "mine.yaml").open("a", encoding="utf-8") as file:
        file.write("num_fewshot: 0\n")
    with (
        pytest.raises(TaskError, match=r"task mine: has no examples .*num_fewshot is 2"),
        open_tasks(["mine"], folder, num_fewshot=2, limit=None),
    ):
        pass


def test_a_limit_takes_the_first_documents_and_a_group_is_its_tasks(tmp_path):
    folder = write_tasks(tmp_path / "tasks")
    group = {"group": "both", "task": ["mine", "last_word"]}
    (folder / "both.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    with open_tasks(["mine"], folder, num_fewshot=0, limit=None) as [whole]:
        hashes = whole.documents
    with open_tasks(["both"], folder, num_fewshot=0, limit=3) as loaded:
        assert [(task.name, task.named) for task in loaded] == [("mine", "both"), ("last_word", "both")]
        assert [task.documents for task in loaded] == [hashes[:3], hashes[:3]]


def test_examples_stand_in_front_of_a_question(tmp_path):
    folder = write_tasks(tmp_path / "tasks")
    with (folder / "mine.yaml").open("a", encoding="utf-8") as file:
        file.write("fewshot_split: test\n")
    contexts = {}
    for number in (0, 2):
        with open_tasks(["mine"], folder, num_fewshot=number, limit=1) as [loaded]:
            assert loaded.describe()["num_fewshot"] == number
            loaded.task.build_all_requests(limit=1)
            contexts[number] = loaded.task.instances[0].args[0]
    asked = ["# " + one["question"] + one["options"][one["right"]] for one in QUESTIONS]
    *examples, question = contexts[2].split("\n\n")
    assert question == contexts[0] == "# " + QUESTIONS[0]["question"]
    assert len(examples) == 2 and set(examples) < set(asked) - {asked[0]}


def test_story_cloze_is_read_from_the_file_that_one_is_sent(tmp_path):
    """The nine tasks of the paper: eight by the harness, one by the task file beside the experiment."""
    folder = tmp_path / "tasks"
    shutil.copytree(PROJECT / "experiments" / "tasks", folder)
    with (
        pytest.raises(TaskError, match=r"cloze_test_val__winter2018.csv, which does not exist. .*rochester"),
        open_tasks(["storycloze_2018"], folder, num_fewshot=0, limit=None),
    ):
        pass
    sentences = ",".join(f"Sentence {place}." for place in range(1, 5))
    header = ",".join(f"InputSentence{place}" for place in range(1, 5))
    (folder / "cloze_test_val__winter2018.csv").write_text(
        f"InputStoryid,{header},RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
        f"a-b,{sentences},One end.,Another end.,2\n",
        encoding="utf-8",
    )
    with open_tasks(["storycloze_2018"], folder, num_fewshot=0, limit=None) as [loaded]:
        [document] = list(loaded.task.eval_docs)
        assert loaded.task.doc_to_text(document) == "Sentence 1. Sentence 2. Sentence 3. Sentence 4."
        assert loaded.task.doc_to_choice(document) == ["One end.", "Another end."]
        assert loaded.task.doc_to_target(document) == 1
        assert loaded.describe()["metric"] == "acc"


def test_the_task_file_of_the_docs_is_one(tmp_path):
    page = (PROJECT / "docs" / "tasks.md").read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if block.startswith("task:")]
    (tmp_path / "capitals.yaml").write_text(example, encoding="utf-8")
    with (
        pytest.raises(TaskError, match=r"capitals.jsonl, which does not exist. Ask the geographers. Put it there."),
        open_tasks(["capitals"], tmp_path, num_fewshot=0, limit=None),
    ):
        pass
    row = {"question": "Of Norway:", "choices": ["Oslo", "Bergen"], "right": 0}
    (tmp_path / "capitals.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with open_tasks(["capitals"], tmp_path, num_fewshot=0, limit=None) as [loaded]:
        described = loaded.describe()
    assert (described["metric"], described["num_documents"], described["data_set"]) == ("acc", 1, "json")


def test_a_harness_that_is_missing_or_another_gives_the_command(asked, monkeypatch):
    path = asked("mine")
    for found, told in ((None, "none is installed"), ("0.4.9", "0.4.9 is installed")):
        monkeypatch.setattr(task_files, "harness_version", lambda found=found: found)
        said = failure(path)
        assert told in said and "pip install 'miniplm_assets[tasks]'" in said


def test_vllm_that_is_missing_gives_the_command(tmp_path, monkeypatch):
    import importlib.util

    from miniplm_assets.evaluation.harness_model import open_student

    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    tasks = Tasks(names=["mine"], backend="vllm")
    with (
        pytest.raises(ModelError, match=r"vllm is not installed here; run: pip install 'miniplm_assets\[vllm"),
        open_student(tmp_path, tasks, max_tokens=8, end_of_document_id=0, report=print, look=print),
    ):
        pass


def test_the_file_names_each_task_once_and_paper_stands_for_nine():
    assert len(Tasks(names=["paper"]).all_names) == 9
    assert Tasks(names=["held_out_cloze", "paper"]).held_out_names == ("held_out_cloze",)
    with pytest.raises(ValueError, match="piqa named twice"):
        Tasks(names=["paper", "piqa"])


def test_a_wrong_section_is_told_with_its_line(asked):
    path = asked("mine", num_fewshot=-1, bakend="torch")
    with pytest.raises(ExperimentError, match=r"unknown key; did you mean 'backend'\?"):
        open_pipeline(path)


def test_documents_that_changed_since_are_refused(tmp_path):
    folder = write_tasks(tmp_path / "tasks")
    with open_tasks(["mine"], folder, num_fewshot=0, limit=None) as loaded:
        described = {"mine": loaded[0].describe()}
        _require_same(loaded, described)
        with pytest.raises(TaskError, match="task mine: documents_hash changed since `tasks` was made"):
            _require_same(loaded, {"mine": described["mine"] | {"documents_hash": "0"}})
        with pytest.raises(TaskError, match="task gone: "):
            _require_same(loaded, described | {"gone": described["mine"]})


def test_a_stop_is_looked_at_between_batches_and_too_long_an_answer_is_refused():
    from miniplm_assets.evaluation.harness_model import Requests

    def stop():
        raise Stopped

    requests = Requests(print, stop)
    requests.begin("mine")
    requests.come([(("a", "b"), [1] * 4, [2] * 3), (("a", "b"), [1] * 9, [2] * 3)], 6)
    assert (requests.num_requests, requests.num_truncated) == (2, 1)
    with pytest.raises(TaskError, match="an answer of 7 tokens is longer than the 6"):
        requests.come([(("a", "b"), [1], [2] * 7)], 6)
    with pytest.raises(Stopped):
        requests.passed(2)


@pytest.mark.vllm
def test_vllm_answers_as_torch_does(tmp_path):
    """In a process of its own, as the engine changes much of one; of a random model that vLLM has kernels for."""
    pytest.importorskip("vllm")
    folder = write_tasks(tmp_path / "tasks")
    questions = [{"text": one["question"] + one["options"][0] + " " + one["options"][1]} for one in QUESTIONS]
    (folder / "bits.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions), encoding="utf-8")
    bits = {
        "task": "bits",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "bits.jsonl"}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }
    (folder / "bits.yaml").write_text(yaml.safe_dump(bits), encoding="utf-8")
    found = {}
    for backend in ("torch", "vllm"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.evaluate_once", str(tmp_path), backend],
            cwd=PROJECT, capture_output=True, text=True, check=False, env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4_000:]
        found[backend] = json.loads((tmp_path / f"{backend}.json").read_text())
    for ours, theirs in zip(found["vllm"], found["torch"], strict=True):
        assert ours["task"] == theirs["task"] and ours["doc_hash"] == theirs["doc_hash"]
        assert ours["logprob_nats"] == pytest.approx(theirs["logprob_nats"], abs=1e-3)
        assert (ours["acc"], ours["is_greedy"]) == (theirs["acc"], theirs["is_greedy"])
        # vLLM holds back the bytes of an unfinished letter at the end of what it writes.
        assert (ours["prediction"] or "").rstrip("\ufffd") == (theirs["prediction"] or "").rstrip("\ufffd")


# ---- tasks made of the validation split


def documents(number, *, first=0):
    for place in range(first, first + number):
        words = " ".join(f"w{place}x{word}" for word in range(200))
        yield place, "prose" if place % 3 else "notes", words


CLOZE = Cloze(num_documents=20, context_characters=50, continuation_characters=30)


def test_a_question_is_a_piece_of_its_document_among_those_of_others_of_its_domain():
    texts = {number: (domain, text) for number, domain, text in documents(30)}
    pieces = pieces_of(documents(30), CLOZE, seed=1)
    asked = list(questions_of(pieces, seed=1))
    assert len(asked) == 20 and len({one["label"] for one in asked}) == 4
    for one in asked:
        domain, text = texts[one["document_id"]]
        assert one["domain"] == domain and len(set(one["choices"])) == 4
        for place, choice in enumerate(one["choices"]):
            assert len(choice) == 30
            is_own = place == one["label"]
            assert (one["context"] + choice in text) == is_own
            [source] = [number for number, (_, other) in texts.items() if choice in other]
            assert texts[source][0] == domain
        begin = text.index(one["context"])
        assert (begin == 0 or text[begin] == " ") and one["choices"][one["label"]][0] == " "


def test_the_questions_do_not_depend_on_the_order_and_pieces_not_on_other_documents():
    forwards = list(questions_of(pieces_of(documents(30), CLOZE, seed=1), seed=1))
    assert forwards == list(questions_of(pieces_of(reversed(list(documents(30))), CLOZE, seed=1), seed=1))
    assert forwards != list(questions_of(pieces_of(documents(30), CLOZE, seed=2), seed=2))
    more = Cloze(num_documents=100, context_characters=50, continuation_characters=30)
    few, many = (set(pieces_of(documents(number), more, seed=1)) for number in (30, 40))
    assert few < many and len(few) == 30
    twice = [*documents(30), *((100 + number, domain, text) for number, domain, text in documents(30))]
    assert len(pieces_of(twice, more, seed=1)) == 30


def test_too_few_documents_are_told():
    with pytest.raises(TaskError, match="only 3 held-out documents are long enough"):
        list(questions_of(pieces_of([*documents(3), (9, "prose", "short")], CLOZE, seed=1), seed=1))


# ---- students side by side


def scored(task, *seeds, named=None, metric="acc", higher=True):
    answers = tuple(np.array(seed, dtype=float) for seed in seeds)
    values = tuple(float(one.mean()) for one in answers)
    hashes = tuple(f"{task} {place}" for place in range(len(answers[0])))
    return TaskScore(task, named or task, metric, higher, values, hashes, answers)


def test_the_comparison_by_hand():
    right, wrong = [1] * 20 + [0] * 20, [0] * 8 + [1] * 12 + [0] * 20
    plain = {"one": scored("one", wrong), "two": scored("two", [1, 0] * 5), "bits": scored("bits", [0.5] * 4)}
    better = {"one": scored("one", right), "two": scored("two", [1, 0] * 5), "bits": scored("bits", [0.5] * 4)}
    plain["bits"], better["bits"] = (
        TaskScore("bits", "bits", "bits_per_byte", False, (bits,), ("a",), None) for bits in (2.0, 1.5)
    )
    table, words = task_table({"plain": plain, "better": better}, {"plain": None, "better": "plain"})
    rows = {(row["student"], row["task"]): row for row in table.to_dicts()}
    one = rows["better", "one"]
    assert (one["value"], one["baseline_value"], one["difference"]) == pytest.approx((0.5, 0.3, 0.2))
    assert one["p_value"] == pytest.approx(2 / 2**8) and one["verdict"] == "better"
    assert rows["better", "two"]["verdict"] == "cannot be told apart" and rows["better", "two"]["p_value"] == 1
    assert rows["better", "bits"]["difference"] == -0.5 and rows["better", "bits"]["verdict"] is None
    average = rows["better", "average"]
    assert (average["value"], average["difference"]) == pytest.approx((0.5, 0.1))
    assert rows["plain", "one"]["baseline"] is None and rows["plain", "average"]["value"] == pytest.approx(0.4)
    assert "50.0% against 40.0% right, +10.0 points" in words
    assert "Better on 1 of 3 tasks: one (acc 0.500 against 0.300)." in words
    assert "Without an interval: bits (bits_per_byte 1.500 against 2.000)." in words
    assert "With one seed of each" in words


def test_a_group_counts_once_in_the_average():
    student = {
        "a": scored("a", [1, 1, 0, 0], named="group"),
        "b": scored("b", [1, 1, 1, 1], named="group"),
        "c": scored("c", [0, 0, 0, 1]),
    }
    table, _ = task_table({"one": student}, {"one": None})
    [average] = table.filter(task="average")["value"]
    assert average == pytest.approx(((0.5 + 1) / 2 + 0.25) / 2)


def test_other_documents_are_not_compared():
    other = TaskScore("one", "one", "acc", True, (1.0,), ("x", "y"), (np.array([1.0, 1.0]),))
    with pytest.raises(TaskError, match="task one: b and a were asked about other documents"):
        task_table({"a": {"one": scored("one", [1, 0])}, "b": {"one": other}}, {"a": None, "b": "a"})


def test_answers_pair_by_document_not_by_their_place(evaluated):
    _, pipeline, _ = evaluated
    pairs = [tuple(tables(pipeline, "plain", seed, name) for name in ("metrics", "answers")) for seed in (1, 2)]
    whole = score_of("mine", pairs)
    scrambled = score_of("mine", [(metrics, answers.reverse()) for metrics, answers in pairs])
    assert whole.documents == scrambled.documents
    assert [one.tolist() for one in whole.answers] == [one.tolist() for one in scrambled.answers]
    with pytest.raises(TaskError, match="task mine: the seeds were asked about other documents"):
        score_of("mine", [pairs[0], (pairs[1][0], pairs[1][1].filter(pl.col("doc_id") != 2))])


def test_the_definitions_load_without_the_harness(asked):
    before = set(sys.modules)
    open_pipeline(asked("mine", "held_out_cloze"))
    assert not {name for name in set(sys.modules) - before if name.startswith("lm_eval")}
