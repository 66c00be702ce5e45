"""`protected_ngrams`: the runs of words of benchmarks' files, of `corpus.decontamination.against`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.contamination import Protected, protect_texts, texts_of_file
from miniplm_assets.corpus.decontaminator import Decontaminator
from miniplm_assets.experiment import Decontamination
from miniplm_assets.experiment.decontamination import ENDINGS, Runs
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.lineage.folders import files_of_node, require_copied
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "protected_ngrams.parquet"


class Protecting(Settings):
    """How texts become runs of words.

    Attributes:
        ngram: words of a run.
    """

    ngram: int


def _nodes(blueprint: Blueprint) -> Iterator[Node[Protecting]]:
    settings = blueprint.experiment.corpus.decontamination
    if settings is None or not settings.patterns:
        return
    folder = Path(os.path.commonpath([_folder_of(pattern) for pattern in settings.patterns]))
    yield Node(
        kind=PROTECTED_NGRAMS,
        settings=Protecting(ngram=settings.ngram),
        folder=folder,
        files=tuple(Path(pattern).relative_to(folder).as_posix() for pattern in settings.patterns),
    )


def _folder_of(pattern: str) -> Path:
    """Return the folder that a file or a glob pattern begins with."""
    return next(one for one in Path(pattern).parents if not set("*?[") & set(str(one)))


def _make(work: Work[Protecting]) -> Result:
    """Read every file, and keep a hash of each run of words."""

    def write(draft: Draft) -> None:
        folder, num_words = work.node.folder or Path(), work.settings.ngram
        protected, num_texts, num_short, rows = Protected(num_words), 0, 0, []
        for path in files_of_node(work.node):
            work.run.stop.look()
            if not path.name.lower().endswith(ENDINGS):
                raise CorpusError(
                    f"{path}: corpus.decontamination.against reads {' and '.join(ENDINGS)}; let it name only such"
                )
            texts, before = list(texts_of_file(path)), len(protected)
            name = path.relative_to(folder).as_posix()
            short = protect_texts(protected, texts, num_words=num_words, found_in=name)
            rows.append({"file": name, "texts": len(texts), "too short": short, "new runs": len(protected) - before})
            num_texts, num_short = num_texts + len(texts), num_short + short
        require_copied(work.node, draft.recipe, folder)
        protected.write(draft.path / TABLE)
        draft.facts = {"num_texts": num_texts, "num_too_short": num_short, "num_ngrams": len(protected), "files": rows}

    return work.make(write)


PROTECTED_NGRAMS = Kind(
    name="protected_ngrams",
    code_version="1",
    section="corpus",
    technologies=frozenset({"parquet"}),
    description="""One row for each run of words of the benchmarks' files: its hash, and the first file that has it.

Documents that share one are listed, or dropped: `corpus.decontamination`. A text of fewer words has none.""",
    nodes=_nodes,
    make=_make,
    copied_files=lambda _: [],
    table=TABLE,
    is_view=True,
    columns={"ngram_hash": "of the words of the run", "found_in": "the first file that holds it"},
)


def protected_by(settings: Decontamination | None) -> dict[str, str]:
    """Return the input of what holds documents against benchmarks' files, by its role; none where no file is named."""
    return {PROTECTED_NGRAMS.name: PROTECTED_NGRAMS.name} if settings is not None and settings.patterns else {}


def open_protected(work: Work[Any], runs: Runs) -> Decontaminator:
    """Return what knows the texts of the files that an asset holds documents against."""
    protected = Protected(runs.ngram)
    if PROTECTED_NGRAMS.name in work.node.inputs:
        for table in work.input_tables(PROTECTED_NGRAMS.name):
            protected.read(table)
    return Decontaminator(runs, protected)
