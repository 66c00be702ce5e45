"""Tasks for lm-evaluation-harness that are made of held-out documents: no network, and nothing that anybody has seen.

A cloze: of a piece of a document, which of four pieces goes on with it, its own or those of three other documents of
its domain. And bits per byte of the pieces themselves. Pieces begin and end before white space where there is some, so
that no word is cut.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from miniplm_assets.core.errors import TaskError
from miniplm_assets.experiment import Cloze
from miniplm_assets.experiment.tasks import HELD_OUT_BITS, HELD_OUT_CLOZE

NUM_CHOICES: Final = 4
# How far a cut is moved to stand before white space.
MAX_MOVED_CHARACTERS: Final = 30
VERSION: Final = 1.0
DEFINITIONS: Final[Mapping[str, dict[str, Any]]] = {
    HELD_OUT_CLOZE: {
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "target_delimiter": "",  # a choice begins with the white space of its document
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    HELD_OUT_BITS: {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{context}}{{choices[label]}}",
        "metric_list": [
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
            {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        ],
    },
}


@dataclass(frozen=True)
class Piece:
    """A piece of a document.

    Attributes:
        document_id: of it.
        domain: of it.
        context: what is read.
        continuation: how it goes on.
    """

    document_id: int
    domain: str
    context: str
    continuation: str


def pieces_of(documents: Iterable[tuple[int, str, str]], cloze: Cloze, *, seed: int) -> list[Piece]:
    """Draw documents, and a piece of each, by hashes: whatever the order, and one more leaves the others' pieces.

    Args:
        documents: (document_id, domain, text) of each held-out document.
        cloze: how many, and how long a piece is.
        seed: of the draws.

    Returns:
        In the order of their hashes; fewer than asked for where fewer are long enough. Of equal texts there is one.
    """
    drawn: dict[bytes, Piece] = {}
    for document_id, domain, text in documents:
        digest = hashlib.blake2b(text.encode(), digest_size=16, key=seed.to_bytes(8, "little")).digest()
        cut = _cut(text, cloze, int.from_bytes(digest[8:], "little") / 2**64)
        if cut is not None:
            drawn[digest] = Piece(document_id, domain, *cut)
    return [drawn[digest] for digest in sorted(drawn)[: cloze.num_documents]]


def _cut(text: str, cloze: Cloze, where: float) -> tuple[str, str] | None:
    """Return a piece of a text and how it goes on, from a place in [0, 1); None where the text is too short."""
    length = cloze.context_characters + cloze.continuation_characters
    spare = len(text) - length - 2 * MAX_MOVED_CHARACTERS
    if spare < 0:
        return None
    begin = _before_space(text, int(where * (spare + 1)))
    middle = _before_space(text, begin + cloze.context_characters)
    end = middle + cloze.continuation_characters
    context, continuation = text[begin:middle], text[middle:end]
    return (context, continuation) if context.strip() and continuation.strip() else None


def _before_space(text: str, place: int) -> int:
    """Return the nearest place from here on that stands before white space; this one where none is near."""
    for moved in range(place, place + MAX_MOVED_CHARACTERS):
        if text[moved].isspace() and (moved == 0 or not text[moved - 1].isspace()):
            return moved
    return place


def questions_of(pieces: list[Piece], *, seed: int) -> Iterator[dict[str, Any]]:
    """Make a question of each piece: its own continuation among those of three other documents.

    The others are of its domain, or of all where it has too few of that.

    Args:
        pieces: at least four with unlike continuations.
        seed: of the draws.

    Raises:
        TaskError: if there are fewer.
    """
    known: dict[str, set[str]] = {}
    for piece in pieces:
        known.setdefault(piece.domain, set()).add(piece.continuation)
    of_all = sorted({piece.continuation for piece in pieces})
    if len(of_all) < NUM_CHOICES:
        raise TaskError(
            f"only {len(of_all)} held-out documents are long enough for {HELD_OUT_CLOZE}, {NUM_CHOICES} are needed; "
            "lower evaluation.tasks.held_out.context_characters, or raise corpus.splits.validation"
        )
    by_domain = {domain: sorted(continuations) for domain, continuations in known.items()}
    for piece in pieces:
        generator = random.Random(f"{seed} {piece.context}{piece.continuation}")  # noqa: S311 - nothing is secret
        same = by_domain[piece.domain]
        others = [one for one in (same if len(same) >= NUM_CHOICES else of_all) if one != piece.continuation]
        choices = generator.sample(others, NUM_CHOICES - 1)
        label = generator.randrange(NUM_CHOICES)
        choices.insert(label, piece.continuation)
        yield {
            "document_id": piece.document_id,
            "domain": piece.domain,
            "context": piece.context,
            "choices": choices,
            "label": label,
        }


def write_held_out_tasks(
    names: Iterable[str], documents: Iterable[tuple[int, str, str]], cloze: Cloze, *, seed: int, folder: Path
) -> int:
    """Write the task files and the questions that they read; return how many questions there are.

    Args:
        names: of the tasks.
        documents: as in `pieces_of`.
        cloze: how many, and how long.
        seed: of the draws.
        folder: where they go.

    Raises:
        TaskError: if there are too few documents.
    """
    questions = list(questions_of(pieces_of(documents, cloze, seed=seed), seed=seed))
    for name in names:
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(question, ensure_ascii=False) + "\n" for question in questions)
        definition = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
            "test_split": "test",
            **DEFINITIONS[name],
            "metadata": {"version": VERSION},
        }
        text = yaml.safe_dump(definition, sort_keys=False, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return len(questions)
