"""`report`: all that an experiment found as one HTML file, to be sent to somebody who has nothing else."""

from collections.abc import Iterator
from typing import Final

from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.evaluation.report.page import render
from miniplm_assets.experiment import Experiment, Selection
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.origin_words import corpus_words, in_words, source_words
from miniplm_assets.kinds.parameters import seed_of
from miniplm_assets.kinds.placing import place_latest
from miniplm_assets.kinds.report_content import Reported, ReportedStudent, report_of
from miniplm_assets.kinds.student_checkpoint import checkpoint_key
from miniplm_assets.kinds.student_words import student_words
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.outcome import REPORT as NAME
from miniplm_assets.lineage.outcome import REPORT_FILE
from miniplm_assets.lineage.page import Page, bytes_in_words
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

# What a person asks of a selection; in the order of the answer.
TOLD_SETTINGS: Final = (
    *("score", "rank_by", "order", "scale_correction", "unwanted_domains", "temperature", "within", "pre_filter"),
    *("teacher", "reference", "tokenizer", "keep_fraction", "token_budget"),
)


def _nodes(blueprint: Blueprint) -> Iterator[Node[Reported]]:
    experiment, nodes = blueprint.experiment, blueprint.nodes
    graph = {node.key: node for node in nodes}
    yield Node(
        kind=REPORT,
        inputs={node.key: node.key for node in nodes},
        settings=Reported(
            corpus=corpus_words(graph[RAW_CORPUS].settings.source),
            excluded_domains=experiment.evaluation.excluded_domains,
            wiring=fingerprint_of({node.key: [dict(node.inputs), list(node.gates)] for node in nodes}),
            sources=source_words(nodes),
            selections={name: _words_of(experiment, selection) for name, selection in experiment.selections.items()},
            paper=experiment.reporting.paper,
            students={
                name: ReportedStudent(
                    corpus=student.corpus,
                    tokenizer=student.tokenizer,
                    baseline=student.baseline,
                    about=student_words(experiment, student),
                    made=_schooling(graph[checkpoint_key(name)].settings),
                )
                for name, student in experiment.students.items()
            },
        ),
    )


def _words_of(experiment: Experiment, selection: Selection) -> dict[str, str]:
    values = {name: getattr(selection, name) for name in TOLD_SETTINGS} | {"seed": seed_of(experiment, selection)}
    told = {name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}
    return {name: words for name, words in told.items() if words not in ("None", "none", "")}


def _schooling(settings: Settings) -> dict[str, str]:
    said = settings.identity()
    return {name: in_words(said[name]) for name in ("architecture", "training") if said.get(name)} | {
        "objective": in_words({"type": "cross_entropy"} | said.get("objective", {}))
    }


def _make(work: Work[Reported]) -> Result:
    """Write the report, and put a copy of the latest at the top of the warehouse."""

    def write(draft: Draft) -> None:
        report = report_of(work)
        page = render(report)
        (draft.path / REPORT_FILE).write_text(page, encoding="utf-8")
        draft.facts = {"outcome": report.headline, "num_page_bytes": len(page.encode())}

    result = work.make(write)
    place_latest(work, REPORT_FILE)
    work.report(f"report: {work.pipeline.store.root / REPORT_FILE}")
    return result


def _page(work: Work[Reported], result: Result) -> Page:
    outcome, size = result.facts["outcome"], bytes_in_words(result.facts["num_page_bytes"])
    here = work.pipeline.store.root / REPORT_FILE
    return Page(outcome={"outcome": outcome, "read it": f"{here} ({size}), with any browser; it loads nothing"})


REPORT = Kind(
    name=NAME,
    code_version="3",
    section="reports",
    technologies=frozenset({"html"}),
    description="""`report.html`: all that this experiment found, as one file that can be sent to somebody.

The outcome and its numbers, curves, costs, what each selection kept and how, the corpus, the models, and what all of
it rests on. It loads nothing, holds no script, prints, and is read on a phone. A copy lies at the top of the
warehouse.""",
    nodes=_nodes,
    make=_make,
    page=_page,
)
