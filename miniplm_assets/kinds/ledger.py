"""`ledger` and `break_even`: what students cost with all that was made before them, and who is cheaper from when on."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from miniplm_assets.evaluation.comparison import StudentRecord
from miniplm_assets.evaluation.ledger import Offline, break_even_table, ledger_in_words, ledger_table
from miniplm_assets.evaluation.student_plots import plot_break_even
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.engines import MODEL
from miniplm_assets.kinds.ledger_page import break_even_page, ledger_page
from miniplm_assets.kinds.student_checkpoint import checkpoint_key
from miniplm_assets.kinds.student_records import keys_of_student, read_student
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.stored_parameters import count_stored_parameters
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "ledger.parquet"
PAIRS: Final = "break_even.parquet"


class Account(Settings):
    """Whose cost is told.

    Attributes:
        corpora: what each student learnt from, as the file names it.
        tokenizers: of each student.
        offline: keys of what was made before each student, and took FLOPs.
        baselines: of the students that have one.
        excluded_domains: left out of the losses along the way.
    """

    corpora: dict[str, str]
    tokenizers: dict[str, str]
    offline: dict[str, tuple[str, ...]]
    baselines: dict[str, str]
    excluded_domains: tuple[str, ...] = ()

    def all_offline(self) -> list[str]:
        """Return the keys of what was made before any student, each once."""
        return list(dict.fromkeys(key for keys in self.offline.values() for key in keys))


def _account(experiment: Experiment, graph: Mapping[str, Node[Any]]) -> Account:
    return Account(
        corpora={name: student.corpus for name, student in experiment.students.items()},
        tokenizers={name: student.tokenizer for name, student in experiment.students.items()},
        offline={
            name: tuple(key for key in _before(graph, checkpoint_key(name)) if graph[key].kind.spent_flops is not None)
            for name in experiment.students
        },
        baselines={
            name: student.baseline for name, student in experiment.students.items() if student.baseline is not None
        },
        excluded_domains=experiment.evaluation.excluded_domains,
    )


def _before(graph: Mapping[str, Node[Any]], key: str) -> list[str]:
    """Return the keys of all that went into an asset, in the order of the graph.

    The gates of its own selection are among them; those that another selection by the same models asks for are not.
    """
    needed: set[str] = set()
    waiting = {*graph[key].inputs.values()}
    while waiting:
        needed |= waiting
        selections = {graph[one].names for one in needed if graph[one].kind.section == "selection"}
        gates = {gate for one in needed for gate in graph[one].gates if graph[gate].names in selections}
        waiting = {before for one in waiting for before in graph[one].inputs.values()} | gates
        waiting -= needed
    return [one for one in graph if one in needed]


def _nodes(blueprint: Blueprint) -> Iterator[Node[Account]]:
    graph = {node.key: node for node in blueprint.nodes}
    account = _account(blueprint.experiment, graph)
    if not account.baselines:
        return
    keys = [key for name in account.corpora for key in keys_of_student(name)]
    for key in account.all_offline():
        keys += [key, *([graph[key].inputs[MODEL]] if MODEL in graph[key].inputs else [])]
    yield Node(kind=LEDGER, inputs={key: key for key in keys}, settings=account)


def _students(work: Work[Account]) -> list[StudentRecord]:
    account = work.settings
    return [
        read_student(work, name, corpus=corpus, tokenizer=account.tokenizers[name])
        for name, corpus in account.corpora.items()
    ]


def _offline(work: Work[Account]) -> Iterator[Offline]:
    account = work.settings
    for key in account.all_offline():
        node = work.input_node(key)
        model = node.inputs.get(MODEL)
        num_parameters = None if model is None else count_stored_parameters(work.input(model).folder)
        assert node.kind.spent_flops is not None, "else it is none of the account"
        flops = node.kind.spent_flops(work.input(key).facts, num_parameters)
        if flops is not None:
            users = frozenset(name for name, keys in account.offline.items() if key in keys)
            yield Offline(asset=key, flops=flops, students=users)


def _make(work: Work[Account]) -> Result:
    """Add up what each student took, and what was made before it."""

    def write(draft: Draft) -> None:
        table = ledger_table(_students(work), list(_offline(work)))
        table.write_parquet(draft.path / TABLE)
        draft.facts = {"num_students": table.height}

    return work.make(write)


def _break_even_nodes(blueprint: Blueprint) -> Iterator[Node[Account]]:
    for ledger in blueprint.nodes:
        if ledger.kind is LEDGER:
            students = [key for name in ledger.settings.corpora for key in keys_of_student(name)]
            yield Node(
                kind=BREAK_EVEN,
                inputs={LEDGER.name: ledger.key, **{key: key for key in students}},
                settings=ledger.settings,
            )


def _make_break_even(work: Work[Account]) -> Result:
    """Say from how many students on each way is cheaper than each other."""
    account = work.settings

    def write(draft: Draft) -> None:
        [ledger_file] = work.input_tables(LEDGER.name)
        ledger = pl.read_parquet(ledger_file, glob=False)
        students = _students(work)
        table = break_even_table(students, ledger, excluded_domains=account.excluded_domains)
        table.write_parquet(draft.path / PAIRS)
        for baseline in sorted(set(account.baselines.values())):
            picture = plot_break_even(table, ledger, baseline=baseline)
            (draft.path / f"cost_to_the_loss_of_{baseline}.png").write_bytes(picture)
        draft.facts = {"verdict": ledger_in_words(ledger, table, account.baselines.items())}
        work.report(draft.facts["verdict"])

    return work.make(write)


LEDGER = Kind(
    name="ledger",
    code_version="1",
    section="reports",
    technologies=frozenset({"parquet"}),
    description="""One row for each student: the FLOPs of its training, and its part of what was made before it.

