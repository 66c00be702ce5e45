"""`<name>/teacher_model`, `<name>/reference_model`: from a hub, from a folder, or trained here."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import REFERENCE, TEACHER
from miniplm_assets.experiment import Experiment, FolderModel, HubModel, Scored, TrainedModel, Training
from miniplm_assets.experiment.scoring import Backend
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import training_cost
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.training import TRAINING_COLUMNS, architecture_problems, train
from miniplm_assets.lineage.folders import require_copied
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.model_folder import check_model
from miniplm_assets.lm.model_sources import fetch_model, model_files
from miniplm_assets.lm.scorer import check_model_length
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.training.train import TRAINING_LOG

Who = Literal["teacher", "reference"]

SPLITS: dict[Who, str] = {"teacher": TEACHER, "reference": REFERENCE}


class OwnModel(Settings):
    """A teacher or reference that is trained here.

    Attributes:
        architecture: `model_type` and its settings.
        training: budget, schedule and optimiser.
        split: the documents that it learns from.
        seed: of its weights and of the order.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens"})

    architecture: dict[str, Any]
    training: Training
    split: str
    seed: int
    max_sequence_tokens: int


class CopiedModel(Settings):
    """A teacher or reference that others trained.

    Attributes:
        model: where it is.
        backend: that will score with it; a copy depends on neither this nor the next.
        max_sequence_tokens: that it must be able to read.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"backend", "max_sequence_tokens"})

    model: HubModel | FolderModel
    backend: Backend
    max_sequence_tokens: int

    def identity(self) -> dict[str, Any]:
        """Return the identity of the model alone."""
        return self.model.identity()


def scored_models(experiment: Experiment, who: Who) -> dict[str, Scored]:
    """Return the teachers or the references of an experiment, by name."""
    return experiment.teachers if who == "teacher" else experiment.references


def _nodes_of(who: Who) -> Callable[[Blueprint], Iterable[Node[Any]]]:
    def nodes(blueprint: Blueprint) -> Iterator[Node[Any]]:
        experiment = blueprint.experiment
        max_sequence_tokens = experiment.sequences.sequence_length + 1
        for name, scored in scored_models(experiment, who).items():
            model = scored.model
            if isinstance(model, TrainedModel):
                yield Node(
                    kind=MODELS[who],
                    names=(name,),
                    inputs=packed_by(scored.tokenizer),
                    settings=OwnModel(
                        architecture=experiment.architectures[model.architecture],
                        training=model.training,
                        split=SPLITS[who],
                        seed=experiment.seed,
                        max_sequence_tokens=max_sequence_tokens,
                    ),
                    shards=model.shards,
                )
            else:
                yield Node(
                    kind=MODELS[who],
                    names=(name,),
                    settings=CopiedModel(
                        model=model, backend=scored.scoring.backend, max_sequence_tokens=max_sequence_tokens
                    ),
                    folder=Path(model.path) if isinstance(model, FolderModel) else None,
                )

    return nodes


def _make(work: Work[Any]) -> Result:
    """Copy a model that others trained, or train one on its own split of the corpus."""
    settings: OwnModel | CopiedModel = work.settings

    def write(draft: Draft) -> None:
        if isinstance(settings, OwnModel):
            train(
                work,
                draft,
                architecture=settings.architecture,
                training=settings.training,
                sequence_files=work.input_tables(SEQUENCES.name),
                split=settings.split,
                seed=settings.seed,
                max_sequence_tokens=settings.max_sequence_tokens,
            )
        else:
            named = fetch_model(settings.model, draft.path)
            require_copied(work.node, draft.recipe, draft.path)
            check_model(draft.path, named=named, backend=settings.backend)
            check_model_length(draft.path, settings.max_sequence_tokens, named)

    return work.make(write)


def _problems(node: Node[Any], sizes: Sizes) -> Iterator[str]:
    if isinstance(node.settings, OwnModel):
        yield from architecture_problems(node, sizes)


def _cost(node: Node[Any], sizes: Sizes, _pieces: Any) -> Cost:
    return training_cost(node, sizes) if isinstance(node.settings, OwnModel) else Cost()


def _kind(who: Who, learns_from: str) -> Kind[Any]:
    return Kind(
        name=f"{who}_model",
        code_version="4",
        section=who,
        technologies=frozenset({"pytorch", "huggingface"}),
        description=f"The {who}: copied from a hub or a folder at a fixed revision, or trained here on {learns_from}.",
        nodes=_nodes_of(who),
        make=_make,
        table=TRAINING_LOG,
        columns=TRAINING_COLUMNS,
        copied_files=model_files,
        cost=_cost,
        problems=_problems,
    )


MODELS: dict[Who, Kind[Any]] = {
    "teacher": _kind("teacher", "the teacher split, never on candidates"),
    "reference": _kind("reference", "the reference split alone"),
}


def model_key(who: Who, name: str) -> str:
    """Return the key of a teacher or reference."""
    return key_of(MODELS[who].name, name)
