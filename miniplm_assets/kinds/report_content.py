"""What the report says, read from the stored results of everything that was made before it."""

from collections.abc import Iterator
from typing import Final

from pydantic import Field

from miniplm_assets.core.paper import PaperStudent
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.evaluation.comparison import by_baseline, comparison_table
from miniplm_assets.evaluation.report.blocks import Block, Picture, Report, Section, Table, Words
from miniplm_assets.evaluation.report.corpus import CorpusTold, ModelTold, corpus_section, models_section
from miniplm_assets.evaluation.report.drawings import Asset, asset_graph
from miniplm_assets.evaluation.report.outcome import differences_told, outcome
from miniplm_assets.evaluation.report.paper import paper_section
from miniplm_assets.evaluation.report.provenance import checks_said, provenance_section, reading_section
from miniplm_assets.evaluation.report.students import costs, curves, how_made, pays_said
from miniplm_assets.evaluation.report.told import StudentsTold, headline
from miniplm_assets.evaluation.verdict import unheld
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.comparison import COMPARISON
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.engines import MODEL
from miniplm_assets.kinds.ledger import BREAK_EVEN, LEDGER, PAIRS, TABLE
from miniplm_assets.kinds.models import model_key
from miniplm_assets.kinds.report_inputs import Inputs
from miniplm_assets.kinds.report_selections import KNOWN_OF_A_SELECTION, selection_said, selections_section
from miniplm_assets.kinds.scores import WHO
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.kinds.student_checkpoint import STUDENT_CHECKPOINT, checkpoint_key
from miniplm_assets.kinds.student_evaluation import STUDENT_EVALUATION, evaluation_key
from miniplm_assets.kinds.student_records import read_student
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.outcome import STUDENTS
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import mean_nll
from miniplm_assets.lm.stored_parameters import count_stored_parameters

PROFILE: Final = "corpus_profile"
# What students score on tasks, where an experiment has any.
TASKS: Final = "student_tasks"
# How sure the differences of students are, where an experiment has it.
DIFFERENCES: Final = "student_differences"
SCALING: Final = "scaling_laws"
SCALING_TITLE: Final = "Where the losses lead"
# What is shown as it is stored stands under these, by what the experiment file names it after.
TITLES: Final = {
    "tasks": "What students score on tasks",
    "student": "What students score on tasks",
    "text": "Other text",
    "generation": "What teachers wrote",
    "corpus": "More of the corpus",
    "reports": "Further measurements",
}
# What has a place of its own in the report; of anything else, its small tables are shown as they are.
KNOWN: Final = KNOWN_OF_A_SELECTION | {
    *(RAW_CORPUS, DOCUMENTS.name, COMPARISON.name, LEDGER.name, BREAK_EVEN.name),
    *(STUDENT_CHECKPOINT.name, STUDENT_EVALUATION.name, DIFFERENCES),
}


class ReportedStudent(Settings):
    """What is said of a student.

    Attributes:
        corpus: that it learnt from, as the file names it.
        tokenizer: losses per token are compared within one alone.
        baseline: the student that it is held against.
        about: what it learns from and how, in words.
        made: how it was trained, in words.
    """

    corpus: str
    tokenizer: str
    baseline: str | None = None
    about: str
    made: dict[str, str]


class Reported(Settings):
    """All that is said beside what is stored.

    Attributes:
        corpus: where it is from, in words.
        excluded_domains: left out of the losses.
        wiring: a digest of which asset each one reads in which role; the graph itself says it.
        sources: where tokenizers and models are from, in words.
        selections: the settings of each selection, in words.
        paper: the paper's student that each of some repeats.
        students: every student.
    """

    corpus: str
    excluded_domains: tuple[str, ...] = ()
    wiring: str
    sources: dict[str, str]
    selections: dict[str, dict[str, str]]
    paper: dict[str, PaperStudent] = Field(default_factory=dict)
    students: dict[str, ReportedStudent]