Teacher and reference scored the corpus, and were trained where that happened here; a gate's scores count too. What
several students use is shared by them. Attention over the context is left out, as in arXiv 2001.08361.""",
    nodes=_nodes,
    make=_make,
    page=ledger_page,
    table=TABLE,
    columns={
        "student": "its name",
        "corpus": "what it learnt from",
        "num_seeds": "how many models were trained",
        "num_tokens": "that each was trained on",
        "training_flops": "of one seed, the mean over them",
        "offline_flops": "of all that was made before",
        "offline_flops_share": "of that, with each divided by the students that use it",
        "flops": "training_flops and offline_flops_share",
        "offline_assets": "what was made before, by asset key",
    },
)
BREAK_EVEN = Kind(
    name="break_even",
    code_version="3",
    section="reports",
    technologies=frozenset({"parquet", "matplotlib"}),
    description="""One row for each pair of students: from how many students on the one is the cheaper way to the loss
that the other ends with.

What was made before is paid once, training for each student. Where some seed never reached that loss, nothing is said
of its cost.""",
    nodes=_break_even_nodes,
    make=_make_break_even,
    page=break_even_page,
    table=PAIRS,
    columns={
        "student": "its name",
        "opponent": "whose final loss is to be reached",
        "loss_nats_per_token": "that loss, on the sample that is measured along the way, the mean of the seeds",
        "num_seeds": "of the student",
        "num_seeds_reached": "those that reached it",
        "training_flops": "until then, the mean of the seeds; empty where not all reached it",
        "opponent_training_flops": "of the opponent's whole training",
        "offline_flops": "of all that was made before the student",
        "opponent_offline_flops": "of all that was made before the opponent",
        "cheaper_from_students": "from so many on the student's way is the cheaper one; empty where it never is",
        "cheaper_up_to_students": "up to so many; empty where it has no end",
        "cheaper_from_tokens": "cheaper_from_students times the opponent's tokens",
        "outcome": "in words",
    },
)
