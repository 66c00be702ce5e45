"""One asset in one run: its settings and inputs, and making its result unless it is stored.

Nothing here knows who runs it; see `lineage.run`. What a kind's `make` is given is all that it may read: its own
settings, and the stored results of its inputs.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property, partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Generic, Protocol

from miniplm_assets.core.errors import CorpusChangedError, CorpusError, TransientError
from miniplm_assets.core.facts import COLUMNS, PIECES, sum_facts
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.kind import Node, S
from miniplm_assets.lineage.piece_rows import PieceRow, note_rows, noted_rows, row_of
from miniplm_assets.lineage.pieces import over_seeds, raise_all
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.run import Run
from miniplm_assets.lineage.tally import Tally
from miniplm_assets.lm.part_threads import PartThreads
from miniplm_assets.storage.store import Draft, Result

# How often somebody who waits for another run's result looks for it.
INPUT_POLL_SECONDS: Final = 1.0
# Where so many are bad, it is not the files: each of them may be hours of reading.
MAX_BAD_FILES: Final = 20


class PartsOfPiece(Protocol):
    """A piece that is made in parts: each computed in some thread, all put together in their order."""

    def works(self) -> Iterator[Callable[[], Any]]:
        """Go through what computes each part."""

    def add(self, part: Any) -> None:
        """Take the next part, in the order of `works`."""

    def finish(self) -> None:
        """Complete the draft, once every part is there."""


class Work(Generic[S]):
    """One asset in one run.

    Attributes:
        pipeline: the experiment.
        node: the asset.
        run: who runs it.
        tally: what it took so far.
    """

    def __init__(self, pipeline: Pipeline, node: Node[S], run: Run) -> None:
        self.pipeline = pipeline
        self.node = node
        self.run = run
        self.tally = Tally()
        self._was_stored = False

    @property
    def settings(self) -> S:
        """All that it may read of the experiment file: what its fingerprint hashes, and where and how to compute."""
        return self.node.settings

    @property
    def report(self) -> Callable[[str], None]:
        """Takes a line of progress."""
        return self.run.report

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """The recipes of all results on the state of the corpus that this run works on."""
        # What comes from elsewhere, such as a model of a hub, does not wait until somebody has looked at the corpus.
        return self.pipeline.fingerprints(self.run.snapshot() if self.node.inputs else None)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the whole asset."""
        return self.fingerprints.recipe(self.node.key)

    @property
    def piece_recipes(self) -> dict[str, Recipe]:
        """The recipe of each piece."""
        return self.fingerprints.pieces(self.node.key)

    def bring_back(self) -> None:
        """Put back what was set aside with what it rests on, where that still holds; no model is loaded for it."""
        if self.pipeline.store.aside.may_hold(self.node.kind.name):
            for recipe in self.fingerprints.stored(self.node.key):
                self.pipeline.store.bring_back(recipe)

    @property
    def is_stored(self) -> bool:
        """Whether nothing is left to make: each piece is there, where it has pieces."""
        if not self._was_stored:  # what is stored stays; what is missing another run may be making
            recipes = self.fingerprints.stored(self.node.key)
            self._was_stored = all(map(self.pipeline.store.holds, recipes))
        return self._was_stored

    def input_node(self, role: str) -> Node[Any]:
        """Return the node of an input."""
        return self.pipeline.graph[self.node.inputs[role]]

    def input(self, role: str) -> Result:
        """Return the stored result of a whole input.

        Raises:
            MissingResultError: if it has not been materialised.
        """
        return self._stored(self.node.inputs[role], self.fingerprints.recipe(self.node.inputs[role]))

    def input_pieces(self, role: str) -> dict[str, Result]:
        """Return the stored results of an input in pieces: of the corpus files that this asset reads, or of all seeds.

        Raises:
            MissingResultError: if one has not been materialised.
        """
        needed = self.input_node(role)
        recipes = self.fingerprints.pieces(needed.key)
        wanted = self.fingerprints.matching_shards(self.node) if needed.kind.pieces == "shard" else list(recipes)
        return {piece: self._stored(needed.key, recipes[piece]) for piece in wanted}

    def input_tables(self, role: str) -> list[Path]:
        """Return the Parquet files of an input's table: of each piece that this asset reads, or of the whole."""
        kind = self.input_node(role).kind
        results = self.input_pieces(role).values() if kind.pieces else [self.input(role)]
        return [path for result in results for path in result.matching(kind.table or "")]

    def _stored(self, key: str, recipe: Recipe) -> Result:
        """Return the stored result of an input, after another run has made it where one is at it.

        Raises:
            MissingResultError: if it is not there, and nobody is making it.
        """
        store, awaited = self.pipeline.store, None
        while (found := store.find(recipe)) is None and (maker := self.run.maker_of(key)) is not None:
            if maker != awaited:
                self.report(f"{recipe.describe()} has no stored result yet: {maker} is making it; waiting for that")
                awaited = maker
            self.run.stop.look()
            time.sleep(INPUT_POLL_SECONDS)
        return found or store.require(recipe)

    def make(self, write: Callable[[Draft], None]) -> Result:
        """Return the asset's result; make it unless it is stored."""
        result = self.make_as(self.recipe, write)
        self._report_reuse(result)
        return result

    def make_as(self, recipe: Recipe, write: Callable[[Draft], None]) -> Result:
        """Return the result of a recipe; make it unless it is stored, or another run makes it meanwhile."""
        begun = self.begin(recipe)
        if isinstance(begun, Result):
            return begun
        try:
            write(begun)
            result = self.publish(begun)
        except BaseException as error:
            self.pipeline.store.give_up(begun, error)
            raise
        self.run.stop.look()
        return result

    def make_pieces(
        self,
        write: Callable[[str, Draft], None],
        finish: Callable[[Draft], None] | None = None,
    ) -> Result:
        """Make what is missing of an asset in pieces, one after the other, each published on its own.

        Raises:
            CorpusError: after the good files have been made, if some are not; what is wrong with each.

        Args:
            write: fills the draft of a corpus file, or of a seed.
            finish: adds to the facts of all pieces together what follows from them: a mean, the outcome of a check.
        """
        if (found := self._found_whole()) is not None:
            return found

        def write_piece(piece: str) -> Callable[[Draft], None]:
            return lambda draft: write(piece, draft)

        pieces: dict[str, Result] = {}
        faults: list[CorpusError] = []
        for piece, recipe in self.piece_recipes.items():
            try:
                pieces[piece] = self.note(piece, self.make_as(recipe, write_piece(piece)))
            except (CorpusChangedError, TransientError):
                raise
            except CorpusError as error:  # one bad file does not keep the good ones from being made
                faults.append(error)
                if self.node.reads_earlier_pieces:
                    error.add_note("The files after it are read once this one is good: what stays of them rests on it.")
                    break
                if len(faults) == MAX_BAD_FILES:
                    error.add_note(f"After {MAX_BAD_FILES} files like that the others were not looked at.")
                    break
        raise_all(faults)
        return self.whole(pieces, finish)

    def make_in_parts(
        self,
        begin: Callable[[str, Draft], PartsOfPiece],
        threads: PartThreads,
        finish: Callable[[Draft], None] | None = None,
    ) -> Result:
        """Make what is missing of an asset in pieces, as one stream of parts over all pieces, in their order.

        Parts are computed in other threads, several at once, also over the border of a piece. All the rest happens
        in this thread: taking locks, putting parts together, publishing each piece on its own.

        Args:
            begin: gives the parts of a corpus file, or of a seed.
            threads: compute them.
            finish: as in `make_pieces`.
        """
        pieces: dict[str, Result] = {}
        making: dict[str, tuple[Draft, PartsOfPiece]] = {}

        def works() -> Iterator[tuple[str, Callable[[], Any] | None]]:
            for piece, recipe in self.piece_recipes.items():
                begun = self.begin(recipe)
                if isinstance(begun, Result):
                    pieces[piece] = self.note(piece, begun)
                    continue
                unfinished.push(partial(self._give_up, begun))
                parts = begin(piece, begun)
                making[piece] = begun, parts
                yield piece, None  # a mark: a piece without parts is one too
                for work in parts.works():
                    yield piece, work

        with ExitStack() as unfinished:
            for piece, computed in groupby(threads.in_order(works(), self.run.errands), key=itemgetter(0)):
                draft, parts = making.pop(piece)
                for _, part in islice(computed, 1, None):
                    parts.add(part)
                parts.finish()
                pieces[piece] = self.note(piece, self.publish(draft))
                self.run.stop.look()
        return self.whole({piece: pieces[piece] for piece in self.piece_recipes}, finish)

    def begin(self, recipe: Recipe) -> Result | Draft:
        """Return the stored result of a recipe, or else a draft, to be published or given up."""
        begun = self.pipeline.store.begin(recipe, self.report)
        if isinstance(begun, Result):
            self.tally.count(begun, is_computed=False)
        else:
            begun.made_by |= {} if self.run.run_id is None else {"run": self.run.run_id}
            self.report(f"{recipe.describe()}: making {recipe.fingerprint}")
        return begun

    def note(self, piece: str, result: Result) -> Result:
        """Let whoever watches the run see how far it is."""
        self.tally.pieces[piece] = result
        self.tally.rows[piece] = row_of(result, self.node.kind)
        self.run.progressed(self.tally, self.piece_recipes)
        return result

    def publish(self, draft: Draft) -> Result:
        """Put a finished draft in its place."""
        with self.run.stop.held():  # what is finished is not thrown away
            result = self.pipeline.store.publish(draft)
        self.tally.count(result, is_computed=True)
        return result

    def _give_up(self, draft: Draft, _type: Any, error: BaseException | None, _trace: Any) -> None:
        """Give a draft up where the stack that it stands in ends with an error, unless it was published."""
        if error is not None and not draft.lock.closed:
            self.pipeline.store.give_up(draft, error)

    def whole(self, pieces: Mapping[str, Result], finish: Callable[[Draft], None] | None) -> Result:
        """Return the result of an asset in pieces, from those of all of its pieces in their order."""

        def write(draft: Draft) -> None:
            facts = (result.facts for result in pieces.values())
            draft.facts = sum_facts(facts) if self.node.kind.pieces == "shard" else over_seeds(pieces)
            if finish is not None:
                finish(draft)
            kind = self.node.kind
            draft.facts[PIECES] = [
                {
                    "piece": piece,
                    "fingerprint": result.manifest.fingerprint,
                    "num_rows": kind.table_of(result).num_rows,
                    "num_bytes": result.manifest.num_bytes,
                }
                for piece, result in pieces.items()
            ]
            draft.facts[COLUMNS] = dict(kind.table_of(next(iter(pieces.values()))).columns)

        result = self.pipeline.store.make(self.recipe, write, self.report)
        if self.node.kind.pieces == "shard" and self.pipeline.takes_notes and not self._noted_rows():
            note_rows(self.pipeline.store, self.recipe, self.tally.rows)
        self._report_reuse(result)
        return result

    def _found_whole(self) -> Result | None:
        """Return the whole of an asset where all of its pieces are there, and known without being read; else None."""
        if self.node.kind.pieces != "shard" or (rows := self._noted_rows()) is None or not self.is_stored:
            return None
        whole = self.pipeline.store.find(self.recipe)
        if whole is not None:
            self.tally.find_all(rows)
            self._report_reuse(whole)
        return whole

    def _noted_rows(self) -> dict[str, PieceRow] | None:
        return noted_rows(self.pipeline.store, self.recipe, self.piece_recipes)

    def _report_reuse(self, result: Result) -> None:
        if not self.tally.num_computed:
            self.report(f"{self.node.key}: stored as {result.manifest.fingerprint}, nothing to do")
        elif self.tally.num_reused:
            self.report(f"{self.node.key}: {self.tally.num_computed} computed, {self.tally.num_reused} found stored")
