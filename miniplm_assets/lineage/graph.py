"""The graph of an experiment: for each asset its inputs, the settings that it reads, its code version.

It follows from the experiment file and the SQL alone, so that it is known without a corpus, a network
or a heavy library. Dagster's dependencies, the fingerprints and the plan are all read off it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.splits import REFERENCE, TEACHER
from miniplm_assets.experiment import (
    Agreement,
    DemoSource,
    Experiment,
    FolderModel,
    FolderTokenizer,
    ModelSource,
    Pilot,
    Rescoring,
    Scored,
    Scoring,
    Selection,
    TrainedModel,
    TrainedTokenizer,
)
from miniplm_assets.storage.sql_project import SqlProject

RAW_CORPUS: Final = "raw_corpus"

# Raised whenever a step would give another result for the same input. To that of `selection`, each SQL model adds
# one of its own.
CODE_VERSIONS: Final[Mapping[str, str]] = {
    "demo_corpus": "1",
    RAW_CORPUS: "1",
    "documents": "1",
    "tokenizer": "1",
    "sequences": "1",
    "teacher_model": "2",
    "reference_model": "2",
    "pilot_teacher_scores": "2",
    "pilot_reference_scores": "2",
    "pilot": "1",
    "teacher_scores": "3",
    "reference_scores": "3",
    "selection": "1",
    "second_teacher_scores": "2",
    "second_reference_scores": "2",
    "score_agreement": "1",
    "rescored_teacher_scores": "2",
    "rescored_reference_scores": "2",
    "student_checkpoint": "2",
    "student_evaluation": "2",
    "comparison": "1",
    "warehouse_catalog": "1",
}
EVERY_SHARD: Final = ("*",)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One asset, before anything is known of the corpus.

    Attributes:
        key: its asset key, the parts joined by "/".
        inputs: the key of each input, by the role that it plays.
        settings: what it reads of the experiment file, JSON values.
        code_version: of its step.
        is_by_shard: whether each corpus file has a fingerprint of its own in it.
        shards: patterns of the corpus files that it reads, where its inputs are by shard.
        folder: a local folder whose content goes into it.
        gates: keys of assets whose checks must pass first, and which are no part of its result.
    """

    key: str
    code_version: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_by_shard: bool = False
    shards: tuple[str, ...] = EVERY_SHARD
    folder: Path | None = None
    gates: tuple[str, ...] = ()

    @property
    def step(self) -> str:
        """The kind of asset: the first part of the key."""
        return self.key.partition("/")[0]

    @property
    def is_stored_by_shard(self) -> bool:
        """Whether each corpus file has a stored result of its own; `raw_corpus` lists them all in one."""
        return self.is_by_shard and self.key != RAW_CORPUS

    @property
    def name(self) -> str:
        """What the experiment file calls it: the rest of the key."""
        return self.key.partition("/")[2]


def build_graph(experiment: Experiment, sql: SqlProject) -> dict[str, Node]:
    """Return every node of an experiment by its key, inputs before what needs them."""
    return {node.key: node for node in _nodes(experiment, sql)}


def _nodes(experiment: Experiment, sql: SqlProject) -> Iterator[Node]:
    tables = []
    for node in _table_nodes(experiment, sql):
        tables.append(node.key)
        yield node
    yield _node(
        "warehouse_catalog",
        inputs={key: key for key in tables if not key.startswith("tokenizer/")},
        settings={"warehouse": experiment.warehouse},  # its views name files by their place
    )


def _table_nodes(experiment: Experiment, sql: SqlProject) -> Iterator[Node]:
    yield from _corpus_nodes(experiment)
    scored = {"teacher": experiment.teachers, "reference": experiment.references}
    for who, split in (("teacher", TEACHER), ("reference", REFERENCE)):
        for name, model in scored[who].items():
            yield _model_node(experiment, f"{who}_model/{name}", model, split)
    if experiment.pilot is not None:
        yield from _pilot_nodes(experiment, experiment.pilot)
    for who, models in scored.items():
        for name, model in models.items():
            yield _scores_node(
                f"{who}_scores/{name}", who, name, model, model.scoring, gates=_pilots(experiment, who, name)
            )
    for name in sorted(experiment.selections, key=lambda name: experiment.selections[name].rescoring is not None):
        yield from _selection_nodes(experiment, sql, name)
    yield from _student_nodes(experiment)


