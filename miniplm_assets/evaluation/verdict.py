"""The outcome in words: which student is better, by how much, and if the selection did not help, why.

Every statement follows from measured numbers. A reason is given only where its numbers are there.
"""

from collections.abc import Collection, Iterator, Sequence
from statistics import fmean

import polars as pl

from miniplm_assets.evaluation.comparison import StudentRecord, find_student, tokens_to_baseline_loss
from miniplm_assets.evaluation.held_out import ALL_DOMAINS

# Below this, two losses print as the same number.
EQUAL_NATS_PER_TOKEN = 0.0005
# A selection that keeps more than this share of the candidates can hardly differ from them.
KEEPS_NEARLY_ALL = 0.95
# Repeating data up to about four times is nearly as good as new data, and loses its worth beyond (Muennighoff et al.
# 2023, arXiv 2305.16264, section 5).
MANY_EPOCHS = 4.0


def verdict(students: Sequence[StudentRecord], *, baseline: str, excluded_domains: Collection[str] = ()) -> str:
    """Say in plain sentences how each student does against the baseline, by the means over their seeds.

    Args:
        students: all of them.
        baseline: name of the one that the others are held against.
        excluded_domains: left out of the losses along the way, as they are of the totals.

    Returns:
        A paragraph a student, separated by blank lines.

    Raises:
        TrainingError: if there is no student of the baseline's name.
    """
    base = find_student(students, baseline)
    others = [student for student in students if student is not base]
    if not others:
        return f"{_named(base)} is the only student; there is nothing to compare it with."
    return "\n\n".join(" ".join(_judge(student, base, excluded_domains)) for student in others)


def _judge(student: StudentRecord, base: StudentRecord, excluded_domains: Collection[str]) -> Iterator[str]:
    if student.tokenizer != base.tokenizer:
        yield _compare_bytes(student, base)
        yield from _seeds(student, base, "bits_per_byte", "bits a byte")
        return
    loss, base_loss = (one.mean("nll_nats_per_token") for one in (student, base))
    gain = base_loss - loss
    if abs(gain) < EQUAL_NATS_PER_TOKEN:
        yield f"{_named(student)} and {_named(base)} end with the same held-out loss, {loss:.3f} nats a token."
    else:
        yield (
            f"{_named(student)} is {'better' if gain > 0 else 'worse'} than {_named(base)}: its held-out loss is "
            f"{loss:.3f} against {base_loss:.3f} nats a token, {abs(gain):.3f} nats ({abs(gain) / base_loss:.1%}) "
            f"{'lower' if gain > 0 else 'higher'}, after {_tokens_of_both(student, base)}."
        )
    yield from _seeds(student, base, "nll_nats_per_token", "nats a token")
    yield from _pace(student, base, excluded_domains)
    yield from _by_domain(student, base)
    if student.selection is not None and gain < EQUAL_NATS_PER_TOKEN:
        yield "The selection did not help."
        reasons = list(_reasons(student, base))
        yield from reasons or [
            "None of the usual reasons shows in the numbers: try another keep_fraction, teacher or token budget."
        ]


def _seeds(student: StudentRecord, base: StudentRecord, column: str, unit: str) -> Iterator[str]:
    """Say on how many seeds a mean rests, and how far they lie apart."""
    if len(student.runs) == len(base.runs) == 1:
        yield (
            "One seed of each cannot tell an effect from chance: those of small students have differed by 0.4 nats a "
            "token (name more: `seeds`)."
        )
        return
    spreads = []
    for one in (student, base):
        values = sorted(run.overall(column) for run in one.runs)
        count = f"{len(values)} seed{'s' if len(values) > 1 else ''}"
        spreads.append(f"{one.name} over {count}, {values[0]:.3f} to {values[-1]:.3f}")
    yield f"These are means: {'; '.join(spreads)} {unit}."


def _compare_bytes(student: StudentRecord, base: StudentRecord) -> str:
    bits, base_bits = (one.mean("bits_per_byte") for one in (student, base))
    word = "better" if bits < base_bits else "worse"
    return (
        f"{_named(student)} is {word} than {_named(base)}: {bits:.3f} against {base_bits:.3f} bits a byte of held-out "
        "text. They have different tokenizers, so that their losses per token cannot be compared."
    )


def _pace(student: StudentRecord, base: StudentRecord, excluded_domains: Collection[str]) -> Iterator[str]:
    needed = [tokens_to_baseline_loss(student, run, base, excluded_domains) for run in student.runs]
    reached = [tokens for tokens in needed if tokens is not None]
    if not reached:
        yield f"It never reached the final loss of {base.name}."
        return
    tokens = fmean(reached)
    factor = base.num_tokens / tokens
    if factor <= 1:
        return
    # A mean over those that got there alone would flatter it.
    who = "It" if len(reached) == len(needed) else f"{len(reached)} of its {len(needed)} seeds"
    yield (
        f"{who} reached the final loss of {base.name} after {tokens:,.0f} tokens, where {base.name} took "
        f"{base.num_tokens:,}: {factor:.2f} times fewer."
    )


