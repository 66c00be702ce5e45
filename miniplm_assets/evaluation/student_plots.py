"""The pictures of students: their losses while they learn, what these cost, and where they lead.

As those of `evaluation.plots`.
"""

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from miniplm_assets.evaluation.comparison import StudentRecord, find_student
from miniplm_assets.evaluation.differences import tokens_saved
from miniplm_assets.evaluation.figures import Format, height_inches, name_beside, new_figure, shortened, written
from miniplm_assets.evaluation.held_out import counted_domains
from miniplm_assets.evaluation.line_styles import GREY, LineStyle, line_styles
from miniplm_assets.evaluation.scaling import AHEAD, StudentLaw

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

# More lines than this cover each other's markers, and a legend within the picture covers the lines.
MAX_MARKED_LINES = 6
# The width, in the size of a note.
NOTE_CHARACTERS = 130


def plot_loss_curves(
    students: Sequence[StudentRecord],
    *,
    baseline: str | None,
    excluded_domains: Collection[str] = (),
    styles: Mapping[str, LineStyle] | None = None,
    picture: Format = "png",
) -> bytes:
    """Draw the held-out loss of every student with the baseline's tokenizer against the tokens that it saw.

    Without a baseline, of every student: they have one tokenizer.

    The losses are those of the sample that is measured along the way: of several seeds the mean, in a band from the
    lowest to the highest of them. A dashed line is the baseline's final loss; where another student crosses it first,
    the tokens saved are written. Many lines are named beside the picture, the lowest last one first.

    Args:
        students: by seeds.
        baseline: name of the student that the others are held against.
        excluded_domains: left out of the losses.
        styles: of the students, by name; where absent, those here are all there are.
        picture: its format.

    Raises:
        TrainingError: if there is no student of the baseline's name.
    """
    base = None if baseline is None else find_student(students, baseline)
    shown = [*students]
    if base is not None:
        shown = [base, *(one for one in students if one is not base and one.tokenizer == base.tokenizer)]
    first = shown[0]
    are_many = len(shown) > MAX_MARKED_LINES
    figure, axes = new_figure(height_inches(len(shown), picture, least=4.8), picture)
    unit, unit_name = _token_unit(max(student.num_tokens for student in shown))
    final = first.final_curve_loss(excluded_domains)
    # By hand: of labels that begin with an underscore, the library would draw none.
    legend: dict[Line2D, str] = {}
    if base is not None:
        line = axes.axhline(final, color=GREY, linestyle="--", linewidth=1, zorder=1)
        if not are_many:  # else each line names its last loss
            legend[line] = f"final loss of {shortened(base.name)} on this sample: {final:.3f}"
    best: tuple[float, str, str] | None = None
    styles = styles or line_styles(one.name for one in shown)
    if are_many:
        shown.sort(key=lambda one: one.final_curve_loss(excluded_domains))
    for student in shown:
        style = styles[student.name]
        lines = []
        for curve in _curves(student, excluded_domains):
            tokens, losses = curve["num_tokens"] / unit, curve["held_out_nll_nats_per_token"]
            lines += axes.plot(
                tokens,
                losses,
                color=style.colour,
                linestyle=style.dashes,
                marker=None if are_many else style.marker,
                markersize=4,
                linewidth=2.4 if are_many and student is base else 1.6,
            )
            if "lowest" in curve.columns:
                axes.fill_between(
                    tokens, curve["lowest"], curve["highest"], color=style.colour, alpha=0.18, linewidth=0
                )
        last = f"{student.final_curve_loss(excluded_domains):.3f}"
        of_corpus = f"({shortened(student.corpus)})"
        legend[lines[0]] = f"{shortened(student.name)} {last if are_many else of_corpus}"
        if base is None or student is base:
            continue
        factor = tokens_saved(student, base, excluded_domains).get("tokens_saved_factor")
        if factor is None:
            continue
        needed = base.num_tokens / factor / unit
        axes.plot([needed], [final], marker="o", markersize=11, markerfacecolor="none", color=style.colour)
        if best is None or factor > best[0]:
            best = (factor, student.name, style.colour)
    if base is not None and best is not None and best[0] > 1:
        factor, name, colour = best
        axes.annotate(
            f"{shortened(name)} gets there with\n{factor:.2f} times fewer tokens",
            (base.num_tokens / factor / unit, final),
            xytext=(0.02, 0.04),  # falling curves leave this corner free
            textcoords="axes fraction",
            color=colour,
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": colour, "shrinkB": 6},
        )
    lowest, highest = axes.get_ylim()
    axes.set_ylim(lowest - 0.15 * (highest - lowest), highest)
    axes.set_xlabel(f"tokens trained on ({unit_name})")
    present = first.runs[0].held_out_log["domain"].unique()
    counted = counted_domains([shortened(domain) for domain in excluded_domains if domain in present])
    axes.set_ylabel(f"held-out loss on a sample of\n{counted} (nats per token)")
    axes.set_title("Held-out loss while the students learn: lower is better", loc="left")
    axes.set_xlim(left=0)
    if are_many or picture == "svg":
        name_beside(axes, list(legend), list(legend.values()), picture)
    else:
        axes.legend(list(legend), list(legend.values()), frameon=False, loc="upper right")
    return written(figure, picture)