def _corpus_nodes(experiment: Experiment) -> Iterator[Node]:
    corpus = experiment.corpus
    source = corpus.source
    listed: dict[str, Any] = {"source": source.identity()}
    if isinstance(source, DemoSource):
        listed["warehouse"] = experiment.warehouse  # where its files are written
    yield _node(RAW_CORPUS, settings=listed, is_by_shard=True)
    yield _node(
        "documents",
        inputs={RAW_CORPUS: RAW_CORPUS},
        settings={
            # The files' content is in the input's fingerprint; of the source only how they are read counts.
            "format": "jsonl" if isinstance(source, DemoSource) else source.type,
            "fields": corpus.fields.identity(),
            "splits": corpus.splits.identity(),
            "seed": experiment.seed,
        },
        is_by_shard=True,
    )
    for name, tokenizer in experiment.tokenizers.items():
        match tokenizer:
            case TrainedTokenizer():
                yield _node(
                    f"tokenizer/{name}",
                    inputs={"documents": "documents"},
                    settings={"vocab_size": tokenizer.vocab_size},
                    shards=tokenizer.shards,
                )
            case FolderTokenizer():
                yield _node(f"tokenizer/{name}", settings={"source": "folder"}, folder=Path(tokenizer.path))
            case _:
                yield _node(f"tokenizer/{name}", settings=tokenizer.identity())
        yield _node(
            f"sequences/{name}",
            inputs={"documents": "documents", "tokenizer": f"tokenizer/{name}"},
            settings=experiment.sequences.identity(),
            is_by_shard=True,
        )


def _model_node(experiment: Experiment, key: str, scored: Scored, split: str) -> Node:
    model: ModelSource = scored.model
    match model:
        case TrainedModel():
            return _node(
                key,
                inputs={"sequences": f"sequences/{scored.tokenizer}", "tokenizer": f"tokenizer/{scored.tokenizer}"},
                settings={
                    "architecture": experiment.architectures[model.architecture],
                    "training": model.training.identity(),
                    "evaluation": experiment.evaluation.identity(),
                    "split": split,
                    "seed": experiment.seed,
                },
                shards=model.shards,
            )
        case FolderModel():
            return _node(key, settings={"source": "folder"}, folder=Path(model.path))
        case _:
            return _node(key, settings=model.identity())


def _scores_node(
    key: str,
    who: str,
    model_name: str,
    model: Scored,
    scoring: Scoring,
    *,
    inputs: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    gates: tuple[str, ...] = (),
) -> Node:
    """Return the node of scores under a teacher or reference: `who`."""
    return _node(
        key,
        inputs={
            "model": f"{who}_model/{model_name}",
            "sequences": f"sequences/{model.tokenizer}",
            "tokenizer": f"tokenizer/{model.tokenizer}",
            **(inputs or {}),
        },
        settings={**scoring.identity(), **(settings or {})},
        is_by_shard=True,
        gates=gates,
    )


def _pilot_nodes(experiment: Experiment, pilot: Pilot) -> Iterator[Node]:
    sample = {"share": pilot.share, "seed": experiment.seed}
    for who, models in (("teacher", experiment.teachers), ("reference", experiment.references)):
        for name, model in models.items():
            yield _scores_node(
                f"pilot_{who}_scores/{name}", who, name, model, model.scoring.by(None, None), settings=sample
            )
    for name, selection in experiment.selections.items():
        yield _node(
            f"pilot/{name}",
            inputs={
                "sequences": f"sequences/{experiment.selection_tokenizer(name)}",
                "teacher_scores": f"pilot_teacher_scores/{selection.teacher}",
                "reference_scores": f"pilot_reference_scores/{selection.reference}",
            },
            settings={**selection_parameters(experiment, name), "pilot": pilot.identity()},
        )


def _pilots(experiment: Experiment, who: str, name: str) -> tuple[str, ...]:
    """Return the pilots that a model's scores wait for."""
    if experiment.pilot is None:
        return ()
    return tuple(f"pilot/{one}" for one, selection in experiment.selections.items() if getattr(selection, who) == name)


def _selection_nodes(experiment: Experiment, sql: SqlProject, name: str) -> Iterator[Node]:
    selection = experiment.selections[name]
    if selection.rescoring is not None:
        yield from _rescored_nodes(experiment, name, selection, selection.rescoring)
    tables = {
        "documents": "documents",
        "sequences": f"sequences/{experiment.selection_tokenizer(name)}",
        "teacher_scores": selection_scores(experiment, name, "teacher"),
        "reference_scores": selection_scores(experiment, name, "reference"),
        **{model.name: f"{model.name}/{name}" for model in sql.marts},
    }
    parameters = selection_parameters(experiment, name)
    for model in sql.marts:
        is_gated = model.name == "refined_corpus" and selection.agreement is not None
        yield Node(
            key=f"{model.name}/{name}",
            code_version=f"{CODE_VERSIONS['selection']}-{model.code_version}",
            inputs={role: tables[role] for role in model.inputs},
            settings={parameter: parameters[parameter] for parameter in sorted(model.parameters)},
            gates=(f"score_agreement/{name}",) if is_gated else (),
        )
    if selection.agreement is not None:
        yield from _agreement_nodes(experiment, name, selection.agreement)


def scored_model(experiment: Experiment, node: Node) -> Scored:
    """Return the teacher or reference whose scores a node holds."""
    who, _, name = node.inputs["model"].partition("_model/")
    return (experiment.teachers if who == "teacher" else experiment.references)[name]