def _by_domain(student: StudentRecord, base: StudentRecord) -> Iterator[str]:
    """Say where a student with a refined corpus pays for what it gains."""
    if student.selection is None:
        return
    losses = _domain_losses(student, base)
    worse = losses.filter(pl.col("added_nats_per_token") > EQUAL_NATS_PER_TOKEN).sort("added_nats", descending=True)
    yield f"It is better in {losses.height - worse.height} of {losses.height} domains."
    for row in worse.head(1).join(student.selection.domain_shift, on="domain").iter_rows(named=True):
        before, after = row["share_of_candidate_tokens"], row["share_of_kept_tokens"]
        yield (
            f"It loses most in '{row['domain']}' ({row['added_nats_per_token']:+.3f} nats a token), whose share of the "
            f"tokens the selection {'cut' if after < before else 'raised'} from {before:.1%} to {after:.1%}."
        )


def _reasons(student: StudentRecord, base: StudentRecord) -> Iterator[str]:
    selection = student.selection
    if selection is None:
        return
    teacher, reference = selection.teacher_nll_nats_per_token, selection.reference_nll_nats_per_token
    if teacher >= reference:
        yield (
            f"The likely reason: the teacher's held-out loss ({teacher:.3f} nats a token) is not below the reference's "
            f"({reference:.3f}), so that their difference says nothing about what is worth learning; train or choose a "
            "stronger teacher."
        )
    elif teacher >= base.mean("nll_nats_per_token"):
        yield (
            f"The likely reason: the teacher's held-out loss ({teacher:.3f} nats a token) is not below the "
            f"{base.mean('nll_nats_per_token'):.3f} that {base.name} reaches by itself, so that it cannot show the "
            "way; train or choose a stronger teacher."
        )
    if selection.kept_share > KEEPS_NEARLY_ALL:
        yield (
            f"The selection {selection.name} keeps {selection.kept_share:.0%} of the candidates, so that both learn "
            "from nearly the same text; lower keep_fraction."
        )
    if student.num_epochs > MANY_EPOCHS > base.num_epochs:
        yield (
            f"It went {student.num_epochs:.1f} times through its corpus ({base.name}: {base.num_epochs:.1f} times), "
            "and text that is repeated that often teaches little more; keep more, or add to the corpus."
        )
    losses = _domain_losses(student, base).join(selection.domain_shift, on="domain")
    is_cut = pl.col("share_of_kept_tokens") < pl.col("share_of_candidate_tokens")
    added_where_cut = losses.filter(is_cut)["added_nats"].sum()
    if added_where_cut > 0 and added_where_cut >= losses["added_nats"].sum():
        domains = losses.filter(is_cut & (pl.col("added_nats") > 0)).sort("added_nats", descending=True)
        yield (
            f"All that it loses, it loses in domains that the selection cut ({', '.join(domains['domain'].head(3))}); "
            "elsewhere it is no worse."
        )


def _domain_losses(student: StudentRecord, base: StudentRecord) -> pl.DataFrame:
    """Return domain, added_nats_per_token (student - baseline, means over their seeds), and added_nats.

    added_nats is that times the domain's tokens: what the domain adds to the difference of the totals.
    """
    ours, theirs = (
        one.held_out.filter(pl.col("domain") != ALL_DOMAINS, pl.col("num_scored_tokens") > 0).select(
            "domain",
            nats_per_token=pl.col("nll_nats") / pl.col("num_scored_tokens"),
            num_tokens=pl.col("num_scored_tokens") / len(one.runs),
        )
        for one in (student, base)
    )
    added_nats_per_token = pl.col("nats_per_token") - pl.col("nats_per_token_base")
    return ours.join(theirs, on="domain", suffix="_base").select(
        "domain",
        added_nats=added_nats_per_token * pl.col("num_tokens"),
        added_nats_per_token=added_nats_per_token,
    )


def _tokens_of_both(student: StudentRecord, base: StudentRecord) -> str:
    # Two draws of the same budget differ by less than a sequence.
    if abs(student.num_tokens - base.num_tokens) <= 0.01 * base.num_tokens:
        return f"the same {base.num_tokens:,} tokens"
    return f"{student.num_tokens:,} and {base.num_tokens:,} tokens"


def _named(student: StudentRecord) -> str:
    return f"{student.name} (trained on {student.corpus})"
