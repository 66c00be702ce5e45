"""An asset in pieces of which several are made at once, each by a crew's process, and published on its own."""

import queue
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from miniplm_assets.core.errors import CorpusChangedError, CorpusError, TransientError
from miniplm_assets.lineage.crew import Crew, Task
from miniplm_assets.lineage.pieces import raise_all
from miniplm_assets.lineage.work import MAX_BAD_FILES, Work
from miniplm_assets.storage.store import Draft, Result

# Drafts that may be open, for each that is worked on: one that waits for its turn does not keep the others waiting.
MAX_WAITING: Final = 4


@dataclass(frozen=True)
class Steps:
    """How a piece is made.

    Attributes:
        first: a task, which any process does at any time; what it returns are the facts of the draft. Or several, which
            write no file of the draft.
        then: is called once they are done, and all earlier pieces have come so far; in the run's own thread. Returns
            the task that fills the draft, whose facts count. None where the first one does all.
    """

    first: Task | Sequence[Task]
    then: Callable[[], Task] | None = None


def make_side_by_side(
    work: Work[Any],
    steps_of: Callable[[str, Draft], Steps],
    crew: Crew,
    finish: Callable[[Draft], None] | None = None,
) -> Result:
    """Make what is missing of an asset in pieces, several at once, each published as soon as it is made.

    Processes compute. All the rest happens in this thread: taking locks, publishing, what goes by the order of pieces.

    Args:
        work: the asset.
        steps_of: says how a piece is made into its draft.
        crew: does the tasks; it is closed at the end.
        finish: as in `Work.make_pieces`.

    Raises:
        CorpusError: after the good files have been made, if some are not; what is wrong with each.
    """
    making = _SideBySide(work, steps_of, crew)
    with ThreadPoolExecutor(crew.num_at_once, "crew") as threads:
        try:
            making.make(threads)
        except BaseException as error:
            crew.close(is_at_once=True)
            threads.shutdown(cancel_futures=True)  # nobody may write into a draft that is given up
            making.give_up(error)
            raise
        crew.close()
    raise_all([making.faults[number] for number in sorted(making.faults)])
    return work.whole({piece: making.pieces[piece] for piece in work.piece_recipes}, finish)


@dataclass
class _Piece:
    name: str
    number: int
    draft: Draft
    then: Callable[[], Task] | None = None
    num_under_way: int = 0
    answer: Any = None
    fault: CorpusError | None = None