def selection_scores(experiment: Experiment, name: str, who: str) -> str:
    """Return the key of the teacher's or the reference's scores that a selection ranks by."""
    selection = experiment.selections[name]
    if selection.rescoring is not None:
        return f"rescored_{who}_scores/{name}"
    return f"{who}_scores/{getattr(selection, who)}"


def _rescored_nodes(experiment: Experiment, name: str, selection: Selection, rescoring: Rescoring) -> Iterator[Node]:
    first = rescoring.around
    for who, model_name, model in _models(experiment, selection):
        yield _scores_node(
            f"rescored_{who}_scores/{name}",
            who,
            model_name,
            model,
            model.scoring.by(rescoring.backend, rescoring.dtype),
            inputs={
                "scores": f"{who}_scores/{model_name}",
                "difference_scores": f"difference_scores/{first}",
                "selection_cutoff": f"selection_cutoff/{first}",
            },
            settings={"within_nats": rescoring.within_nats},
        )


def _agreement_nodes(experiment: Experiment, name: str, agreement: Agreement) -> Iterator[Node]:
    selected = {"difference_scores": f"difference_scores/{name}", "selection_cutoff": f"selection_cutoff/{name}"}
    for who, model_name, model in _models(experiment, experiment.selections[name]):
        yield _scores_node(
            f"second_{who}_scores/{name}",
            who,
            model_name,
            model,
            model.scoring.by(agreement.backend, agreement.dtype),
            inputs=selected,
            settings={
                "num_random": agreement.num_random,
                "num_around_cutoff": agreement.num_around_cutoff,
                "seed": experiment.seed,
            },
        )
    yield _node(
        f"score_agreement/{name}",
        inputs={
            **selected,
            "teacher_scores": f"second_teacher_scores/{name}",
            "reference_scores": f"second_reference_scores/{name}",
        },
        settings={"agreement": agreement.identity(), "seed": experiment.seed},
    )


def _models(experiment: Experiment, selection: Selection) -> Iterator[tuple[str, str, Scored]]:
    yield "teacher", selection.teacher, experiment.teachers[selection.teacher]
    yield "reference", selection.reference, experiment.references[selection.reference]


def selection_parameters(experiment: Experiment, name: str) -> dict[str, Any]:
    """Return the values that the SQL of a selection is run with, by parameter."""
    selection = experiment.selections[name]
    return {
        "rank_by": selection.rank_by,
        "keep_fraction": selection.keep_fraction,
        "token_budget": selection.token_budget,
    }


def _student_nodes(experiment: Experiment) -> Iterator[Node]:
    for name, student in experiment.students.items():
        sequences = f"sequences/{student.tokenizer}"
        refined = {} if student.selection is None else {"refined_corpus": f"refined_corpus/{student.selection}"}
        yield _node(
            f"student_checkpoint/{name}",
            inputs={"sequences": sequences, "tokenizer": f"tokenizer/{student.tokenizer}", **refined},
            settings={
                "architecture": experiment.architectures[student.architecture],
                "training": student.training.identity(),
                "evaluation": experiment.evaluation.identity(),
                "seed": experiment.seed,
            },
        )
        yield _node(
            f"student_evaluation/{name}",
            inputs={
                "student_checkpoint": f"student_checkpoint/{name}",
                "sequences": sequences,
                "tokenizer": f"tokenizer/{student.tokenizer}",
            },
            settings={"evaluation": experiment.evaluation.identity()},
        )
    if any(student.baseline for student in experiment.students.values()):
        yield _node(
            "comparison",
            inputs={key: key for key in _compared(experiment)},
            settings={
                "evaluation": experiment.evaluation.identity(),
                "students": {
                    name: {"corpus": student.corpus, "baseline": student.baseline}
                    for name, student in experiment.students.items()
                },
                "selections": {
                    name: selection.model_dump(mode="json", exclude={"agreement"})
                    for name, selection in experiment.selections.items()
                },
            },
        )


def _compared(experiment: Experiment) -> Iterator[str]:
    for name in experiment.students:
        yield f"student_checkpoint/{name}"
        yield f"student_evaluation/{name}"
    selections = dict.fromkeys(student.selection for student in experiment.students.values() if student.selection)
    scores: dict[str, None] = {}
    for name in selections:
        yield f"domain_shift/{name}"
        yield f"selection_cutoff/{name}"
        selection = experiment.selections[name]
        tokenizer = experiment.teachers[selection.teacher].tokenizer
        scores |= {
            f"teacher_scores/{selection.teacher}": None,
            f"reference_scores/{selection.reference}": None,
            f"sequences/{tokenizer}": None,
        }
    yield from scores


def _node(
    key: str,
    *,
    inputs: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    is_by_shard: bool = False,
    shards: tuple[str, ...] = EVERY_SHARD,
    folder: Path | None = None,
    gates: tuple[str, ...] = (),
) -> Node:
    return Node(
        key=key,
        code_version=CODE_VERSIONS[key.partition("/")[0]],
        inputs=inputs or {},
        settings=settings or {},
        is_by_shard=is_by_shard,
        shards=shards,
        folder=folder,
        gates=gates,
    )
