"""The pictures: loss curves, the differences and their cutoff, the domains before and after.

Each returns a PNG, 900 pixels wide; or an SVG, narrower and without its title, whose text is text. None names the asset
that it is stored with, since that may be found again under another name. Names are drawn as they stand, never as
markup, and shortened where they are long. The colours are those of Okabe and Ito, told apart by every eye.
"""

import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import polars as pl

from miniplm_assets.evaluation.comparison import StudentRecord, find_student, tokens_to_baseline_loss
from miniplm_assets.evaluation.differences import tokens_saved
from miniplm_assets.evaluation.figures import Format, height_inches, name_beside, new_figure, written
from miniplm_assets.evaluation.held_out import counted_domains
from miniplm_assets.evaluation.scaling import AHEAD, StudentLaw

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
GREY, PALE, INK = "#8A8A8A", "#B8B8B8", "#222222"
MARKERS = "osD^vP"
# More bars than this cannot be read; the smaller domains stand in one.
MAX_DOMAINS = 24
# More lines than this cover each other's markers, and a legend within the picture covers the lines.
MAX_MARKED_LINES = 6
LINE_STYLES = ("-", "--", ":", "-.")
# A third of the width, in the size of labels.
MAX_NAME_CHARACTERS = 40
# The width, in the size of a note.
NOTE_CHARACTERS = 130


def plot_loss_curves(
    students: Sequence[StudentRecord],
    *,
    baseline: str | None,
    excluded_domains: Collection[str] = (),
    picture: Format = "png",
) -> bytes:
    """Draw the held-out loss of every student with the baseline's tokenizer against the tokens that it saw.

    Without a baseline, of every student: they have one tokenizer.

    The losses are those of the sample that is measured along the way. One line for each seed, in the colour of its
    student. A dashed line is the baseline's final loss; where another student crosses it first, the tokens saved are
    written. Many lines are named beside the picture, the lowest last one first.

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
    if are_many:
        shown.sort(key=lambda one: one.final_curve_loss(excluded_domains))
    for place, student in enumerate(shown):
        colour = INK if student is base else COLOURS[(place - 1) % len(COLOURS)]
        for run in student.runs:
            curve = run.curve(excluded_domains)
            [line] = axes.plot(
                curve["num_tokens"] / unit,
                curve["held_out_nll_nats_per_token"],
                color=colour,
                linestyle=LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)] if are_many else "-",
                marker=None if are_many else MARKERS[place % len(MARKERS)],
                markersize=4,
                linewidth=2.4 if are_many and student is base else 1.6,
            )
            if run is student.runs[0]:
                last = f"{student.final_curve_loss(excluded_domains):.3f}"
                of_corpus = f"({shortened(student.corpus)})"
                legend[line] = f"{shortened(student.name)} {last if are_many else of_corpus}"
            if base is None or student is base:
                continue
            needed = tokens_to_baseline_loss(student, run, base, excluded_domains)
            if needed is not None:
                axes.plot([needed / unit], [final], marker="o", markersize=11, markerfacecolor="none", color=colour)
        if base is not None and student is not base:
            factor = tokens_saved(student, base, excluded_domains).get("tokens_saved_factor")
            if factor is not None and (best is None or factor > best[0]):
                best = (factor, student.name, colour)
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


def plot_difference_distribution(
    bins: pl.DataFrame,
    *,
    cutoff: float,
    unit: str,
    quantity: str = "difference: log p teacher - log p reference",
    kept: str = "those with the highest differences",
    picture: Format = "png",
) -> bytes:
    """Draw how the differences are distributed, what is kept, and the cutoff.

    Args:
        bins: bin_start_nats, bin_end_nats, num_candidates, num_kept, from low to high; the first and the last
            hold all that lies outside, and are drawn as wide as the others.
        cutoff: the lowest kept difference.
        unit: nats per token or nats per sequence.
        quantity: what the candidates are ranked by.
        kept: which of them are kept, in words.
        picture: its format.
    """
    inner = bins[1:-1] if bins.height > 2 else bins
    width = float((inner["bin_end_nats"] - inner["bin_start_nats"])[0])
    first, last = float(inner["bin_start_nats"][0]), float(inner["bin_end_nats"][-1])
    lefts = [first - width, *inner["bin_start_nats"].to_list(), last] if bins.height > 2 else inner["bin_start_nats"]
    num_kept, dropped = bins["num_kept"], bins["num_candidates"] - bins["num_kept"]
    kept_share = int(num_kept.sum()) / max(1, int(bins["num_candidates"].sum()))

    figure, axes = new_figure(4.2, picture)
    axes.bar(lefts, dropped, width=width, align="edge", color=PALE, label="discarded")
    axes.bar(lefts, num_kept, width=width, align="edge", bottom=dropped, color=BLUE, label="kept")
    axes.axvline(cutoff, color=RED, linewidth=1.6)
    axes.annotate(
        f"cutoff {cutoff:.3f}",
        (cutoff, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(6, 0),
        textcoords="offset points",
        va="top",
        color=RED,
        fontweight="bold",
    )
    axes.set_xlim(first - width, last + width)
    outermost = "the outermost bars hold all beyond"
    axes.set_xlabel(f"{quantity} ({unit});{' ' if picture == 'png' else chr(10)}{outermost}")
    axes.set_ylabel("candidate sequences")
    axes.set_title(f"{kept_share:.1%} of the candidates are kept: {kept}", loc="left")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if picture == "png":
        axes.legend(frameon=False, loc="upper left")
    else:  # where the title is not
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return written(figure, picture)


def plot_domain_shares(domain_shift: pl.DataFrame) -> bytes:
    """Draw the share of every domain before and after a selection, the most cut at the bottom.

    Args:
        domain_shift: domain, share_of_candidate_tokens, share_of_kept_tokens.
    """
    shares = _merge_small_domains(domain_shift).with_columns(
        change=pl.col("share_of_kept_tokens") - pl.col("share_of_candidate_tokens")
    )
    shares = shares.sort("change")
    places = list(range(shares.height))
    before: list[float] = (100 * shares["share_of_candidate_tokens"]).to_list()
    after: list[float] = (100 * shares["share_of_kept_tokens"]).to_list()
    figure, axes = new_figure(1.5 + 0.42 * max(3, shares.height))
    axes.barh([place + 0.2 for place in places], before, height=0.38, color=PALE, label="candidates")
    axes.barh([place - 0.2 for place in places], after, height=0.38, color=BLUE, label="refined corpus")
    largest = max(*before, *after)
    for place, was, now in zip(places, before, after, strict=True):
        axes.text(
            max(was, now) + 0.01 * largest, place, f"{was:.1f} % → {now:.1f} %", va="center", fontsize=9, color=INK
        )
    axes.set_yticks(places, [shortened(domain) for domain in shares["domain"]])
    axes.set_xlim(0, 1.22 * largest)
    axes.set_xlabel("share of the tokens (%)")
    axes.set_title("Domains before and after the selection", loc="left", pad=24)
    # Under the title: bars end anywhere, and long names leave no room beside it.
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return written(figure, "png")


def plot_break_even(break_even: pl.DataFrame, ledger: pl.DataFrame, *, baseline: str, picture: Format = "png") -> bytes:
    """Draw what reaching the baseline's final loss costs, over the number of students that are trained.

    A line for the baseline, and one for each student all of whose seeds reached that loss: what was made before is
    paid once, training for each. The others are named below.

    Args:
        break_even: as `break_even_table` returns it.
        ledger: as `ledger_table` returns it.
        baseline: whose loss is to be reached.
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
    for place, (_, offline, training) in enumerate(lines):
        colour = INK if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
        style = LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)]
        costs = [offline + count * training for count in counts]
        drawn += axes.plot(counts, costs, color=colour, linestyle=style, linewidth=2.4 if place == 0 else 1.6)
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


