"""`<name>/teacher_model`, `<name>/reference_model`: from a hub, from a folder, or trained here."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import REFERENCE, TEACHER
from miniplm_assets.corpus.model_tokenizer import FirstToken, begin_of_sequence, require_same_pieces
from miniplm_assets.experiment import (
    Experiment,
    FolderModel,
    HubModel,
    Scored,
    Scoring,
    TrainedModel,
    TrainedTokenizer,
    Training,
)
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import training_cost
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.tokenizer import tokenizer_key
from miniplm_assets.kinds.training import TRAINING_CODE, TRAINING_COLUMNS, train, training_problems
from miniplm_assets.kinds.training_page import copied_model_page, own_model_page
from miniplm_assets.lineage.folders import require_copied
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.page import Page
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.causality import require_causal_config
from miniplm_assets.lm.model_folder import check_model, read_config
from miniplm_assets.lm.model_sources import fetch_model, model_files, name_model
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
        training_code: version of the code that trains; what others trained does not change with it.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens"})

    architecture: dict[str, Any]
    training: Training
    split: str
    seed: int
    training_code: str
    max_sequence_tokens: int


class CopiedModel(Settings):
    """A teacher or reference that others trained.

    Attributes:
        model: where it is.
        scoring: that it must be fit for; a copy depends on neither this nor the next.
        max_sequence_tokens: that it must be able to read.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"scoring", "max_sequence_tokens"})

    model: HubModel | FolderModel
    scoring: Scoring
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
                        training_code=TRAINING_CODE,
                        max_sequence_tokens=max_sequence_tokens,
                    ),
                    shards=model.shards,
                )
            else:
                yield Node(
                    kind=MODELS[who],
                    names=(name,),
                    settings=CopiedModel(model=model, scoring=scored.scoring, max_sequence_tokens=max_sequence_tokens),
                    gates=_held_against(experiment, scored.tokenizer),
                    folder=Path(model.path) if isinstance(model, FolderModel) else None,
                )

    return nodes


def _held_against(experiment: Experiment, tokenizer: str) -> tuple[str, ...]:
    """Return the tokenizer that a copied model is held against as soon as it is there: it is no part of the copy.

    Not one that is trained here, which is there long after; the scores, where both meet, look again at any.
    """
    return () if isinstance(experiment.tokenizers[tokenizer], TrainedTokenizer) else (tokenizer_key(tokenizer),)


def require_fit(
    source: HubModel | FolderModel, scoring: Scoring, *, model_folder: Path, tokenizer_folder: Path, tokenizer: str
) -> FirstToken | None:
    """Make sure that a copied model and a tokenizer belong together; return the token to read in front of sequences.

    Args:
        source: where the model is from.
        scoring: how it scores.
        model_folder: the copy.
        tokenizer_folder: of the tokenizer that the sequences are made with.
        tokenizer: what messages call that one.

    Raises:
        ModelError: if pieces have other ids, or the two disagree on what stands in front of a text.
    """
    named = name_model(source)
    require_same_pieces(model_folder, tokenizer_folder, model=named, tokenizer=tokenizer)
    if scoring.begin_of_sequence == "none":
        return None
    return begin_of_sequence(model_folder, tokenizer_folder, model=named, tokenizer=tokenizer)


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
            fetch_model(settings.model, draft.path)
            require_copied(work.node, draft.recipe, draft.path)
            named = name_model(settings.model)
            check_model(draft.path, named=named, backend=settings.scoring.backend)
            check_model_length(draft.path, settings.max_sequence_tokens, named)
            if settings.scoring.backend == "torch":  # vLLM looks at nothing later, and fixes what stretches
                require_causal_config(
                    read_config(draft.path, named), named=named, max_sequence_tokens=settings.max_sequence_tokens
                )

    result = work.make(write)
    if isinstance(settings, CopiedModel):
        for tokenizer in work.node.gates:
            stored = work.pipeline.store.require(work.fingerprints.recipe(tokenizer))
            require_fit(
                settings.model,
                settings.scoring,
                model_folder=result.folder,
                tokenizer_folder=stored.folder,
                tokenizer=tokenizer,
            )
    return result


def _page(work: Work[Any], result: Result) -> Page:
    settings: OwnModel | CopiedModel = work.settings
    if isinstance(settings, OwnModel):
        return own_model_page(result, split=settings.split)
    match settings.model:
        case HubModel() as model:
            source = f"{model.id} on the Hugging Face hub, at revision {model.revision}"
            licence = f"as stated at https://huggingface.co/{model.id}; it is not copied with the weights"
        case FolderModel() as model:
            source, licence = f"the folder {model.path}", "not written down: what is copied of a folder names none"
    return copied_model_page(result, source=source, licence=licence)


def _problems(node: Node[Any], sizes: Sizes) -> Iterator[str]:
    if isinstance(node.settings, OwnModel):
        yield from training_problems(node, sizes)


def _cost(node: Node[Any], sizes: Sizes, _pieces: Any) -> Cost:
    if not isinstance(node.settings, OwnModel):
        return Cost()
    return training_cost(node, sizes, token_budget=node.settings.training.token_budget)


def _kind(who: Who, learns_from: str) -> Kind[Any]:
    return Kind(
        name=f"{who}_model",
        code_version="4",
        section=who,
        technologies=frozenset({"pytorch", "huggingface"}),
        description=f"The {who}: copied from a hub or a folder at a fixed revision, or trained here on {learns_from}.",
        nodes=_nodes_of(who),
        make=_make,
        needs_ray=lambda settings: isinstance(settings, OwnModel) and settings.training.num_nodes > 1,
        num_devices=lambda settings: settings.training.num_devices_here if isinstance(settings, OwnModel) else 0,
        table=TRAINING_LOG,
        columns=TRAINING_COLUMNS,
        copied_files=model_files,
        cost=_cost,
        spent_flops=lambda facts, _: facts.get("training_flops"),  # where it was trained here
        problems=_problems,
        page=_page,
    )


MODELS: dict[Who, Kind[Any]] = {
    "teacher": _kind("teacher", "the teacher split, never on candidates"),
    "reference": _kind("reference", "the reference split alone"),
}


def model_key(who: Who, name: str) -> str:
    """Return the key of a teacher or reference."""
    return key_of(MODELS[who].name, name)