def report_of(work: Work[Reported]) -> Report:
    """Return the report on all that is stored."""
    told, inputs = work.settings, Inputs(work)
    students = _students(work, inputs) if told.students else None
    sections = [
        *_student_sections(work, inputs, students),
        *_other_reports(inputs),
        _paper(told, inputs),
        selections_section(inputs, told.selections, told.sources),
        corpus_section(_corpus(told, inputs)),
        models_section(
            list(_models(work, inputs, students)),
            how_made({name: one.made for name, one in told.students.items()}, students.checkpoints)
            if students
            else None,
        ),
        provenance_section(inputs.made(), [_graph(inputs)]),
        reading_section(),
    ]
    checks = checks_said(inputs.checks())
    said = headline(students.verdict) if students else _headline_without_students(told, inputs)
    first = list(outcome(students) if students else _without_students(told, inputs))
    place = next((place for place, block in enumerate(first) if not isinstance(block, Words)), len(first))
    if isinstance(checks, Table):  # right under the outcome: a reader must not miss what spoke up
        place = 0
    return Report(
        title=_title(told),
        subtitle=f"Corpus: {told.corpus}",
        headline=said,
        outcome=[*first[:place], checks, *first[place:]],
        sections=[section for section in sections if section is not None],
        fingerprint=work.recipe.fingerprint,
    )


def _title(told: Reported) -> str:
    held = [(name, one.baseline) for name, one in told.students.items() if one.baseline is not None]
    if len(held) == 1:
        return f"{held[0][0]} against {held[0][1]}"
    counts = ((len(told.students), "student"), (len(told.selections), "selection"))
    said = [f"{number} {what}{'s' if number > 1 else ''}" for number, what in counts if number]
    return " and ".join(said) or "A corpus"


def _without_students(told: Reported, inputs: Inputs) -> Iterator[Block]:
    others = [selection_said(inputs, name) for name in list(told.selections)[1:]]
    if told.selections:
        yield Words(
            text="\n\n".join([*others, "No student was trained, so that it was not measured whether this helps."])
        )


def _headline_without_students(told: Reported, inputs: Inputs) -> str:
    if not told.selections:
        return "The corpus was read; nothing was selected or trained."
    return selection_said(inputs, next(iter(told.selections)))


def _students(work: Work[Reported], inputs: Inputs) -> StudentsTold:
    told = work.settings
    records = {
        name: read_student(work, name, corpus=one.corpus, tokenizer=one.tokenizer)
        for name, one in told.students.items()
    }
    source = inputs.source(COMPARISON.name) if COMPARISON.name in inputs else None
    if source is None:
        table = comparison_table(list(records.values()), baseline=None, excluded_domains=told.excluded_domains)
        said, more = "\n\n".join(map(unheld, records.values())), []
    else:
        table, said = inputs.table(COMPARISON.name, STUDENTS), inputs.facts(COMPARISON.name)["verdict"]
        more = inputs.tables(COMPARISON.name, beside=[STUDENTS], is_folded=False)
    return StudentsTold(
        records=records,
        table=table,
        groups=by_baseline({name: one.baseline for name, one in told.students.items()}),
        excluded_domains=told.excluded_domains,
        verdict=said,
        source=source,
        evaluations={name: inputs.source(evaluation_key(name)) for name in records},
        checkpoints={name: inputs.source(checkpoint_key(name)) for name in records},
        differences=differences_told(inputs.table(DIFFERENCES), inputs.source(DIFFERENCES))
        if DIFFERENCES in inputs
        else None,
        more=more,
        about={name: one.about for name, one in told.students.items()},
        pays=" ".join(pays_said(inputs.facts(BREAK_EVEN.name)["verdict"])) if BREAK_EVEN.name in inputs else "",
    )


def _student_sections(work: Work[Reported], inputs: Inputs, students: StudentsTold | None) -> Iterator[Section | None]:
    if students is None:
        return
    yield curves(students)
    if LEDGER.name in inputs:
        yield costs(
            inputs.table(LEDGER.name, TABLE),
            inputs.table(BREAK_EVEN.name, PAIRS),
            words=inputs.facts(BREAK_EVEN.name)["verdict"],
            baselines={one.baseline for one in work.settings.students.values() if one.baseline is not None},
            styles=students.styles,
            seconds=inputs.seconds(),
            sources=[inputs.source(LEDGER.name), inputs.source(BREAK_EVEN.name)],
        )


def _paper(told: Reported, inputs: Inputs) -> Section | None:
    keys = {name: key for name in told.paper if (key := key_of(TASKS, name)) in inputs}
    return paper_section(
        told.paper,
        {name: inputs.accuracies(key) for name, key in keys.items()},
        {name: inputs.source(key) for name, key in keys.items()},
    )