def plot_scaling(laws: Sequence[StudentLaw], picture: Format = "png") -> bytes:
    """Draw the evaluations of each student against its training FLOPs, with its law as far ahead as it is followed.

    A band is the 95 % interval of the law beyond the training. Students without a law are points alone.
    """
    import numpy as np

    figure, axes = new_figure(height_inches(len(laws), picture, least=4.8), picture)
    legend: dict[Line2D, str] = {}
    are_many = len(laws) > MAX_MARKED_LINES
    for place, law in enumerate(laws):
        colour = COLOURS[place % len(COLOURS)]
        marker = MARKERS[place // len(COLOURS) % len(MARKERS)]
        [line] = axes.plot(law.points["flops"], law.points["nll_nats_per_token"], marker, color=colour, markersize=3)
        legend[line] = shortened(law.student.name)
        if law.fit is None or law.problem is not None:
            legend[line] += " (no law)"
            continue
        flops = np.geomspace(law.points["flops"].to_numpy().min(), AHEAD * law.flops, 100)
        axes.plot(flops, [law.fit.law.loss(each) for each in flops], color=colour, linewidth=1.2)
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


def shortened(name: str) -> str:
    """Return a name as a picture has room for it: on one line, without the middle where it is long."""
    visible = "".join(character if character.isprintable() else " " for character in name)
    line = " ".join(visible.split()) or repr(name)  # of white space alone, or of nothing
    if len(line) <= MAX_NAME_CHARACTERS:
        return line
    end = (MAX_NAME_CHARACTERS - 1) // 2
    return f"{line[: MAX_NAME_CHARACTERS - 1 - end]}…{line[-end:]}"


def _merge_small_domains(domain_shift: pl.DataFrame) -> pl.DataFrame:
    shares = domain_shift.select("domain", "share_of_candidate_tokens", "share_of_kept_tokens")
    if shares.height <= MAX_DOMAINS:
        return shares
    by_size = shares.sort(pl.max_horizontal(pl.exclude("domain")), descending=True)
    rest = by_size[MAX_DOMAINS - 1 :]
    merged = rest.select(pl.lit(f"{rest.height} smaller domains").alias("domain"), pl.exclude("domain").sum())
    return pl.concat([by_size[: MAX_DOMAINS - 1], merged])


def _token_unit(num_tokens: int) -> tuple[float, str]:
    for unit, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if num_tokens >= unit:
            return unit, name
    return 1.0, "tokens"
