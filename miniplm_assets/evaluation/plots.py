"""The pictures of a selection: the differences and their cutoff, the domains before and after.

Each returns a PNG, 900 pixels wide; or an SVG, narrower and without its title, whose text is text. None names the asset
that it is stored with, since that may be found again under another name. Names are drawn as they stand, never as
markup, and shortened where they are long. The colours are those of Okabe and Ito, told apart by every eye.
"""

import polars as pl

from miniplm_assets.evaluation.figures import Format, new_figure, shortened, written
from miniplm_assets.evaluation.line_styles import BLUE, INK, PALE, RED

# More bars than this cannot be read; the smaller domains stand in one.
MAX_DOMAINS = 24


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


def _merge_small_domains(domain_shift: pl.DataFrame) -> pl.DataFrame:
    shares = domain_shift.select("domain", "share_of_candidate_tokens", "share_of_kept_tokens")
    if shares.height <= MAX_DOMAINS:
        return shares
    by_size = shares.sort(pl.max_horizontal(pl.exclude("domain")), descending=True)
    rest = by_size[MAX_DOMAINS - 1 :]
    merged = rest.select(pl.lit(f"{rest.height} smaller domains").alias("domain"), pl.exclude("domain").sum())
    return pl.concat([by_size[: MAX_DOMAINS - 1], merged])