def _curves(student: StudentRecord, excluded_domains: Collection[str]) -> Iterator[pl.DataFrame]:
    """Go through the lines of a student: the mean over its seeds, between the lowest and the highest.

    A line for each seed where they were not measured alike.
    """
    curves = [run.curve(excluded_domains) for run in student.runs]
    if len(curves) == 1 or len({curve.height for curve in curves}) > 1:
        yield from curves
        return
    loss = pl.col("held_out_nll_nats_per_token")
    yield (
        pl.concat(curve.with_row_index("place") for curve in curves)
        .group_by("place")
        .agg(pl.col("num_tokens").mean(), loss.mean(), lowest=loss.min(), highest=loss.max())
        .sort("place")
    )


def plot_break_even(
    break_even: pl.DataFrame,
    ledger: pl.DataFrame,
    *,
    baseline: str,
    styles: Mapping[str, LineStyle] | None = None,
    picture: Format = "png",
) -> bytes:
    """Draw what reaching the baseline's final loss costs, over the number of students that are trained.

    A line for the baseline, and one for each student all of whose seeds reached that loss: what was made before is
    paid once, training for each. The others are named below.

    Args:
        break_even: as `break_even_table` returns it.
        ledger: as `ledger_table` returns it.
        baseline: whose loss is to be reached.
        styles: of the students, by name; where absent, those of the ledger are all there are.
        picture: its format.
    """
    against = break_even.filter(pl.col("opponent") == baseline)
    reached = against.filter(pl.col("training_flops").is_not_null())
    base = ledger.row(by_predicate=pl.col("student") == baseline, named=True)
    lines = [(baseline, base["offline_flops"], base["training_flops"])]
    lines += list(reached.select("student", "offline_flops", "training_flops").iter_rows())
    crossings = [count for count in reached["cheaper_from_students"] if count is not None]
    most = max(10, *(3 * count for count in crossings)) if crossings else 10
    figure, axes = new_figure(height_inches(len(lines), picture, least=4.2), picture)
    counts = [most ** (step / 60) for step in range(61)]
    drawn = []
    styles = styles or line_styles(ledger["student"])
    for name, offline, training in lines:
        style = styles[name]
        costs = [offline + count * training for count in counts]
        width = 2.4 if name == baseline else 1.6
        drawn += axes.plot(counts, costs, color=style.colour, linestyle=style.dashes, linewidth=width)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:.0e}")
    axes.minorticks_off()
    axes.set_xlabel("students that are trained")
    axes.set_ylabel("FLOPs, with what was made before")
    axes.set_title(f"What it costs to reach the final loss of {shortened(baseline)}", loc="left")
    never = [shortened(name) for name in against.filter(pl.col("training_flops").is_null())["student"]]
    if never and picture == "png":  # the page around it says so by itself
        note = textwrap.fill("never there: " + ", ".join(never), NOTE_CHARACTERS)
        figure.supxlabel(note, x=0.01, ha="left", fontsize=9)
    name_beside(axes, drawn, [shortened(name) for name, _, _ in lines], picture)
    return written(figure, picture)


def plot_scaling(
    laws: Sequence[StudentLaw], *, styles: Mapping[str, LineStyle] | None = None, picture: Format = "png"
) -> bytes:
    """Draw the evaluations of each student against its training FLOPs, with its law as far ahead as it is followed.

    A band is the 95 % interval of the law beyond the training. Students without a law are points alone.
    """
    import numpy as np

    figure, axes = new_figure(height_inches(len(laws), picture, least=4.8), picture)
    legend: dict[Line2D, str] = {}
    are_many = len(laws) > MAX_MARKED_LINES
    styles = styles or line_styles(law.student.name for law in laws)
    for law in laws:
        style = styles[law.student.name]
        colour = style.colour
        [line] = axes.plot(
            law.points["flops"], law.points["nll_nats_per_token"], style.marker, color=colour, markersize=3
        )
        legend[line] = shortened(law.student.name)
        if law.fit is None or law.problem is not None:
            legend[line] += " (no law)"
            continue
        flops = np.geomspace(law.points["flops"].to_numpy().min(), AHEAD * law.flops, 100)
        axes.plot(
            flops, [law.fit.law.loss(each) for each in flops], color=colour, linestyle=style.dashes, linewidth=1.2
        )
        if not are_many:
            ahead = flops[flops >= law.flops]
            ends = np.array([law.fit.interval_of_loss(each) for each in ahead])
            axes.fill_between(ahead, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0e}")
    axes.minorticks_off()
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("held-out loss on the sample that is\nmeasured along the way (nats per token)")
    axes.set_title(f"The law of each student, followed to {AHEAD} times its training", loc="left")
    name_beside(axes, list(legend), list(legend.values()), picture)
    return written(figure, picture)


def _token_unit(num_tokens: int) -> tuple[float, str]:
    for unit, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if num_tokens >= unit:
            return unit, name
    return 1.0, "tokens"
