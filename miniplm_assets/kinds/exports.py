"""Students and refined corpora as repositories of the Hugging Face hub.

All is read from what is stored for the latest state of the corpus; nothing is made, and the warehouse is only read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq

from miniplm_assets.core.errors import PublishingError
from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment.settings import nearest
from miniplm_assets.kinds.generated_corpus import GENERATED_CORPUS
from miniplm_assets.kinds.origin_words import corpus_id, in_words, model_sections, rows_behind
from miniplm_assets.kinds.selection import DOMAIN_SHIFT, REFINED_CORPUS
from miniplm_assets.kinds.student_checkpoint import STUDENT_CHECKPOINT, Schooling
from miniplm_assets.kinds.student_evaluation import evaluation_key
from miniplm_assets.lineage.graph import Graph
from miniplm_assets.lineage.kind import ALL_FILES, Node
from miniplm_assets.lineage.origins import Origins
from miniplm_assets.publishing.croissant import CROISSANT, croissant
from miniplm_assets.publishing.dataset_card import PublishedCorpus, dataset_card, published_files
from miniplm_assets.publishing.folder import new_folder
from miniplm_assets.publishing.model_card import PublishedModel, model_card
from miniplm_assets.publishing.provenance import PROVENANCE, Provenance
from miniplm_assets.publishing.push import RepositoryType
from miniplm_assets.storage.copies import copy_files
from miniplm_assets.storage.files import write_json
from miniplm_assets.storage.store import Result

STUDENT: Final = "student"
REFINED: Final = "refined"
CARD: Final = "README.md"
OWN_TAG: Final = "miniplm_assets"
# Whose models a selection by difference needs.
BOTH: Final = frozenset({"teacher", "reference"})


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is to be exported.

    Attributes:
        node: a student's checkpoints, or a refined corpus.
        seed: of a student; None of a corpus.
        license_id: of the hub; None where none is stated.
        repository: where it will lie, if that is known.
    """

    node: Node[Any]
    seed: int | None
    license_id: str | None = None
    repository: str | None = None

    @property
    def repository_type(self) -> RepositoryType:
        """What it is on the hub."""
        return "dataset" if self.seed is None else "model"


def find_export(graph: Graph, what: str) -> tuple[Node[Any], int | None]:
    """Return the asset that a person names, and the seed of a student.

    Args:
        graph: of the experiment.
        what: ``student/<name>``, ``student/<name>/<seed>`` or ``refined/<selection>``.

    Raises:
        PublishingError: if the experiment has no such thing, or a student of several seeds is named without one.
    """
    students = {f"{STUDENT}/{node.names[0]}": node for node in graph.values() if node.kind is STUDENT_CHECKPOINT}
    of_seeds = {f"{name}/{seed}": (node, seed) for name, node in students.items() for seed in node.seeds}
    corpora = {f"{REFINED}/{node.names[0]}": node for node in graph.values() if node.kind.name == REFINED_CORPUS}
    if what in corpora:
        return corpora[what], None
    if what in of_seeds:
        return of_seeds[what]
    if what not in students:
        raise PublishingError(
            f"'{what}' cannot be exported: expected {STUDENT}/<name>, {STUDENT}/<name>/<seed> or {REFINED}/<selection> "
            f"of the experiment; {nearest(what, [*students, *of_seeds, *corpora])}"
        )
    node = students[what]
    if len(node.seeds) > 1:
        named = ", ".join(f"{what}/{seed}" for seed in node.seeds)
        raise PublishingError(f"{what} has {len(node.seeds)} seeds, each a model of its own; name one: {named}")
    return node, node.seeds[0]


def write_export(origins: Origins, export: Export, folder: Path) -> None:
    """Write a repository folder.

    Args:
        origins: the stored results of the experiment.
        export: what.
        folder: its name; nothing is there yet, or an empty folder.

    Raises:
        PublishingError: if something is there, or nothing can be written there.
        MissingResultError: if something that is told of it is not stored; the message says what to run.
        DamagedResultError: if a stored file is not what its manifest says.
    """
    with new_folder(folder) as draft:
        if export.seed is None:
            _write_corpus(origins, export, draft)
        else:
            _write_student(origins, export, export.seed, draft)