class _SideBySide:
    """The pieces under way.

    Attributes:
        pieces: the results so far.
        faults: what is wrong with files, by their number.
    """

    def __init__(self, work: Work[Any], steps_of: Callable[[str, Draft], Steps], crew: Crew) -> None:
        self.pieces: dict[str, Result] = {}
        self.faults: dict[int, CorpusError] = {}
        self._work, self._steps_of, self._crew = work, steps_of, crew
        self._left = deque(enumerate(work.piece_recipes.items()))
        self._open: dict[int, _Piece] = {}
        self._in_turn: deque[_Piece] = deque()  # those that have not been asked what follows their first task
        self._under_way: dict[Future[Any], _Piece] = {}
        self._num_good = len(self._left)  # pieces from this one on rest on a bad one

    def make(self, threads: ThreadPoolExecutor) -> None:
        """Make all pieces that can be made."""
        num_at_once, errands = self._crew.num_at_once, self._work.run.errands
        while self._left or self._under_way:
            is_full = len(self._under_way) >= num_at_once or len(self._open) >= MAX_WAITING * num_at_once
            if self._left and not is_full:
                self._begin(threads)
                self._work.run.stop.look()
            elif not any(future.done() for future in self._under_way):  # a report may have done their errands
                errands.get()()
            self._take_answers()
            self._take_turns(threads)
        while not errands.empty():
            errands.get()()

    def give_up(self, error: BaseException) -> None:
        """Give up what is under way."""
        with ExitStack() as stack:  # each of them, whatever is said of a full disk over another
            for piece in self._open.values():
                stack.callback(self._work.pipeline.store.give_up, piece.draft, error)

    def _begin(self, threads: ThreadPoolExecutor) -> None:
        number, (name, recipe) = self._left.popleft()
        begun = self._work.begin(recipe)
        if isinstance(begun, Result):
            self.pieces[name] = self._work.note(name, begun)
            return
        # Before its steps are asked for: whatever they raise, it is given up.
        piece = self._open[number] = _Piece(name, number, begun)
        steps = self._steps_of(name, begun)
        piece.then = steps.then
        if steps.then is not None:
            self._in_turn.append(piece)
        self._submit(threads, piece, steps.first if isinstance(steps.first, Sequence) else [steps.first])

    def _submit(self, threads: ThreadPoolExecutor, piece: _Piece, tasks: Sequence[Task]) -> None:
        piece.num_under_way = len(tasks)
        for task in tasks:
            future = threads.submit(self._crew.do, task, piece.name, piece.draft.path, self._work.report)
            self._under_way[future] = piece
            future.add_done_callback(lambda _: _wake(self._work.run.errands))

    def _take_answers(self) -> None:
        for future in [future for future in self._under_way if future.done()]:
            piece = self._under_way.pop(future)
            try:
                piece.answer = future.result()
            except (CorpusChangedError, TransientError):
                raise
            except CorpusError as error:  # one bad file does not keep the good ones from being made
                piece.fault = piece.fault or error
            piece.num_under_way -= 1
            if piece.num_under_way:
                continue  # the others may write yet
            if piece.fault is not None:
                self._note_fault(piece, piece.fault)
            elif piece.number >= self._num_good:
                self._drop(piece, CorpusError(f"shard {piece.name}: a file before it cannot be used"))
            elif piece.then is None:
                self._publish(piece)

    def _take_turns(self, threads: ThreadPoolExecutor) -> None:
        while self._in_turn and not self._in_turn[0].num_under_way:
            piece = self._in_turn.popleft()
            assert piece.then is not None, piece.name
            task = piece.then()
            piece.then = None
            self._submit(threads, piece, [task])

    def _publish(self, piece: _Piece) -> None:
        piece.draft.facts = piece.answer
        self.pieces[piece.name] = self._work.note(piece.name, self._work.publish(piece.draft))
        del self._open[piece.number]
        self._work.run.stop.look()

    def _note_fault(self, piece: _Piece, error: CorpusError) -> None:
        self._drop(piece, error)
        if piece.number >= self._num_good:  # its own fault is told once those before it are good
            return
        self.faults[piece.number] = error
        if self._work.node.reads_earlier_pieces:
            error.add_note("The files after it are read once this one is good: what stays of them rests on it.")
            self._leave_out_from(piece.number, error)
        elif len(self.faults) == MAX_BAD_FILES:
            error.add_note(f"After {MAX_BAD_FILES} files like that the others were not looked at.")
            self._left.clear()

    def _leave_out_from(self, number: int, error: CorpusError) -> None:
        """Make no piece that rests on a bad one; those of them that are under way are dropped when they answer."""
        self._num_good = number
        self._left.clear()
        self.faults = {place: fault for place, fault in self.faults.items() if place <= number}
        for piece in [piece for piece in self._in_turn if piece.number > number]:
            self._in_turn.remove(piece)
            if not piece.num_under_way:
                self._drop(piece, error)

    def _drop(self, piece: _Piece, error: CorpusError) -> None:
        if piece in self._in_turn:
            self._in_turn.remove(piece)
        del self._open[piece.number]
        self._work.pipeline.store.give_up(piece.draft, error)


def _wake(errands: "queue.SimpleQueue[Callable[[], object]]") -> None:
    """Let the one who waits for an errand look again."""
    errands.put(lambda: None)
