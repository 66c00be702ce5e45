"""What a student is, in words for whoever did not write the experiment file: what it learns from, and how."""

from collections.abc import Iterator, Sequence

from miniplm_assets.experiment import Experiment, Selection, Student
from miniplm_assets.experiment.objectives import CrossEntropy


def student_words(experiment: Experiment, student: Student) -> str:
    """Return what a student learns from, and what beside cross-entropy it minimises."""
    return "; ".join([_corpus(experiment, student), *_objective(student)])


def seeds_in_words(losses: Sequence[float]) -> str:
    """Return how far the losses of several seeds lie apart; nothing of one."""
    return f", from {min(losses):.4g} to {max(losses):.4g}, of {len(losses)} seeds" if len(losses) > 1 else ""


def _corpus(experiment: Experiment, student: Student) -> str:
    if student.generation is not None:
        return f"what {experiment.generations[student.generation].teacher} wrote"
    if student.selection is None:
        return "all candidates"
    return selection_in_short(experiment.selections[student.selection])


def selection_in_short(selection: Selection) -> str:
    """Return what a selection keeps, and whether it is a control."""
    amount = (
        f"{selection.token_budget:,} tokens of the candidates"
        if selection.keep_fraction is None
        else f"{selection.keep_fraction:.3g} of the candidates"
    )
    of = "" if selection.pre_filter is None else f" that {selection.pre_filter} keeps"
    words = ", ".join([_ranked(selection), *_changes(selection)])
    control = " (a control)" if selection.is_control else ""
    return f"{amount}{of}: {words}{control}"


def _ranked(selection: Selection) -> str:
    is_highest = selection.order == "highest"
    match selection.score:
        case "difference":
            of = f"differences of {selection.teacher} and {selection.reference}"
            return f"the {selection.order} {of}{', MiniPLM' if selection.is_plain else ''}"
        case "teacher" | "reference":
            model = selection.teacher if selection.score == "teacher" else selection.reference
            return f"what {model} finds {'easiest' if is_highest else 'hardest'}"
        case "prior":
            return f"the {'most' if is_highest else 'least'} usual token frequencies, without a model"
        case "random":
            without = ", ".join(selection.unwanted_domains)
            return f"by chance, without {without} as labelled" if without else "by chance"


def _changes(selection: Selection) -> Iterator[str]:
    if selection.scale_correction != "none":
        yield f"{selection.scale_correction} scale"
    if selection.within is not None:
        yield f"in each {selection.within} alike"
    if selection.temperature is not None:
        yield f"drawn at temperature {selection.temperature:g}"
    if selection.proxy is not None:
        yield f"by a proxy that learns it from {selection.proxy.share:.0%}"


def _objective(student: Student) -> Iterator[str]:
    objective = student.objective
    if not isinstance(objective, CrossEntropy):
        yield f"{objective.type}, taught by {objective.teacher}"
