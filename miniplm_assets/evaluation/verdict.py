"""The outcome in words: which student is better, by how much, and if the selection did not help, why.

Every statement follows from measured numbers. A reason is given only where its numbers are there.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

import polars as pl

from miniplm_assets.core.intervals import difference_of_means
from miniplm_assets.evaluation.comparison import StudentRecord, find_student, tokens_to_baseline_loss
from miniplm_assets.evaluation.differences import ALIKE, EQUAL_NATS, HIGHER, LOWER, PER_BYTE, UNTOLD, HeldAgainst

# A selection that keeps more than this share of the candidates can hardly differ from them.
KEEPS_NEARLY_ALL = 0.95
# Repeating data up to about four times is nearly as good as new data, and loses its worth beyond (Muennighoff et al.
# 2023, arXiv 2305.16264, section 5).
MANY_EPOCHS = 4.0
# Of what two students differ in; more would bury the outcome.
NUM_SHOWN_SETTINGS = 4
# Of the domains that losses leave out.
NUM_NAMED = 3
# From so many on, students are told in short before each is by itself.
NUM_WORTH_A_LIST = 4


def verdict(
    students: Sequence[StudentRecord],
    held: Iterable[HeldAgainst],
    *,
    baseline: str,
    excluded_domains: Collection[str] = (),
) -> str:
    """Say in plain sentences how each student does against the baseline, by the means over their seeds.

    Args:
        students: all of them.
        held: how each but the baseline differs from it, on the validation split and on each text.
        baseline: name of the one that the others are held against.
        excluded_domains: left out of the losses along the way, as they are of the totals.

    Returns:
        A paragraph a student, separated by blank lines; of many, one before them that says who ended lower and higher.

    Raises:
        TrainingError: if there is no student of the baseline's name.
    """
    base = find_student(students, baseline)
    others = [student for student in students if student is not base]
    if not others:
        return f"{_named(base)} is the only student; there is nothing to compare it with."
    rows = {(row.student, row.text): row for row in held}
    paragraphs = []
    for one in others:
        on_texts = [row for (name, text), row in rows.items() if name == one.name and text is not None]
        told = [*_judge(one, base, rows[one.name, None], excluded_domains), *map(_on_text, on_texts)]
        paragraphs.append(" ".join(told))
    if len(others) >= NUM_WORTH_A_LIST:
        paragraphs.insert(0, _in_short([rows[one.name, None] for one in others], base))
    return "\n\n".join(paragraphs)


def _in_short(others: Sequence[HeldAgainst], base: StudentRecord) -> str:
    """Say which students end lower than their baseline, which alike, and which higher, the lowest first."""
    ranked = sorted((one for one in others if one.unit != PER_BYTE), key=lambda one: one.loss)
    words = {LOWER: "end lower", ALIKE: "end alike", UNTOLD: "cannot be told apart", HIGHER: "end higher"}
    parts = []
    for outcome, how in words.items():
        those = [f"{one.student} {one.loss:.3f}" for one in ranked if one.outcome == outcome]
        if those:
            parts.append(f"{len(those)} {how}: {', '.join(those)}")
    is_one_seed = all(one.num_seeds == one.baseline_num_seeds == 1 for one in ranked)
    seeds = ". With one seed each that is no order" if is_one_seed else ""
    base_loss = base.mean("nll_nats_per_token")
    return f"Of {len(ranked)} held against {base.name} ({base_loss:.3f} nats a token), {'; '.join(parts)}{seeds}."


def unheld(student: StudentRecord) -> str:
    """Say how a student does that names no baseline, and is none."""
    return (
        f"{_named(student)} names no baseline and is held against nothing: its held-out loss over "
        f"{student.runs[0].total_is_over} is {student.mean('nll_nats_per_token'):.3f} nats a token, "
        f"{student.mean('bits_per_byte'):.3f} bits a byte, after {student.num_tokens:,} tokens."
    )


def _judge(
    student: StudentRecord, base: StudentRecord, held: HeldAgainst, excluded_domains: Collection[str]
) -> Iterator[str]:
    also = list(_other_differences(student, base))
    if held.unit == PER_BYTE:
        yield (
            f"{_named(student)} {_how(held)} {_named(base)}: {held.loss:.3f} against {held.baseline_loss:.3f} bits a "
            "byte of held-out text. They have different tokenizers, so that their losses per token cannot be compared."
        )
        yield from _sureness(student, base, held)
        yield from _more_than_the_corpus(student, also)
        return
    gain = -held.difference
    if held.outcome == ALIKE:
        yield (
            f"{_named(student)} and {_named(base)} end with the same held-out loss over "
            f"{student.runs[0].total_is_over}, {held.loss:.3f} nats a token."
        )
    else:
        yield (
            f"{_named(student)} {_how(held)} {_named(base)}: its held-out loss over "
            f"{student.runs[0].total_is_over} is {held.loss:.3f} against {held.baseline_loss:.3f} nats a token, "
            f"{abs(gain):.3f} nats ({abs(gain) / held.baseline_loss:.1%}) {'lower' if gain > 0 else 'higher'}, "
            f"after {_tokens_of_both(student, base)}."
        )
    yield from _sureness(student, base, held)
    yield from _with_what_is_left_out(student, base, excluded_domains)
    yield from _pace(student, base, held, excluded_domains)
    yield from _context(student, base)
    yield from _by_domain(student, base, is_by_selection=not also)
    yield from _more_than_the_corpus(student, also)
    is_meant_to_help = student.selection is not None and not student.selection.is_control and base.selection is None
    if not also and is_meant_to_help and held.outcome in (HIGHER, ALIKE):
        yield "The selection did not help."
        reasons = list(_reasons(student, base))
        yield from reasons or [
            "None of the usual reasons shows in the numbers: try another keep_fraction, teacher or token budget."
        ]


def _on_text(held: HeldAgainst) -> str:
    """Say how a student does against its baseline on a text beside the corpus."""
    told = (
        f"On the text {held.text} it {_how(held)} {held.baseline}: {held.loss:.3f} against {held.baseline_loss:.3f} "
        f"bits a byte over {held.num_sequences:,} documents"
    )
    if held.difference_low is None or held.difference_high is None:
        return f"{told}."
    return f"{told}; the 95 % interval {_interval(held.difference_low, held.difference_high, 'bits a byte')}."


def _how(held: HeldAgainst) -> str:
    """Say how a student stands to its baseline, and no more than its interval allows."""
    if held.outcome == UNTOLD:
        return "cannot be told apart from"
    is_lower = held.difference < 0
    if held.is_over_seeds:
        return f"is {'better' if is_lower else 'worse'} than"
    return f"ended {'lower' if is_lower else 'higher'} than"


def _more_than_the_corpus(student: StudentRecord, differences: Sequence[str]) -> Iterator[str]:
    """Say that a student differs from its baseline in more than what it learnt from, if it does."""
    if not differences:
        return
    shown = list(differences[:NUM_SHOWN_SETTINGS])
    if len(differences) > len(shown):
        shown.append(f"{len(differences) - len(shown)} more settings")
    so = "" if student.selection is None else ", so that nothing here can be laid to the selection alone"
    yield f"They were made in different ways{so}: {'; '.join(shown)}."


def _other_differences(student: StudentRecord, base: StudentRecord) -> Iterator[str]:
    """Say in what two students differ beside their corpus, setting by setting."""
    ours, theirs = student.made_with, base.made_with
    for setting in dict.fromkeys([*ours, *theirs]):
        if ours.get(setting) != theirs.get(setting):
            values = (_shown(one[setting]) if setting in one else "none" for one in (ours, theirs))
            yield f"{setting} {' against '.join(values)}"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _sureness(student: StudentRecord, base: StudentRecord, held: HeldAgainst) -> Iterator[str]:
    """Say on how many seeds a mean rests, how far they lie apart, and how sure the difference is by that."""
    column, unit = ("bits_per_byte", "bits a byte") if held.unit == PER_BYTE else ("nll_nats_per_token", "nats a token")
    if len(student.runs) > 1 or len(base.runs) > 1:
        spreads = []
        for one in (student, base):
            values = sorted(run.overall(column) for run in one.runs)
            count = f"{len(values)} seed{'s' if len(values) > 1 else ''}"
            spreads.append(f"{one.name} over {count}, {values[0]:.3f} to {values[-1]:.3f}")
        yield f"These are means: {'; '.join(spreads)} {unit}."
    if held.difference_low is not None and held.difference_high is not None:
        over = "seeds and held-out sequences" if held.is_over_seeds else "the held-out sequences alone"
        where = _interval(held.difference_low, held.difference_high, unit)
        yield f"The 95 % interval of the difference, over {over} ({held.num_sequences:,} of them), {where}."
    if not held.is_over_seeds:
        yield (
            "One seed cannot tell an effect from chance: those of small students have differed by 0.4 nats a token "
            "(name more: `seeds`)."
        )
    elif held.outcome == UNTOLD:
        needed = f"about {held.num_seeds_needed:,}" if held.num_seeds_needed else "more than 1,000"
        yield f"To tell a difference of this size, where seeds vary as here, takes {needed} seeds of each."


def _interval(low: float, high: float, unit: str) -> str:
    """Say where an interval lies, seen from the baseline."""
    if low > 0:
        return f"is {low:.3f} to {high:.3f} {unit} higher"
    if high < 0:
        return f"is {-high:.3f} to {-low:.3f} {unit} lower"
    return f"reaches from {-low:.3f} {unit} lower to {high:.3f} higher"


def _with_what_is_left_out(
    student: StudentRecord, base: StudentRecord, excluded_domains: Collection[str]
) -> Iterator[str]:
    """Say how the losses are over all held-out text: what is left out of the others may turn them round."""
    present = set(student.held_out.filter(pl.col("num_scored_tokens") > 0)["domain"])
    left_out = [domain for domain in excluded_domains if domain in present]
    if not left_out:
        return
    ours, theirs = student.nll_over_all_domains, base.nll_over_all_domains
    named = ", ".join(left_out[:NUM_NAMED]) + (" and more" if len(left_out) > NUM_NAMED else "")
    yield f"Over all held-out text, {named} with it, it is {ours:.3f} against {theirs:.3f} ({ours - theirs:+.3f})."


def _pace(
    student: StudentRecord, base: StudentRecord, held: HeldAgainst, excluded_domains: Collection[str]
) -> Iterator[str]:
    needed = [tokens_to_baseline_loss(student, run, base, excluded_domains) for run in student.runs]
    num_reached = sum(tokens is not None for tokens in needed)
    sample = "On the sample that is measured along the way"
    target = f"the final loss of {base.name} ({base.final_curve_loss(excluded_domains):.3f} there)"
    factor = held.tokens_saved_factor
    if num_reached == 0:
        yield f"It never reached the final loss of {base.name} on the sample that is measured along the way."
    elif factor is None:
        yield (
            f"{sample}, {num_reached} of its {len(needed)} seeds reached {target}; how many times faster, those alone "
            "cannot say."
        )
    elif factor > 1:
        interval = ""
        if held.tokens_saved_low is not None and held.tokens_saved_high is not None:
            interval = f" (95 % interval over seeds {held.tokens_saved_low:.2f} to {held.tokens_saved_high:.2f})"
        yield (
            f"{sample}, it reached {target} after {base.num_tokens / factor:,.0f} tokens, where {base.name} took "
            f"{base.num_tokens:,}: {factor:.2f} times fewer{interval}."
        )


def _context(student: StudentRecord, base: StudentRecord) -> Iterator[str]:
    """Say where a student learns less from its context than its baseline, as distilled logits are said to make it."""
    ours, theirs = (
        [run.in_context_gain for run in one.runs if run.in_context_gain is not None] for one in (student, base)
    )
    if min(len(ours), len(theirs)) < 2:
        return
    difference = difference_of_means(ours, theirs)
    if difference.high < 0:
        yield (
            f"It learns less from its context: long contexts lower its loss by {fmean(ours):.3f} nats a token, that of "
            f"{base.name} by {fmean(theirs):.3f} (95 % interval of the difference over seeds {difference.low:.3f} to "
            f"{difference.high:.3f})."
        )


def _by_domain(student: StudentRecord, base: StudentRecord, *, is_by_selection: bool) -> Iterator[str]:
    """Say where a student with a refined corpus pays for what it gains; of the selection, where that may be why."""
    if student.selection is None:
        return
    losses = _domain_losses(student, base)
    worse = losses.filter(pl.col("added_nats_per_token") > EQUAL_NATS).sort("added_nats", descending=True)
    yield f"It is better in {losses.height - worse.height} of {losses.height} domains."
    if not is_by_selection:
        return
    for row in worse.head(1).join(student.selection.domain_shift, on="domain").iter_rows(named=True):
        before, after = row["share_of_candidate_tokens"], row["share_of_kept_tokens"]
        yield (
            f"All tokens added up, it loses most in '{row['domain']}' ({row['added_nats_per_token']:+.3f} nats a "
            f"token), whose share of the tokens the selection {'cut' if after < before else 'raised'} from "
            f"{before:.1%} to {after:.1%}."
        )


def _reasons(student: StudentRecord, base: StudentRecord) -> Iterator[str]:
    selection = student.selection
    if selection is None:
        return
    teacher, reference = selection.teacher_nll_nats_per_token, selection.reference_nll_nats_per_token
    if teacher is not None and reference is not None and teacher >= reference:
        yield (
            f"The likely reason: the teacher's held-out loss ({teacher:.3f} nats a token) is not below the reference's "
            f"({reference:.3f}), so that their difference says nothing about what is worth learning; train or choose a "
            "stronger teacher."
        )
    elif teacher is not None and not student.is_retokenised and teacher >= base.mean("nll_nats_per_token"):
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
        one.held_out.filter(pl.col("num_scored_tokens") > 0).select(
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
        tokens = f"the same {base.num_tokens:,} tokens"
    else:
        tokens = f"{student.num_tokens:,} and {base.num_tokens:,} tokens"
    if student.corpus == base.corpus:
        return tokens
    return f"{tokens} ({student.num_epochs:.2f} and {base.num_epochs:.2f} times through what each learnt from)"


def _named(student: StudentRecord) -> str:
    return f"{student.name} (trained on {student.corpus})"
