"""Students and refined corpora as repositories of the Hugging Face hub.

All is read from what is stored; the files are copies, each held against its manifest on the way.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq

from miniplm_assets.core.errors import PublishingError
from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment.settings import nearest
from miniplm_assets.kinds.origin_words import cutoff_words
from miniplm_assets.kinds.publications import Publication
from miniplm_assets.kinds.selection import DOMAIN_SHIFT, REFINED_CORPUS
from miniplm_assets.kinds.student_checkpoint import STUDENT_CHECKPOINT
from miniplm_assets.kinds.student_evaluation import evaluation_key
from miniplm_assets.lineage.kind import ALL_FILES, Node
from miniplm_assets.lineage.origins import Shelf
from miniplm_assets.publishing.croissant import CROISSANT, croissant
from miniplm_assets.publishing.dataset_card import PublishedCorpus, dataset_card, published_files
from miniplm_assets.publishing.model_card import PublishedModel, model_card
from miniplm_assets.publishing.provenance import PROVENANCE, Ancestor, Provenance, PublishedFile
from miniplm_assets.storage.copies import copy_files
from miniplm_assets.storage.files import write_json
from miniplm_assets.storage.store import Result
from miniplm_assets.training.train import EARLIER

STUDENT: Final = "student"
REFINED: Final = "refined"
CARD: Final = "README.md"


def find_export(graph: Mapping[str, Node[Any]], what: str) -> tuple[Node[Any], int | None]:
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


def write_student(
    publication: Publication, shelf: Shelf, seed: int, folder: Path, *, repository: str | None = None
) -> None:
    """Write the weights, the tokenizer and the logs of a student as they are stored, and its card.

    Args:
        publication: what is told of it.
        shelf: has its checkpoints, its evaluations and the cutoffs behind it.
        seed: that made it.
        folder: exists and is empty.
        repository: where it will lie, if that is known.

    Raises:
        MissingResultError: if one of them is not stored; the message says what to run.
        DamagedResultError: if a stored file is not what its manifest says.
    """
    checkpoint = shelf.of_seed(publication.key, seed)
    evaluations = evaluation_key(publication.name)
    measured = {**shelf.of_stored_seeds(evaluations), seed: shelf.of_seed(evaluations, seed)}
    names = {file.name: file.name for file in checkpoint.manifest.files if not file.name.startswith(f"{EARLIER}/")}
    made = {**_made(publication, shelf), **_training_words(checkpoint.facts)}
    copy_files(checkpoint, names, folder)
    provenance = _provenance(publication, shelf, checkpoint, names)
    model = PublishedModel(
        name=publication.name,
        seed=seed,
        summary=(
            f"A causal language model ({publication.tags[-1]}, {checkpoint.facts['num_parameters']:,} parameters), "
            f"trained from scratch with seed {seed} on {checkpoint.facts['num_tokens']:,} tokens of "
            f"{publication.learnt_from}."
        ),
        tags=publication.tags,
        corpus_id=publication.corpus_id,
        license_id=publication.license,
        repository=repository,
        made=made,
        evaluations={one: result.facts for one, result in sorted(measured.items())},
        is_by_difference=publication.is_by_difference,
        provenance=provenance,
    )
    _write_texts(folder, model_card(model), provenance)


def write_corpus(publication: Publication, shelf: Shelf, folder: Path, *, repository: str | None = None) -> None:
    """Write the Parquet files of a refined corpus as they are stored, its card and its Croissant description.

    Args:
        publication: what is told of it.
        shelf: has it, the domain shift of its selection and the cutoffs behind it.
        folder: exists and is empty.
        repository: where it will lie, if that is known.

    Raises:
        MissingResultError: if one of them is not stored; the message says what to run.
        DamagedResultError: if a stored file is not what its manifest says.
    """
    name = publication.name
    refined = shelf.result(publication.key)
    shift = pl.read_parquet(shelf.result(key_of(DOMAIN_SHIFT, name)).matching(ALL_FILES), glob=False)
    made = _made(publication, shelf)
    names = published_files([file.name for file in refined.described(ALL_FILES)])
    copy_files(refined, names, folder)
    provenance = _provenance(publication, shelf, refined, names)
    num_rows = sum(file.num_rows or 0 for file in provenance.files)
    corpus = PublishedCorpus(
        name=name,
        summary=(
            f"{num_rows:,} token sequences of a corpus with their texts: what the selection {name} keeps of it for "
            "pre-training."
        ),
        tags=publication.tags,
        corpus_id=publication.corpus_id,
        license_id=publication.license,
        repository=repository,
        made=made,
        columns=publication.columns,
        domain_shift=shift.sort("share_of_kept_tokens", "domain", descending=[True, False]).to_dicts(),
        is_by_difference=publication.is_by_difference,
        provenance=provenance,
    )
    write_json(folder / CROISSANT, croissant(corpus, pq.read_schema(folder / provenance.files[0].name)))
    _write_texts(folder, dataset_card(corpus), provenance)


def _made(publication: Publication, shelf: Shelf) -> dict[str, str]:
    """Return how something was made, with what its selections keep."""
    selections = {
        f"selection {name}": (
            f"{cutoff_words(shelf.result(publication.cutoffs[name]).facts)}; settings that are not the default: {words}"
        )
        for name, words in publication.selections.items()
    }
    learnt = {} if publication.learnt_from is None else {"learnt from": publication.learnt_from}
    return {**publication.made, **selections, **learnt}


def _training_words(facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        "training tokens": f"{facts['num_tokens']:,}, {facts['num_epochs']:g} times its corpus",
        "training FLOPs": f"{facts['training_flops']:.3e}",
    }


def _provenance(publication: Publication, shelf: Shelf, result: Result, names: Mapping[str, str]) -> Provenance:
    """Return where a result comes from; the names of its files are by those that they are stored under."""
    manifest = result.manifest
    return Provenance(
        key=publication.key,
        fingerprint=manifest.fingerprint,
        created_at=manifest.created_at,
        versions=manifest.versions,
        files=tuple(
            PublishedFile(
                name=names[file.name],
                stored_as=file.name,
                num_bytes=file.num_bytes,
                sha256=file.sha256,
                num_rows=file.num_rows,
            )
            for file in manifest.files
            if file.name in names
        ),
        ancestors=tuple(
            Ancestor(
                key=step.key,
                fingerprint=shelf.fingerprint(step.key),
                code_version=step.code_version,
                settings=step.settings,
                inputs=step.inputs,
            )
            for step in publication.steps
        ),
    )


def _write_texts(folder: Path, card: str, provenance: Provenance) -> None:
    (folder / CARD).write_text(card, encoding="utf-8")
    write_json(folder / PROVENANCE, provenance.to_json())