def _corpus(told: Reported, inputs: Inputs) -> CorpusTold:
    packed = [key for key in inputs.assets if inputs.kind(key) == SEQUENCES.name]
    # Of one tokenizer the same, whichever selection has it.
    profile_key = next((key for key in inputs.assets if inputs.kind(key) == PROFILE), "")
    keys = [RAW_CORPUS, DOCUMENTS.name, *packed, *([profile_key] if profile_key else [])]
    return CorpusTold(
        words=told.corpus,
        files=inputs.facts(RAW_CORPUS),
        documents=inputs.facts(DOCUMENTS.name),
        sequences={key: inputs.facts(key) for key in packed},
        profile=inputs.table(profile_key) if profile_key else None,
        sources={key: inputs.source(key) for key in keys},
        profile_key=profile_key,
    )


def _models(work: Work[Reported], inputs: Inputs, students: StudentsTold | None) -> Iterator[ModelTold]:
    told = work.settings
    for who in WHO:
        for key in inputs.assets:
            name = key.partition("/")[0]
            if key == model_key(who, name):
                yield _scored_model(work, inputs, key, told.sources[f"{who} {name}"])
    for name, record in (students.records if students else {}).items():
        total = record.runs[0].held_out.filter("is_total").row(0, named=True)
        yield ModelTold(
            key=name,
            words=f"a student on {record.corpus}; {told.students[name].made.get('architecture', '')}",
            num_parameters=record.num_parameters,
            num_tokens=record.num_tokens,
            held_out=[run.overall("nll_nats_per_token") for run in record.runs],
            measured_on=f"{total['num_sequences']:,} sequences, {total['domain']}",
            source=inputs.source(checkpoint_key(name)),
        )


def _scored_model(work: Work[Reported], inputs: Inputs, key: str, words: str) -> ModelTold:
    facts = inputs.facts(key)
    held_out: list[float] = []
    measured_on = ""
    for scores, node in inputs.assets.items():
        if node.inputs.get(MODEL) != key:
            continue
        domains = inputs.facts(scores).get("by_split_and_domain", {}).get(VALIDATION, {})
        nll = mean_nll(domains, excluded_domains=work.settings.excluded_domains)
        if nll is not None:
            counted = [sums for domain, sums in domains.items() if domain not in work.settings.excluded_domains]
            num_sequences = sum(sums["num_sequences"] for sums in counted)
            held_out, measured_on = [nll], f"{num_sequences:,} sequences, of {scores}"
            break
    return ModelTold(
        key=key,
        words=words,
        num_parameters=facts.get("num_parameters") or count_stored_parameters(work.input(key).folder),
        num_tokens=facts.get("num_tokens"),
        held_out=held_out,
        measured_on=measured_on,
        source=inputs.source(key),
    )


def _other_reports(inputs: Inputs) -> Iterator[Section]:
    """Return what the report knows nothing of, and that is small enough to be shown as it is."""
    told: dict[str, list[Block]] = {}
    for key in inputs.assets:
        title = SCALING_TITLE if inputs.kind(key) == SCALING else TITLES.get(inputs.section(key))
        if title is not None and inputs.kind(key) not in KNOWN:
            blocks = told.setdefault(title, [])
            said = inputs.facts(key).get("verdict")
            if isinstance(said, str):
                blocks.append(Words(text=said.replace("**", "")))
            blocks += [*inputs.tables(key), *inputs.pictures(key)]
    for title in dict.fromkeys([SCALING_TITLE, *TITLES.values()]):
        if told.get(title):
            yield Section(title=title, blocks=told[title])


def _graph(inputs: Inputs) -> Picture:
    assets = [
        Asset(
            key=key,
            kind=node.kind.name,
            section=node.kind.section,
            box=node.group,
            needs=node.needs,
        )
        for key, node in inputs.assets.items()
    ]
    title = "What leads to what: a box for each thing that the experiment names"
    return Picture(
        caption=title,
        svg=asset_graph(assets, name="graph", title=title),
        note=f"{len(assets)} assets. An arrow that a path of others stands for is left out, and so is this report, "
        "which reads all of them.",
        is_wide=True,
    )
