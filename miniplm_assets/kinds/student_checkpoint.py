"""`<student>/student_checkpoint`: a student trained on candidates or on a refined corpus, with each of its seeds."""

from collections.abc import Collection, Iterator
from typing import Any, ClassVar

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.experiment import Experiment, Scoring, Student, Training
from miniplm_assets.experiment.objectives import CrossEntropy, Objective
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import training_cost
from miniplm_assets.kinds.engines import begin_of_sequence_id
from miniplm_assets.kinds.selection import REFINED_CORPUS
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.training import TRAINING_COLUMNS, architecture_problems, train
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.scorer import check_model_length
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.training.objectives import Input, objective_of
from miniplm_assets.training.train import TRAINING_LOG


class Schooling(Settings):
    """How a student is trained; on what, its inputs say, and with which seeds, the node.

    Attributes:
        architecture: `model_type` and its settings.
        training: budget, schedule and optimiser.
        objective: the loss.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens"})

    architecture: dict[str, Any]
    training: Training
    objective: Objective = CrossEntropy()
    max_sequence_tokens: int


def seeds_of(experiment: Experiment, student: Student) -> tuple[int, ...]:
    """Return the seeds that a student is trained with."""
    return student.seeds or (experiment.seed,)


def _nodes(blueprint: Blueprint) -> Iterator[Node[Schooling]]:
    experiment = blueprint.experiment
    for name, student in experiment.students.items():
        refined = {} if student.selection is None else {REFINED_CORPUS: key_of(REFINED_CORPUS, student.selection)}
        needed = objective_of(student.objective).inputs(student.objective)
        yield Node(
            kind=STUDENT_CHECKPOINT,
            names=(name,),
            inputs={
                **packed_by(student.tokenizer),
                **refined,
                **{role: key_of(*asset) for role, asset in needed.items()},
            },
            settings=Schooling(
                architecture=experiment.architectures[student.architecture],
                training=student.training,
                objective=student.objective,
                max_sequence_tokens=experiment.sequences.sequence_length + 1,
            ),
            seeds=seeds_of(experiment, student),
        )


def _make(work: Work[Schooling]) -> Result:
    """Train a student on the text that its inputs name, once with each seed."""
    is_refined = REFINED_CORPUS in work.node.inputs
    objective_inputs = {} if work.is_stored else _objective_inputs(work)

    def write(seed: str, draft: Draft) -> None:
        train(
            work,
            draft,
            architecture=work.settings.architecture,
            training=work.settings.training,
            objective=work.settings.objective,
            sequence_files=work.input_tables(REFINED_CORPUS if is_refined else SEQUENCES.name),
            split=None if is_refined else CANDIDATE,
            seed=int(seed),
            max_sequence_tokens=work.settings.max_sequence_tokens,
            objective_inputs=objective_inputs,
        )

    return work.make_pieces(write)


def _objective_inputs(work: Work[Schooling]) -> dict[str, Input]:
    """Return what the objective needs beside the sequences, by role; a model reads what it learnt to."""
    objective = work.settings.objective
    inputs = {}
    for role in objective_of(objective).inputs(objective):
        if work.input_node(role).kind.pieces:
            inputs[role] = Input(files=tuple(work.input_tables(role)))
            continue
        folder = work.input(role).verified_folder()
        check_model_length(folder, work.settings.max_sequence_tokens, work.node.inputs[role])
        inputs[role] = Input(folder=folder, begin_of_sequence_id=begin_of_sequence_id(work, role, Scoring()))
    return inputs


def _cost(node: Node[Schooling], sizes: Sizes, seeds: Collection[str] | None) -> Cost:
    return training_cost(
        node, sizes, objective=node.settings.objective, num_models=len(node.seeds if seeds is None else seeds)
    )


STUDENT_CHECKPOINT = Kind(
    name="student_checkpoint",
    code_version="5",
    section="student",
    technologies=frozenset({"pytorch", "huggingface"}),
    description="""A student: weights in safetensors with its tokenizer and its training log beside them, for each seed.

`AutoModelForCausalLM.from_pretrained(<folder>)` loads it. It learns from the candidates (no KD) or from a refined
corpus (MiniPLM), with the same seeds and the same number of tokens.""",
    nodes=_nodes,
    make=_make,
    pieces="seed",
    table=TRAINING_LOG,
    columns=TRAINING_COLUMNS,
    cost=_cost,
    problems=architecture_problems,
)


def checkpoint_key(student: str) -> str:
    """Return the key of a student's checkpoints."""
    return key_of(STUDENT_CHECKPOINT.name, student)
