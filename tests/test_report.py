"""The report: its figures are those that are stored, it loads nothing, and what others wrote stays text."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args

import dagster as dg
import polars as pl
import pytest
from markupsafe import Markup

from miniplm_assets import cli
from miniplm_assets.assets.build import build_assets
from miniplm_assets.commands import report as report_command
from miniplm_assets.core.glossary import GLOSSARY
from miniplm_assets.core.paper import ACCURACY_PERCENT, AVERAGE_PERCENT, TASKS
from miniplm_assets.evaluation.comparison import comparison_table
from miniplm_assets.evaluation.differences import hold_all
from miniplm_assets.evaluation.plots import plot_difference_distribution
from miniplm_assets.evaluation.report.blocks import Column, Picture, Report, Section, Source, Table, Text, Texts, Words
from miniplm_assets.evaluation.report.characters import visible
from miniplm_assets.evaluation.report.charts import inline_svg
from miniplm_assets.evaluation.report.drawings import ROWS, Asset, asset_graph, column_lineage
from miniplm_assets.evaluation.report.outcome import differences_told, outcome
from miniplm_assets.evaluation.report.page import render
from miniplm_assets.evaluation.report.paper import paper_section
from miniplm_assets.evaluation.report.provenance import Spoken, checks_said
from miniplm_assets.evaluation.report.students import curves
from miniplm_assets.evaluation.report.told import StudentsTold
from miniplm_assets.evaluation.verdict import verdict
from miniplm_assets.experiment import load_experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.registry import PROJECT, all_kinds, open_pipeline
from miniplm_assets.kinds.report import REPORT
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.kind import Kind, Node
from miniplm_assets.lineage.kind import Section as Named
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.store import Store
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.test_evaluation import half, student
from tests.test_pipeline import example

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning"),
]

HOSTILE = "<script>alert(1)</script> ]]> &amp; \"'` {{ 7 * 7 }} {% raw %} -->"
# What ends no tag by itself; in HTML nothing stands between these and their next sibling.
VOID = {"meta", "br", "hr", "img", "input", "link", "rect", "path"}


class Page(HTMLParser):
    """A page as a reader's program sees it: tags, their attributes, text, and tables by their captions."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self.open = [], [], []
        self.tables, self.captions, self.style = {}, [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and "aria-label" in attributes:
            self.captions.append(attributes["aria-label"])
        if tag == "table":
            self.tables.setdefault(self.captions[-1], [])
        if tag == "tr":
            self.tables[self.captions[-1]].append([])
        if tag in ("td", "th") and self.captions:
            self.tables[self.captions[-1]][-1].append("")
        if tag == "data":
            self.tables[self.captions[-1]][-1][-1] = float(attributes["value"])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> ends something else"

    def handle_data(self, words):
        if "style" in self.open:
            self.style += words
            return
        self.words.append(words)
        if {"td", "th"} & set(self.open) and "data" not in self.open:
            row = self.tables[self.captions[-1]][-1]
            row[-1] += words if isinstance(row[-1], str) else ""

    @property
    def text(self):
        return "".join(self.words)

    def rows(self, caption):
        """The rows of a table by what heads them."""
        [name] = [name for name in self.tables if name.startswith(caption)]
        return {row[0]: row[1:] for row in self.tables[name]}


def materialise(path):
    pipeline = open_pipeline(path)
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(build_assets(pipeline), instance=instance).success
    return pipeline


def report_of(pipeline):
    return pipeline.store.require(pipeline.latest_fingerprints().recipe("report")).file("report.html")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A materialised experiment, a domain of which is called what no domain should be."""
    folder = tmp_path_factory.mktemp("report")
    write_shard(folder / "corpus" / "a.jsonl", MODULES[:2])
    with (folder / "corpus" / "a.jsonl").open("a", encoding="utf-8") as file:
        for number in range(12):
            text = f"{HOSTILE} {number} \u202e\x00 and so on. " * 12
            file.write(json.dumps({"text": text, "meta": {"source": HOSTILE}}) + "\n")
    content = json.loads(json.dumps(tiny_experiment(folder / "corpus", folder / "warehouse")))
    models = (content["teachers"]["large"]["model"], content["references"]["small"]["model"])
    for one in (*models, *content["students"].values()):
        one["training"]["token_budget"] = 2_000
    path = write_experiment(folder / "experiment.yaml", content)
    return path, content, materialise(path)


@pytest.fixture(scope="module")
def page(tiny):
    return Page(report_of(tiny[2]).read_text(encoding="utf-8"))


def stored(pipeline, key, name="*.parquet"):
    result = pipeline.store.require(pipeline.latest_fingerprints().recipe(key))
    return pl.concat(pl.read_parquet(path, glob=False) for path in result.matching(name))


def test_its_figures_are_those_that_are_stored(tiny, page):
    pipeline = tiny[2]
    told, trained = page.rows("Students, the lowest"), page.rows("Students: what they were trained on")
    rows = stored(pipeline, "comparison", "students.parquet").to_dicts()
    for row in rows:
        assert told[row["student"]][1] == row["validation_nll_nats_per_token"]
        seed, tokens, _, parameters, bits, with_noise = trained[row["student"]]
        assert (seed, tokens, parameters) == (str(row["seed"]), row["num_tokens"], row["num_parameters"])
        assert bits == row["bits_per_byte"] and with_noise != row["validation_nll_nats_per_token"]
    losses = {row["student"]: row["validation_nll_nats_per_token"] for row in rows}
    assert (
        told["miniplm"][2] == pytest.approx(losses["miniplm"] - losses["no_kd"])
        and told["no_kd"][0] == "all candidates"
    )
    [held] = stored(pipeline, "student_differences").to_dicts()
    assert f"({held['difference_low']:+.3f} to {held['difference_high']:+.3f})" in page.text
    costs = page.rows("What each student cost")
    for row in stored(pipeline, "ledger").iter_rows(named=True):
        expected = [row["num_seeds"], row["training_flops"], row["offline_flops"], row["offline_flops_share"]]
        assert costs[row["student"]][:4] == expected
    shares = page.rows("Domains before and after")
    shift = {row["domain"]: row for row in stored(pipeline, "half/domain_shift").iter_rows(named=True)}
    assert len(shares) == len(shift) + 1  # and the head
    for domain in ("code", "noise"):
        assert shares[domain][:2] == [shift[domain]["share_of_candidate_tokens"], shift[domain]["share_of_kept_tokens"]]
        assert shares[domain][-2:] == [shift[domain]["num_candidates"], shift[domain]["num_kept_tokens"]]
    facts = pipeline.store.require(pipeline.latest_fingerprints().recipe("documents")).facts
    counted = page.rows("The corpus, counted")
    assert counted["documents"][0] == facts["num_documents"]
    models = page.rows("Models")
    by_domain = pipeline.store.require(pipeline.latest_fingerprints().recipe("large/teacher_scores")).facts
    sums = [sums for domain, sums in by_domain["by_split_and_domain"]["validation"].items() if domain != "noise"]
    nll = -sum(one["logprob_nats"] for one in sums) / sum(one["num_scored_tokens"] for one in sums)
    assert models["large/teacher_model"][2] == pytest.approx(nll)


def test_it_names_every_result_that_it_rests_on(tiny, page):
    pipeline = tiny[2]
    fingerprints = pipeline.latest_fingerprints()
    told = page.rows("Every result that this report")
    expected = {key for key in pipeline.graph if key not in ("report", "warehouse_catalog")}
    assert told.keys() - {"asset"} == expected
    assert all(told[key][0] == fingerprints.recipe(key).fingerprint for key in expected)


def require_alone(page):
    """Nothing is loaded, nothing runs, every link leads somewhere, no two things have one id, every picture is told."""
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "data", "action")]
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert tag != "img" or attributes["alt"]
        for name in ("href", "xlink:href"):
            assert attributes.get(name, f"#{ids[0]}")[0] == "#" and attributes.get(name, f"#{ids[0]}")[1:] in ids
        referred = [*attributes.get("aria-labelledby", "").split(), *re.findall(r"url\(#(.*?)\)", str(attributes))]
        assert set(referred) <= set(ids)
        assert "url(" not in re.sub(r"url\(#", "", str(attributes))
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
    assert page.style and "@import" not in page.style and "url(" not in page.style
    policy = next(attributes for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'")


def test_it_says_what_its_words_mean(page):
    told = "\n".join(page.words)
    assert GLOSSARY["reference"] in told and ("a", {"href": "#words"}) in page.tags
    assert GLOSSARY["SeqKD"] not in told  # of which it does not speak


def test_it_loads_nothing(page):
    require_alone(page)
    assert page.open == []


def test_axes_have_their_units(page):
    told = "\n".join(page.words)
    for axis in (
        "tokens trained on (thousands)",
        "(nats per token)",
        "students that are trained",
        "candidate sequences",
    ):
        assert axis in told
    assert "difference: log p teacher - log p reference (nats per token);" in told


def test_a_picture_in_a_page_loses_no_stroke():
    bins = pl.DataFrame(
        {
            "bin_start_nats": [float(place) for place in range(6)],
            "bin_end_nats": [place + 1.0 for place in range(6)],
            "num_candidates": [1, 2, 3, 4, 5, 6],
            "num_kept": [0, 0, 0, 4, 5, 6],
        }
    )
    svg = plot_difference_distribution(bins, cutoff=3.0, unit="nats per token", picture="svg")
    shown = inline_svg(svg, name="a", title="t", about="d")
    strokes = re.compile("[MLzQC]")
    before, after = ("".join(re.findall(r' d="(.*?)"', text, re.DOTALL)) for text in (svg.decode(), str(shown)))
    assert strokes.findall(before) == strokes.findall(after) and len(after) < len(before)
    assert svg == plot_difference_distribution(bins, cutoff=3.0, unit="nats per token", picture="svg")
    assert inline_svg(svg, name="b", title="t", about="d") != shown


def test_what_others_wrote_stays_text(tiny, page):
    assert HOSTILE[:10] in page.text and "49" not in page.rows("Domains before and after")
    raw = report_of(tiny[2]).read_bytes()
    assert b"<script" not in raw and b"\x00" not in raw and "\u202e".encode() not in raw


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "a\x00b\x1b[31m",
        "\u202ereversed\u2066",
        "w" * 20_000,
        "\ufffd\ufffd",
        "half \ud800 a character",
        "\uffff",
    ],
)
def test_any_text_is_shown_as_text(text):
    lines = Table(caption=text, columns=[Column(text, text), Column(text)], rows=[[text, text]], note=text)
    blocks = [
        Words(text=text),
        lines,
        replace(lines, is_folded=True),
        Texts(caption=text, texts=[Text(text, text)], sources=[Source(text, text)], note=text),
        Picture(caption=text, svg=Markup("<svg role='img'></svg>"), note=text),
        Picture(
            caption=text,
            svg=asset_graph([Asset(key="a", kind=text, section="corpus", box=text, needs=[])], name="g", title=text),
        ),
        Picture(caption=text, svg=column_lineage(text, {text: [(text, text)]}, name="l", title=text)),
    ]
    part = Section(title=text, blocks=blocks)
    html = render(
        Report(title=text, subtitle=text, headline=text, outcome=blocks[:1], sections=[replace(part, sections=[part])])
    )
    html.encode("utf-8")
    page = Page(html)
    assert visible(text) in page.text and not re.search("[\x00\x1b\u202e\u2066\ud800\uffff]", html)
    assert "script" not in {tag for tag, _ in page.tags} and page.open == []


def test_the_same_results_make_the_same_bytes(tiny):
    path, _, pipeline = tiny
    file = report_of(pipeline)
    before = file.read_bytes()
    assert (pipeline.store.root / "report.html").read_bytes() == before
    pipeline.store.remove(pipeline.store.require(pipeline.latest_fingerprints().recipe("report")))
    assert report_of(materialise(path)).read_bytes() == before


def test_columns_are_followed_to_where_they_come_from(page):
    descriptions = [text for text in page.words if text.startswith("sequence_id from ")]
    [differences] = [text for text in descriptions if "rank_difference from" in text and "token_ids" not in text]
    assert "teacher_logprob_nats from large/teacher_scores.logprob_nats" in differences
    assert "domain from bpe/sequences.domain" in differences


def test_a_command_says_where_it_is(tiny, capsys, monkeypatch, tmp_path):
    path, content, pipeline = tiny
    opened = []
    monkeypatch.setattr(report_command.webbrowser, "open", lambda place: opened.append(place) or True)
    assert cli.main(["report", str(path), "--open"]) == 0
    where = capsys.readouterr().out.strip()
    assert where == str(pipeline.store.root / "report.html") and opened == [f"file://{where}"]
    assert cli.main(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": where, "caution": None}
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["outcome", str(path)]) == 0
    told = capsys.readouterr().out
    assert f"\nReport:     {where}\n" in told
    assert told.splitlines()[-1].endswith(f"-m miniplm_assets show half/refined_corpus {path}")
    assert all(len(line) <= 80 or "/" in line for line in told.splitlines())  # a path stays whole
    assert cli.main(["outcome", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["students"]
    assert {row["student"] for row in rows} == set(content["students"])
    other = write_experiment(tmp_path / "other.yaml", content | {"evaluation": {"excluded_domains": ["code"]}})
    assert cli.main(["report", str(other)]) == 2
    assert "report" in capsys.readouterr().err


def test_any_experiment_has_one(tiny):
    """On one warehouse, so that little is made anew."""
    path, content, _ = tiny

    def page_of(**changes):
        changed = {**json.loads(json.dumps(content)), **changes}
        page = Page(report_of(materialise(write_experiment(path.with_name("other.yaml"), changed))).read_text("utf-8"))
        require_alone(page)
        return page

    students = json.loads(json.dumps(content["students"]))
    drawn = {"score": "random", "tokenizer": "bpe", "keep_fraction": 0.25}
    alone = page_of(students={}, selections={"drawn": drawn, "usual": {**drawn, "score": "prior"}})
    assert "drawn keeps 25.0% of the candidate sequences" in alone.text
    assert "No student was trained" in alone.text and "not measured" in alone.text
    bare = page_of(students={}, selections={})
    assert "nothing was selected or trained" in bare.text
    students["miniplm"]["training"]["num_evaluations"] = 9
    warned = page_of(students=students)
    assert "1 of" in warned.captions[0] and warned.captions[0].endswith("checks did not pass")
    [found] = [row for row in warned.tables[warned.captions[0]] if row[0] == "comparison"]
    assert found[1:3] == ["students_are_measured_as_asked", "warns"] and "9 is asked for now" in found[3]
    students["miniplm"]["training"]["num_evaluations"] = 3
    for one in students.values():
        one.pop("baseline", None)
    unheld = page_of(students=students)
    assert unheld.rows("Students, the lowest")["miniplm"][-1] == "no baseline"
    assert "Held-out loss while the students learn: lower is better" in unheld.captions
    students["miniplm"] |= {"baseline": "no_kd", "seeds": [3, 4]}
    students["again"] = {**students["no_kd"], "baseline": "miniplm"}
    several = page_of(students=students, reporting={"paper": {"miniplm": "200M MiniPLM"}})
    assert several.rows("Zero-shot accuracy")["miniplm (here)"][0] == "not measured"
    assert len([name for name in several.captions if name.startswith("Held-out loss while")]) == 2
    assert several.rows("Students: what they were")["miniplm"][0] == "3, 4"
    assert several.rows("Students, the lowest")["student"][2:4] == ["against no_kd", "against miniplm"]


def test_kinds_that_it_does_not_know_are_shown_as_they_are_stored(tiny):
    path, content, _ = tiny

    def write_scores(draft):
        rows = {"task": ["piqa", "piqa", "mine"], "is_primary": [True, False, True], "value": [0.75, 0.5, 0.25]}
        pl.DataFrame(rows).write_parquet(draft.path / "metrics.parquet")
        (draft.path / "a_picture.png").write_bytes(b"not looked at")

    tasks = Kind(
        name="student_tasks",
        code_version="1",
        section="student",
        technologies=frozenset(),
        description="What a student scores.",
        nodes=lambda _: [Node(kind=tasks, names=("miniplm",), settings=Settings())],
        make=lambda work: work.make(write_scores),
        table="metrics.parquet",
        columns={"value": "over all documents"},
    )
    sql = load_sql_project(PROJECT / "dbt_like_sql")
    kinds = list(all_kinds(sql))
    kinds[kinds.index(REPORT) : kinds.index(REPORT)] = [example(1)["DOMAIN_TOKENS"], tasks]
    changed = {**content, "reporting": {"paper": {"miniplm": "200M MiniPLM"}}}
    experiment = load_experiment(write_experiment(path.with_name("more.yaml"), changed))
    pipeline = Pipeline(build_graph(kinds, experiment, sql), Store(path.parent / "warehouse"))
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(build_assets(pipeline), instance=instance).success
    page = Page(report_of(pipeline).read_text("utf-8"))
    kept = {row["domain"]: row["num_kept_tokens"] for row in stored(pipeline, "half/domain_shift").to_dicts()}
    told = page.rows("half: domain tokens")
    assert (told["code"], told["noise"]) == ([kept["code"]], [kept["noise"]])
    assert page.rows("miniplm: metrics")["mine"] == ["yes", 0.25]
    assert "What a student scores. 3 rows." in page.text
    require_alone(page)
    assert [one["alt"] for tag, one in page.tags if tag == "img"] == ["scaling_bpe.png", "a_picture.png"]
    ours = page.rows("Zero-shot accuracy")["miniplm (here)"]
    assert (ours[0], ours[1 + TASKS.index("piqa")]) == ("not measured", 75)


def with_sequences(one):
    runs = (replace(run, held_out=run.held_out.with_columns(num_sequences=pl.lit(7))) for run in one.runs)
    return replace(one, runs=tuple(runs))


def test_many_students_are_told_apart():
    names = [f"student_{number}" for number in range(30)]
    made = [student("plain", [5.0, 4.0, 3.0, 2.0], by_domain={"code": 2.0})]
    made += [
        student(name, [5.0, 4.0, 3.0, 1.5 + number / 30], by_domain={"code": 1.5 + number / 30}, selection=half())
        for number, name in enumerate(names)
    ]
    other = student("words", [1.0, 1.0], by_domain={"code": 1.0}, tokenizer="words")
    *made, other = (with_sequences(one) for one in [*made, other])
    sources = {one.name: Source(f"{one.name}/student_checkpoint", "0" * 32) for one in [*made, other]}
    told = StudentsTold(
        records={one.name: one for one in [*made, other]},
        table=comparison_table([*made, other], baseline="plain"),
        groups={"plain": [one.name for one in [*made, other]]},
        excluded_domains=(),
        verdict=verdict([*made, other], hold_all([*made, other], baseline="plain"), baseline="plain"),
        source=Source("comparison", "0" * 32),
        evaluations=sources,
        checkpoints=sources,
    )
    report = Report(title="many", subtitle="", headline="", outcome=list(outcome(told)), sections=[curves(told)])
    page = Page(render(report))
    require_alone(page)
    rows = page.rows("Students, the lowest")
    assert rows.keys() >= {*names, "plain", "words"}
    assert rows["words"][-1] == "other tokenizer" and rows["plain"][-1] == "is the baseline"
    assert rows["student_29"][-1] == "never there"  # 2.47 against 2
    assert sum("student_29" in words for words in page.words) > 2  # in the table, and beside its line


def test_the_papers_averages_are_those_of_its_tasks():
    for name, accuracies in ACCURACY_PERCENT.items():
        assert len(accuracies) == len(TASKS)
        assert sum(accuracies) / len(TASKS) == pytest.approx(AVERAGE_PERCENT[name], abs=0.1), name  # each is rounded


def test_the_paper_stands_beside_what_was_measured():
    ours = dict.fromkeys(TASKS, 0.5) | {"piqa": 0.95}
    repeated = {"plain": "200M no KD", "kd": "200M MiniLLM"}
    [table] = paper_section(repeated, {"plain": ours}, {}).blocks[1:]
    rows = {row[0]: [getattr(cell, "value", cell) for cell in row[1:]] for row in table.rows}
    assert rows["200M no KD (paper)"] == [39.9, 31.1, 32.4, 49.9, 27.6, 38.9, 23.1, 61.8, 36.4, 58.1]
    assert rows["plain (here)"][0] == pytest.approx(55) and rows["plain (here)"][7] == 95
    assert rows["200M MiniLLM (paper)"][0] == 39.0 and rows["kd (here)"][0] == "not measured"
    assert "Not measured here: kd." in table.note


def test_intervals_stand_beside_their_differences():
    row = {
        "student": "kd",
        "baseline": "plain",
        "unit": "nats_per_token",
        "num_seeds": 3,
        "baseline_num_seeds": 2,
        "num_sequences": 99,
        "difference": -0.25,
        "difference_low": -0.375,
        "difference_high": -0.125,
        "is_over_seeds": True,
        "outcome": "lower",
        "num_seeds_needed": 4,
        "tokens_saved_factor": 1.5,
        "tokens_saved_low": None,
        "tokens_saved_high": None,
    }
    told = differences_told(pl.DataFrame([row]), Source("student_differences", "0" * 32))
    texts = [getattr(cell, "text", cell) for cell in told.rows[0]]
    assert texts[:4] == ["kd against plain", "-0.250 nats a token", "-0.375 to -0.125", "lower"]
    assert texts[4:] == ["3 and 2 seeds, and text", "1.50 times fewer", "not measured", "4"]


def test_checks_that_spoke_up_are_named():
    one = Spoken(asset="a/b", check="c", passed=False, stops=False, found="too few", means="means")
    table = checks_said([one, replace(one, passed=True), replace(one, stops=True)])
    assert table.caption == "2 of 3 checks did not pass"
    assert table.rows[0] == ["a/b", "c", "warns", "too few", "means"] and table.rows[1][2] == "failed"
    assert checks_said([replace(one, passed=True)]).text == "All 1 checks that are stored, of 1 assets, passed."


def test_what_every_section_names_has_a_place_in_the_drawing() -> None:
    assert sorted(section for row in ROWS for section in row) == sorted(get_args(Named))