def _write_student(origins: Origins, export: Export, seed: int, draft: Path) -> None:
    """Write the weights, the tokenizer and the logs as they are stored, and the card."""
    name, key = export.node.names[0], export.node.key
    checkpoint = origins.of_seed(key, seed)
    evaluations = origins.stored_seeds(evaluation_key(name)) | {seed: origins.of_seed(evaluation_key(name), seed)}
    rows = rows_behind(origins, key)
    names = {file.name: file.name for file in checkpoint.manifest.files}
    copy_files(checkpoint, names, draft)
    facts, settings = checkpoint.facts, export.node.settings
    provenance = origins.provenance(key, checkpoint, names)
    learnt_from = _learnt_from(export.node)
    model_type = settings.architecture["model_type"]
    model = PublishedModel(
        name=name,
        seed=seed,
        summary=(
            f"A causal language model ({model_type}, {facts['num_parameters']:,} parameters), trained from scratch "
            f"with seed {seed} on {facts['num_tokens']:,} tokens of {learnt_from}."
        ),
        tags=_tags(
            model_sections(origins, key), is_by_difference=_is_by_difference(origins, export.node), more=model_type
        ),
        corpus_id=corpus_id(origins),
        license_id=export.license_id,
        repository=export.repository,
        made=rows | _training_rows(settings, checkpoint, learnt_from),
        evaluations={seed: result.facts for seed, result in sorted(evaluations.items())},
        is_by_difference=_is_by_difference(origins, export.node),
        provenance=provenance,
    )
    _write_texts(draft, model_card(model), provenance)


def _training_rows(settings: Schooling, checkpoint: Result, learnt_from: str) -> dict[str, str]:
    facts = checkpoint.facts
    return {
        "learnt from": learnt_from,
        "objective": in_words(settings.objective.model_dump()),
        "architecture": in_words(settings.architecture),
        "training": f"{in_words(settings.training.identity())}; the rest is the default",
        "training tokens": f"{facts['num_tokens']:,}, {facts['num_epochs']:g} times its corpus",
        "training FLOPs": f"{facts['training_flops']:.3e}",
    }


def _learnt_from(node: Node[Any]) -> str:
    """Return what a student learnt from, in words."""
    for role, words in ((REFINED_CORPUS, "what the selection {} keeps"), (GENERATED_CORPUS.name, "the texts of {}")):
        if role in node.inputs:
            return words.format(node.inputs[role].partition("/")[0])
    return "all candidates of the corpus"


def _write_corpus(origins: Origins, export: Export, draft: Path) -> None:
    """Write the Parquet files as they are stored, the card and the Croissant description."""
    name, key = export.node.names[0], export.node.key
    refined = origins.result(key)
    shift = pl.read_parquet(origins.result(key_of(DOMAIN_SHIFT, name)).matching(ALL_FILES), glob=False)
    rows = rows_behind(origins, key)
    names = published_files([file.name for file in refined.described(ALL_FILES)])
    copy_files(refined, names, draft)
    provenance = origins.provenance(key, refined, names)
    num_rows = sum(file.num_rows or 0 for file in provenance.files)
    is_by_difference = _is_by_difference(origins, export.node)
    corpus = PublishedCorpus(
        name=name,
        summary=(
            f"{num_rows:,} token sequences of a corpus with their texts: what the "
            f"selection {name} keeps of it for pre-training."
        ),
        tags=_tags(model_sections(origins, key), is_by_difference=is_by_difference),
        corpus_id=corpus_id(origins),
        license_id=export.license_id,
        repository=export.repository,
        made=rows,
        columns=export.node.kind.columns,
        domain_shift=shift.sort("share_of_kept_tokens", "domain", descending=[True, False]).to_dicts(),
        is_by_difference=is_by_difference,
        provenance=provenance,
    )
    schema = pq.read_schema(draft / provenance.files[0].name)
    write_json(draft / CROISSANT, croissant(corpus, schema))
    _write_texts(draft, dataset_card(corpus), provenance)


def _is_by_difference(origins: Origins, node: Node[Any]) -> bool:
    """Whether a teacher and a reference decided what is in a refined corpus, or in that of a student."""
    refined = node.key if node.kind.name == REFINED_CORPUS else node.inputs.get(REFINED_CORPUS)
    return refined is not None and model_sections(origins, refined) >= BOTH


def _tags(sections: frozenset[str], *, is_by_difference: bool, more: str | None = None) -> tuple[str, ...]:
    distilled = ("knowledge-distillation",) if "teacher" in sections else ()
    method = ("difference-sampling", "miniplm") if is_by_difference else ()
    return (OWN_TAG, "pre-training", *distilled, *method, *([] if more is None else [more]))


def _write_texts(draft: Path, card: str, provenance: Provenance) -> None:
    (draft / CARD).write_text(card, encoding="utf-8")
    write_json(draft / PROVENANCE, provenance.to_json())
