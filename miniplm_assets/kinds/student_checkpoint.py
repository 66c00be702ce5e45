"""`<student>/student_checkpoint`: a student trained on candidates, a refined or a generated corpus, for each seed."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar, Final

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Experiment, Scoring, Student, Training
from miniplm_assets.kinds.budgets import Budgeted, models_needed, other_of, token_budget
from miniplm_assets.kinds.costs import num_parameters_of, training_cost
from miniplm_assets.kinds.engines import begin_of_sequence_id
from miniplm_assets.kinds.generated_corpus import GENERATED_CORPUS
from miniplm_assets.kinds.refined_sequences import REFINED_SEQUENCES, refined_for
from miniplm_assets.kinds.selection import REFINED_CORPUS
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.kinds.training import TRAINING_COLUMNS, train, training_problems
from miniplm_assets.kinds.training_page import student_page
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.architectures import count_parameters
from miniplm_assets.lm.scorer import check_model_length
from miniplm_assets.lm.stored_parameters import count_stored_parameters
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.training.objectives import Input, objective_of
from miniplm_assets.training.train import TRAINING_LOG, earlier_states

# What a student may learn from in place of the candidates.
MADE_CORPORA: Final = (REFINED_CORPUS, REFINED_SEQUENCES.name, GENERATED_CORPUS.name)


class Schooling(Budgeted):
    """How a student is trained; on what, its inputs say, and with which seeds, the node.

    Attributes:
        prompt_has_loss: whether the prompts of a generated corpus have one.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens"})

    prompt_has_loss: bool = True
    max_sequence_tokens: int


def seeds_of(experiment: Experiment, student: Student) -> tuple[int, ...]:
    """Return the seeds that a student is trained with."""
    return student.seeds or (experiment.seed,)


def _nodes(blueprint: Blueprint) -> Iterator[Node[Schooling]]:
    experiment = blueprint.experiment
    for name, student in experiment.students.items():
        generation = None if student.generation is None else experiment.generations[student.generation]
        other = other_of(experiment, student)
        needed = dict(objective_of(student.objective).inputs(student.objective)) | models_needed(other)
        yield Node(
            kind=STUDENT_CHECKPOINT,
            names=(name,),
            inputs={
                **packed_by(student.tokenizer),
                **_made_corpus(experiment, student),
                **{role: key_of(*asset) for role, asset in needed.items()},
            },
            settings=Schooling(
                architecture=experiment.architectures[student.architecture],
                training=student.training,
                objective=student.objective,
                other=other,
                prompt_has_loss=generation is None or generation.prompt_has_loss,
                max_sequence_tokens=experiment.sequences.sequence_length + 1,
            ),
            seeds=seeds_of(experiment, student),
        )


def _made_corpus(experiment: Experiment, student: Student) -> dict[str, str]:
    """Return the corpus that a student learns from as an input, where it is not the candidates."""
    if student.generation is not None:
        return {GENERATED_CORPUS.name: key_of(GENERATED_CORPUS.name, student.generation)}
    return refined_for(experiment, student)


def _make(work: Work[Schooling]) -> Result:
    """Train a student on the text that its inputs name, once with each seed."""
    made = next((role for role in MADE_CORPORA if role in work.node.inputs), None)
    is_stored = work.is_stored
    objective_inputs = {} if is_stored else _objective_inputs(work)
    training = None if is_stored else _training(work)

    def write(seed: str, draft: Draft) -> None:
        assert training is not None, "nothing is missing where all was stored"
        train(
            work,
            draft,
            architecture=work.settings.architecture,
            training=training,
            objective=work.settings.objective,
            sequence_files=work.input_tables(made or SEQUENCES.name),
            split=None if made else CANDIDATE,
            seed=int(seed),
            max_sequence_tokens=work.settings.max_sequence_tokens,
            objective_inputs=objective_inputs,
            prompts_have_loss=work.settings.prompt_has_loss,
            last_checkpoints=work.settings.training.last_checkpoints,
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


def _training(work: Work[Schooling]) -> Training:
    """Return the training with the number of tokens that it is on."""
    settings = work.settings
    vocab_size = load_tokenizer(work.input(TOKENIZER.name).verified_folder()).vocab_size
    budget = token_budget(
        settings,
        count=lambda architecture: count_parameters(architecture, vocab_size=vocab_size).total,
        parameters_of=lambda role: count_stored_parameters(work.input(role).folder),
    )
    if budget is None:
        raise ModelError(
            f"{work.node.key}: nothing in the files of its models says how many parameters they have, so that no "
            "number of tokens costs the same; give it a token_budget"
        )
    if settings.other is not None:
        work.report(
            f"{work.node.key}: {budget:,} tokens cost what {settings.other.token_budget:,} of the other student cost"
        )
    return settings.training.on(budget)


def _cost(node: Node[Schooling], sizes: Sizes, seeds: Collection[str] | None) -> Cost:
    budget = token_budget(
        node.settings,
        count=lambda architecture: sizes.num_parameters(architecture, sizes.input_node(node, TOKENIZER.name)),
        parameters_of=lambda role: num_parameters_of(sizes.input_node(node, role), sizes),
    )
    return training_cost(
        node,
        sizes,
        token_budget=budget,
        objective=node.settings.objective,
        num_models=len(node.seeds if seeds is None else seeds),
    )


STUDENT_CHECKPOINT = Kind(
    name="student_checkpoint",
    code_version="5",
    section="student",
    technologies=frozenset({"pytorch", "huggingface"}),
    description="""A student: weights in safetensors with its tokenizer and its training log beside them, for each seed.

`AutoModelForCausalLM.from_pretrained(<folder>)` loads it. It learns from the candidates (no KD), a refined
corpus (MiniPLM) or a generated one (SeqKD), by its objective, with the seeds of the others, for as many tokens or for
as many FLOPs.""",
    nodes=_nodes,
    make=_make,
    needs_ray=lambda settings: settings.training.num_nodes > 1,
    num_devices=lambda settings: settings.training.num_devices_here,
    pieces="seed",
    table=TRAINING_LOG,
    columns=TRAINING_COLUMNS,
    cost=_cost,
    problems=training_problems,
    page=student_page,
)


def measured_folders(checkpoint: Result) -> list[Path]:
    """Return the models whose losses are averaged, earliest first: the last one, and those before it that were kept."""
    return [*earlier_states(checkpoint.verified_folder()), checkpoint.folder]


def num_measured(checkpoint: Node[Schooling]) -> int:
    """Return how many models of each seed those will be."""
    last = checkpoint.settings.training.last_checkpoints
    return 1 if last is None else last.number


def checkpoint_key(student: str) -> str:
    """Return the key of a student's checkpoints."""
    return key_of(STUDENT_CHECKPOINT.name, student)
