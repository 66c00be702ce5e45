"""The paper's figures beside those of the students that repeat its own."""

from collections.abc import Mapping
from statistics import fmean

from miniplm_assets.core.paper import ACCURACY_PERCENT, AVERAGE_PERCENT, TASKS, PaperStudent
from miniplm_assets.evaluation.report.blocks import Cell, Column, Number, Section, Source, Table, Words
from miniplm_assets.evaluation.report.numbers import NOT_THERE


def paper_section(
    repeated: Mapping[str, PaperStudent],
    measured: Mapping[str, Mapping[str, float]],
    sources: Mapping[str, Source],
) -> Section | None:
    """Put the paper's accuracies beside ours.

    Args:
        repeated: the paper's student that each of ours repeats.
        measured: accuracy in [0, 1] by task, of each of ours; none where nothing was measured.
        sources: where that is from.
    """
    if not repeated:
        return None
    rows: list[list[Cell]] = []
    for name, theirs in repeated.items():
        printed = ACCURACY_PERCENT.get(theirs)
        ours = {task: 100 * value for task, value in measured.get(name, {}).items()}
        is_whole = all(task in ours for task in TASKS)
        rows.append(
            [
                f"{theirs} (paper)",
                _percent(AVERAGE_PERCENT[theirs]),
                *([NOT_THERE] * len(TASKS) if printed is None else map(_percent, printed)),
            ]
        )
        average = _percent(fmean(ours[task] for task in TASKS)) if is_whole else "not measured"
        rows.append([f"{name} (here)", average, *(_percent(ours.get(task)) for task in TASKS)])
    missing = [name for name in repeated if not measured.get(name)]
    said = f" Not measured here: {', '.join(missing)}." if missing else ""
    table = Table(
        caption="Zero-shot accuracy on the paper's nine tasks (%)",
        columns=[Column("student"), Column("average"), *map(Column, TASKS)],
        rows=rows,
        sources=list(sources.values()),
        note="The paper's: as printed in arXiv 2410.17215, acc_norm where a task has it, else acc; where it prints the "
        f"average alone, the tasks are empty. Ours: the mean over seeds.{said}",
    )
    words = Words(
        text="The paper's students learnt from the Pile. Where corpus, tokens or models differ from the paper's, these "
        "rows stand beside each other for orientation, and are no repetition."
    )
    return Section(title="The paper, and this", blocks=[words, table])


def _percent(value: float | None) -> Cell:
    return NOT_THERE if value is None else Number(value, f"{value:.1f}")
