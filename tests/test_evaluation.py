"""Held-out losses, students side by side, and the outcome in words: worked out by hand."""

import io
import math
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from miniplm_assets.core.errors import ScoringError, TrainingError
from miniplm_assets.evaluation.comparison import (
    SelectionRecord,
    StudentRecord,
    StudentRun,
    comparison_table,
    unmeasured,
)
from miniplm_assets.evaluation.differences import hold_all
from miniplm_assets.evaluation.held_out import (
    count_scored_bytes,
    counted_domains,
    held_out_table,
    in_context_gain,
    losses_by_context,
)
from miniplm_assets.evaluation.line_styles import line_styles
from miniplm_assets.evaluation.plots import plot_difference_distribution, plot_domain_shares
from miniplm_assets.evaluation.student_plots import plot_break_even, plot_loss_curves
from miniplm_assets.evaluation.verdict import unheld, verdict
from miniplm_assets.lm.scores import TokenRule

END = 0
RULE = TokenRule(end_of_document_id=END, score_after_end_of_document=False)


# ---- held-out tables


def test_only_the_bytes_of_scored_tokens_count() -> None:
    token_num_bytes = np.array([0, 1, 2, 4, 8])
    sequences = [
        np.array([1, 2, END, 3, 4], dtype=np.int32),  # 2, END and 4: the 3 follows an end of document
        np.array([4], dtype=np.int32),  # nothing is predicted
        np.array([END, 4, 3], dtype=np.int32),  # 3 alone
    ]
    assert count_scored_bytes(sequences, rule=RULE, token_num_bytes=token_num_bytes).tolist() == [10, 0, 4]
    everything = TokenRule(end_of_document_id=END, score_after_end_of_document=True)
    assert count_scored_bytes(sequences, rule=everything, token_num_bytes=token_num_bytes).tolist() == [14, 0, 12]


def sequences_and_scores() -> tuple[pl.DataFrame, pl.DataFrame]:
    sequences = pl.DataFrame(
        {"sequence_id": [7, 5, 9, 6], "domain": ["code", "prose", "code", "empty"], "num_scored_bytes": [10, 4, 6, 0]}
    )
    scores = pl.DataFrame(
        {
            "sequence_id": [9, 6, 1, 7, 5],
            "logprob_nats": [-2.0, 0.0, -99.0, -6.0, -4.0],
            "num_scored_tokens": pl.Series([1, 0, 9, 3, 2], dtype=pl.Int32),
        }
    )
    return sequences, scores


def test_the_held_out_table_is_the_one_worked_by_hand() -> None:
    table = held_out_table(*sequences_and_scores())
    assert table["domain"].to_list() == ["code", "empty", "prose", "all domains"]
    assert table["is_total"].to_list() == [False, False, False, True]
    assert table["num_sequences"].to_list() == [2, 1, 1, 4]
    assert table["num_scored_tokens"].to_list() == [4, 0, 2, 6]
    assert table["nll_nats"].to_list() == [8.0, 0.0, 4.0, 12.0]
    assert table["nll_nats_per_token"].to_list() == [2.0, None, 2.0, 2.0]
    assert table["perplexity"].to_list() == pytest.approx([math.e**2, None, math.e**2, math.e**2])
    log_2 = math.log(2)
    assert table["bits_per_byte"].to_list() == pytest.approx([8 / 16 / log_2, None, 4 / 4 / log_2, 12 / 20 / log_2])


def test_bits_per_byte_do_not_depend_on_the_tokenizer() -> None:
    """A model that gives every byte probability 1/256 takes 8 bits a byte, however the bytes are cut."""
    for bytes_per_token in (1, 5):
        num_tokens = 40 // bytes_per_token
        sequences = pl.DataFrame({"sequence_id": [1], "domain": ["a"], "num_scored_bytes": [40]})
        nats = -num_tokens * bytes_per_token * math.log(256)
        scores = pl.DataFrame({"sequence_id": [1], "logprob_nats": [nats], "num_scored_tokens": [num_tokens]})
        assert held_out_table(sequences, scores)["bits_per_byte"].to_list() == pytest.approx([8.0, 8.0])


def test_scores_pair_one_to_one_with_sequences() -> None:
    sequences, scores = sequences_and_scores()
    with pytest.raises(ScoringError, match=r"held-out sequence 5 has no score \(1 of 4 have none\)"):
        held_out_table(sequences, scores.filter(pl.col("sequence_id") != 5))
    with pytest.raises(ScoringError, match=r"held-out sequence 9 has more than one score"):
        held_out_table(sequences, pl.concat([scores, scores[:1]]))


def test_losses_by_context_are_those_worked_by_hand() -> None:
    # 0 ends a document: what follows it is not scored, and begins another one.
    sequences = [np.array([5, 6, 7, 8, 9, 0, 4, 3, 2], np.int32), np.array([9, 9], np.int32)]
    nats = np.array([1, 2, 4, 8, 16, 32, 64, 128], np.float32)  # contexts 1 2 3 4 5 | 1 2 | 1
    found = losses_by_context(sequences, nats, rule=RULE)
    assert found.rows() == [(1, 3, 1 + 32 + 128.0), (2, 3, 2 + 4 + 64.0), (4, 2, 8 + 16.0)]
    assert in_context_gain(found) is None  # nothing has an eighth of 4
    longer = pl.concat([found, pl.DataFrame([(8, 2, 6.0), (1, 1, 9.0)], schema=found.schema, orient="row")])
    assert in_context_gain(longer) == pytest.approx((161 + 9) / 4 - 6 / 2)
    assert in_context_gain(found.clear()) is None


@pytest.mark.parametrize("context", [1, 2, 3, 4, 7, 8, 1023, 1024, 4095, 4096])
def test_contexts_are_put_between_powers_of_two(context: int) -> None:
    found = losses_by_context([np.ones(context + 1, np.int32)], np.ones(context, np.float32), rule=RULE)
    expected = {2**power: min(2 ** (power + 1), context + 1) - 2**power for power in range(13) if 2**power <= context}
    assert dict(found.select("min_context", "num_scored_tokens").rows()) == expected


def test_a_student_that_learns_less_from_its_context_is_told_of_where_its_seeds_tell_it() -> None:
    def gaining(one: StudentRecord, *gains: float | None) -> StudentRecord:
        [run] = one.runs
        return replace(
            one, runs=tuple(replace(run, seed=seed, in_context_gain=gain) for seed, gain in enumerate(gains))
        )

    base = gaining(BASE, 0.50, 0.52, 0.54)
    # Standard error 0.0163, 4 degrees of freedom, Student's t at 97.5 %: 2.776.
    assert (
        "It learns less from its context: long contexts lower its loss by 0.420 nats a token, that of no_kd by 0.520 "
        "(95 % interval of the difference over seeds -0.145 to -0.055)."
    ) in said([base, gaining(AHEAD, 0.40, 0.42, 0.44)])
    assert "context" not in said([base, gaining(AHEAD, 0.30, 0.50, 0.60)])
    assert "context" not in said([base, gaining(AHEAD, None, None, None)])
    assert "context" not in said([gaining(BASE, 0.5), gaining(AHEAD, 0.1)])


# ---- students side by side


def run(losses: list[float], *, by_domain: dict[str, float], seed: int = 1, num_epochs: float = 1.0) -> StudentRun:
    """A run whose domains hold 100 scored tokens and 300 bytes each; on the way it was measured on code and noise."""
    nats = {**{domain: 100 * loss for domain, loss in by_domain.items()}}
    nats["all domains"] = sum(nats.values())
    tokens = [100] * len(by_domain) + [100 * len(by_domain)]
    held_out = pl.DataFrame({"domain": list(nats), "num_scored_tokens": tokens, "nll_nats": list(nats.values())})
    held_out = held_out.with_columns(
        is_total=pl.col("domain") == "all domains",
        nll_nats_per_token=pl.col("nll_nats") / pl.col("num_scored_tokens"),
        bits_per_byte=pl.col("nll_nats") / math.log(2) / (3 * pl.col("num_scored_tokens")),
    )
    on_the_way = [
        {"num_tokens": 2_000 * place, "domain": domain, "num_scored_tokens": 50, "nll_nats": 50 * nats_per_token}
        for place, loss in enumerate(losses, 1)
        for domain, nats_per_token in (("noise", loss + 1), ("code", loss - 1))
    ]
    return StudentRun(
        seed=seed,
        num_epochs=num_epochs,
        measured_by={"num_evaluations": len(losses), "num_held_out_sequences": 9},
        training_flops=6 * 1_000 * 8_000,
        training_log=pl.DataFrame({"num_tokens": [1_000 * step for step in range(1, 2 * len(losses) + 1)]}),
        held_out_log=pl.DataFrame(on_the_way[::-1]),
        held_out=held_out,
        groups=pl.DataFrame({"group": list(range(len(by_domain)))}).with_columns(
            num_sequences=1,
            num_scored_tokens=100,
            num_scored_bytes=300,
            nll_nats=pl.Series([nats[domain] for domain in by_domain]),
        ),
    )


def said(students: list[StudentRecord], *, baseline: str = "no_kd") -> str:
    """The verdict on students."""
    return verdict(students, hold_all(students, baseline=baseline), baseline=baseline)


def student(
    name: str,
    losses: list[float],
    *,
    by_domain: dict[str, float],
    selection: SelectionRecord | None = None,
    tokenizer: str = "bpe",
    num_epochs: float = 1.0,
    made_with: dict[str, object] | None = None,
) -> StudentRecord:
    return StudentRecord(
        name=name,
        corpus=f"refined_corpus/{selection.name}" if selection else "candidates",
        tokenizer=tokenizer,
        num_parameters=1_000,
        runs=(run(losses, by_domain=by_domain, num_epochs=num_epochs),),
        selection=selection,
        made_with=made_with or {},
    )


def half(*, teacher: float = 3.0, reference: float = 4.5, kept_share: float = 0.5) -> SelectionRecord:
    shift = pl.DataFrame(
        {
            "domain": ["noise", "prose", "code"],
            "share_of_candidate_tokens": [0.3, 0.4, 0.3],
            "share_of_kept_tokens": [0.01, 0.5, 0.49],
        }
    )
    return SelectionRecord(
        name="half",
        kept_share=kept_share,
        teacher_nll_nats_per_token=teacher,
        reference_nll_nats_per_token=reference,
        domain_shift=shift,
    )


BASE = student("no_kd", [5.0, 4.5, 4.25, 4.0], by_domain={"code": 4.0, "prose": 4.0, "noise": 4.0})
# 4.0 lies half-way between the evaluations at 4,000 and 6,000 tokens.
AHEAD = student(
    "miniplm", [4.75, 4.25, 3.75, 3.5], by_domain={"code": 3.0, "prose": 3.3, "noise": 4.2}, selection=half()
)


def test_the_comparison_is_the_one_worked_by_hand() -> None:
    table = comparison_table([AHEAD, BASE], baseline="no_kd")
    assert table["student"].to_list() == ["no_kd", "miniplm"]
    assert table["num_tokens"].to_list() == [8_000, 8_000]
    assert table["baseline"].to_list() == ["no_kd", "no_kd"]
    assert table["validation_nll_nats_per_token"].to_list() == pytest.approx([4.0, 3.5])
    # (loss + 1 of noise, loss - 1 of code) / 2, at the end of the way
    assert table["sample_nll_nats_per_token"].to_list() == pytest.approx([4.0, 3.5])
    without_noise = comparison_table([AHEAD, BASE], baseline="no_kd", excluded_domains=["noise"])
    assert without_noise["sample_nll_nats_per_token"].to_list() == pytest.approx([3.0, 2.5])
    assert table["tokens_to_baseline_loss"].to_list() == [8_000.0, 5_000.0]
    assert table["tokens_saved_factor"].to_list() == [1.0, 1.6]
    assert table["training_flops"].to_list() == [6 * 1_000 * 8_000.0] * 2
    assert table["bits_per_byte"].to_list() == pytest.approx([4.0 / 3 / math.log(2), 3.5 / 3 / math.log(2)])


def test_students_of_other_tokenizers_are_compared_by_bytes_alone() -> None:
    other = student("other", [2.0, 1.0], by_domain={"code": 1.0}, tokenizer="words")
    table = comparison_table([BASE, other], baseline="no_kd")
    assert table.filter(student="other")["tokens_saved_factor"].item() is None
    text = said([BASE, other])
    assert "other (trained on candidates) ended lower than no_kd" in text
    assert "bits a byte" in text and "different tokenizers" in text


def test_a_student_without_a_baseline_stands_there_too() -> None:
    table = comparison_table([AHEAD], baseline=None)
    assert table.select("student", "baseline", "tokens_to_baseline_loss", "tokens_saved_factor").rows() == [
        ("miniplm", None, None, None)
    ]
    assert table["validation_nll_nats_per_token"].to_list() == pytest.approx([3.5])
    assert unheld(AHEAD) == (
        "miniplm (trained on refined_corpus/half) names no baseline and is held against nothing: its held-out loss "
        "over all domains is 3.500 nats a token, 1.683 bits a byte, after 8,000 tokens."
    )


def test_a_missing_baseline_is_named() -> None:
    with pytest.raises(TrainingError, match=r"baseline 'absent' is none of the trained students \(no_kd\)"):
        comparison_table([BASE], baseline="absent")


def test_what_counts_on_the_way_is_chosen_when_it_is_reported() -> None:
    [only] = BASE.runs
    assert only.curve(())["num_tokens"].to_list() == [2_000, 4_000, 6_000, 8_000]
    assert only.curve(())["held_out_nll_nats_per_token"].to_list() == pytest.approx([5.0, 4.5, 4.25, 4.0])
    assert only.curve(["noise"])["held_out_nll_nats_per_token"].to_list() == pytest.approx([4.0, 3.5, 3.25, 3.0])
    with pytest.raises(TrainingError, match=r"excluded_domains leaves out code, noise"):
        only.curve(["noise", "code"])


def seeds(name: str, runs: list[StudentRun], selection: SelectionRecord | None = None) -> StudentRecord:
    return StudentRecord(
        name=name,
        corpus="refined_corpus/half" if selection else "candidates",
        tokenizer="bpe",
        num_parameters=1_000,
        runs=tuple(runs),
        selection=selection,
    )


TWO = seeds(
    "no_kd",
    [
        run([5.0, 4.25], by_domain={"code": 4.5, "prose": 3.5}, seed=2),
        run([5.0, 3.75], by_domain={"code": 4.0, "prose": 3.0}, seed=1),
    ],
)
THREE = seeds(
    "miniplm",
    [
        run([5.0, 3.0], by_domain={"code": 3.0, "prose": 3.0}, seed=1),  # 4.0 half-way between 2,000 and 4,000 tokens
        run([4.5, 3.5], by_domain={"code": 3.5, "prose": 3.1}, seed=2),  # and there too
        run([5.0, 4.5], by_domain={"code": 4.0, "prose": 3.9}, seed=3),  # never
    ],
    half(),
)


def test_several_seeds_stand_side_by_side_and_their_means_are_judged() -> None:
    table = comparison_table([THREE, TWO], baseline="no_kd")
    assert table.select("student", "seed").rows() == [("no_kd", 1), ("no_kd", 2)] + [("miniplm", n) for n in (1, 2, 3)]
    # Against the mean of the baseline's final losses on the way, 4.0.
    assert table["tokens_to_baseline_loss"].to_list() == pytest.approx([3_600.0, None, 3_000.0, 3_000.0, None])
    text = said([TWO, THREE])
    assert "its held-out loss over all domains is 3.417 against 3.750 nats a token, 0.333 nats (8.9%) lower" in text
    assert (
        "These are means: miniplm over 3 seeds, 3.000 to 3.950; no_kd over 2 seeds, 3.500 to 4.000 nats a token."
        in text
    )
    assert (
        "On the sample that is measured along the way, 2 of its 3 seeds reached the final loss of no_kd (4.000 there); "
        "how many times faster, those alone cannot say."
    ) in text
    # Standard error 0.3756, 2.846 degrees of freedom, of which Student's t at 97.5 % is 3.282.
    assert text.startswith("miniplm (trained on refined_corpus/half) cannot be told apart from no_kd")
    assert (
        "The 95 % interval of the difference, over seeds and held-out sequences (2 of them), "
        "reaches from 1.566 nats a token lower to 0.900 higher." in text
    )
    assert "To tell a difference of this size, where seeds vary as here, takes about 27 seeds of each." in text
    assert "cannot tell" not in text and "did not help" not in text
    # code 3.5 against 4.25, prose 3.333 against 3.25
    assert "It is better in 1 of 2 domains. All tokens added up, it loses most in 'prose' (+0.083 nats a token)" in text


def test_a_text_beside_the_corpus_is_told_with_its_documents() -> None:
    [held] = hold_all([BASE, AHEAD], baseline="no_kd")
    on_text = replace(held, text="dclm", loss=1.5, baseline_loss=1.6, difference=-0.1, num_sequences=900)
    told = verdict([BASE, AHEAD], [held, on_text], baseline="no_kd")
    assert told.endswith(
        "On the text dclm it ended lower than no_kd: 1.500 against 1.600 bits a byte over 900 documents."
    )
    sure = replace(on_text, difference_low=-0.3, difference_high=0.1, outcome="not told apart", is_over_seeds=True)
    assert verdict([BASE, AHEAD], [held, sure], baseline="no_kd").endswith(
        "cannot be told apart from no_kd: 1.500 against 1.600 bits a byte over 900 documents; the 95 % interval "
        "reaches from 0.300 bits a byte lower to 0.100 higher."
    )


def test_seeds_that_agree_tell_a_difference_and_others_do_not() -> None:
    def four(name: str, losses: list[float]) -> StudentRecord:
        return seeds(name, [run([5.0, loss], by_domain={"code": loss}, seed=n) for n, loss in enumerate(losses)])

    base = four("no_kd", [4.0, 4.1, 4.2])
    better, worse = four("better", [3.0, 3.1, 3.2]), four("worse", [5.0, 5.1, 5.2])
    # Standard error 0.0816, 4 degrees of freedom, Student's t at 97.5 %: 2.776.
    text = said([base, better])
    assert text.startswith("better (trained on candidates) is better than no_kd")
    assert (
        "The 95 % interval of the difference, over seeds and held-out sequences (1 of them), "
        "is 0.773 to 1.227 nats a token lower." in text
    )
    assert "takes about" not in text
    assert "is 0.773 to 1.227 nats a token higher." in said([base, worse])
    others = [better, worse, four("beside", [4.0, 4.15, 4.3]), four("alike", [4.2, 4.1, 4.0])]
    assert said([base, *others]).split("\n\n")[0] == (
        "Of 4 held against no_kd (4.100 nats a token), 1 end lower: better 3.100; 1 end alike: alike 4.100; "
        "1 cannot be told apart: beside 4.150; 1 end higher: worse 5.100."
    )


def test_who_was_measured_less_often_than_asked_is_named() -> None:
    def asked(num_evaluations: int, num_held_out_sequences: int) -> dict[str, int]:
        return {"num_evaluations": num_evaluations, "num_held_out_sequences": num_held_out_sequences}

    assert list(unmeasured([TWO, THREE], {"no_kd": asked(2, 9), "miniplm": asked(1, 1)})) == []
    found = list(unmeasured([TWO, THREE], {"no_kd": asked(3, 10), "miniplm": asked(2, 9)}))
    assert len(found) == 2
    assert found[0] == (
        "no_kd, seed 2, was measured along the way by num_evaluations 2, where 3 is asked for now and "
        "num_held_out_sequences 9, where 10 is asked for now; delete its stored result to train it again."
    )


# ---- the outcome in words


def test_the_verdict_on_a_better_student() -> None:
    assert said([BASE, AHEAD]) == (
        "miniplm (trained on refined_corpus/half) ended lower than no_kd (trained on candidates): its held-out loss "
        "over all domains is 3.500 against 4.000 nats a token, 0.500 nats (12.5%) lower, after the same 8,000 tokens "
        "(1.00 and 1.00 times through what each learnt from). One seed cannot tell an effect from chance: those of "
        "small students have differed by 0.4 nats a token "
        "(name more: `seeds`). On the sample that is measured along the way, it reached the final loss of no_kd (4.000 "
        "there) after 5,000 tokens, where no_kd took 8,000: 1.60 times fewer. It is better in 2 of 3 domains. All "
        "tokens added up, it loses most in 'noise' (+0.200 nats a token), whose share of the tokens the selection cut "
        "from 30.0% to 1.0%."
    )


def test_the_verdict_says_what_the_losses_would_be_with_what_they_leave_out() -> None:
    """A student that was spared the noise knows nothing of it."""
    base = student("no_kd", [5.0, 4.0], by_domain={"code": 4.0, "noise": 4.0})
    spared = student("miniplm", [5.0, 3.5], by_domain={"code": 3.5, "noise": 6.0})
    held = hold_all([base, spared], baseline="no_kd", excluded_domains=("noise",))
    told = verdict([base, spared], held, baseline="no_kd", excluded_domains=("noise",))
    assert "Over all held-out text, noise with it, it is 4.750 against 4.000 (+0.750)." in told
    assert "Over all held-out text" not in said([BASE, AHEAD])


WORSE = {"code": 4.1, "prose": 4.1, "noise": 4.4}


def test_nothing_is_advised_for_a_control() -> None:
    control = student("reversed", [5.0, 4.2], by_domain=WORSE, selection=replace(half(), is_control=True))
    assert "did not help" not in said([BASE, control])


def reasons_for(selection: SelectionRecord, by_domain: dict[str, float] = WORSE, *, num_epochs: float = 1.0) -> str:
    behind = student("miniplm", [5.0, 4.4, 4.3, 4.2], by_domain=by_domain, selection=selection, num_epochs=num_epochs)
    text = said([BASE, behind])
    assert "The selection did not help." in text
    return text.partition("The selection did not help. ")[2]


def test_the_verdict_on_a_worse_student_gives_the_reason_that_the_numbers_give() -> None:
    assert "(4.600 nats a token) is not below the reference's (4.500)" in reasons_for(half(teacher=4.6))
    assert "(4.100 nats a token) is not below the 4.000 that no_kd reaches by itself" in reasons_for(half(teacher=4.1))
    assert "keeps 100% of the candidates" in reasons_for(half(kept_share=1.0))
    assert "It went 6.0 times through its corpus (no_kd: 1.0 times)" in reasons_for(half(), num_epochs=6.0)
    cut = reasons_for(half(), {"code": 3.9, "prose": 3.95, "noise": 4.9})
    assert cut == ("All that it loses, it loses in domains that the selection cut (noise); elsewhere it is no worse.")
    assert reasons_for(half()).startswith("None of the usual reasons shows in the numbers")


def test_a_teacher_of_another_tokenizer_is_not_held_against_a_loss_per_token() -> None:
    behind = student("miniplm", [5.0, 4.4, 4.3, 4.2], by_domain=WORSE, selection=half(teacher=4.1))
    assert "(4.100 nats a token) is not below the 4.000 that no_kd reaches" in said([BASE, behind])
    text = said([BASE, replace(behind, is_retokenised=True)])
    assert "None of the usual reasons shows in the numbers" in text
    # It may well be held against the reference, which has its tokenizer.
    weak = replace(behind, selection=half(teacher=4.6), is_retokenised=True)
    assert "(4.600 nats a token) is not below the reference's (4.500)" in said([BASE, weak])


def test_a_draw_and_a_lonely_student() -> None:
    same = student("miniplm", [5.0, 4.0], by_domain={"code": 4.0, "prose": 4.0, "noise": 4.0}, selection=half())
    assert said([BASE, same]).startswith(
        "miniplm (trained on refined_corpus/half) and no_kd (trained on candidates) end with the same held-out loss"
    )
    assert "only student" in said([BASE])


def test_of_many_students_the_verdict_says_first_who_ended_lower_and_who_higher() -> None:
    losses = {"first": 3.9, "second": 3.7, "third": 4.0, "fourth": 4.3}
    others = [student(name, [5.0, loss], by_domain={"code": loss}) for name, loss in losses.items()]
    base = student("no_kd", [5.0, 4.0], by_domain={"code": 4.0})
    text = said([base, *others])
    assert text.split("\n\n")[0] == (
        "Of 4 held against no_kd (4.000 nats a token), 2 end lower: second 3.700, first 3.900; 1 end alike: third "
        "4.000; 1 end higher: fourth 4.300. With one seed each that is no order."
    )
    assert len(text.split("\n\n")) == 5
    assert said([base, *others[:3]]).startswith("first (trained on candidates) ended lower")


def test_students_that_differ_in_more_than_their_corpus_are_not_laid_to_the_selection() -> None:
    made = {"architecture.hidden_size": 64, "training.token_budget": 8_000, "training.dtype": "float32"}
    base = student("no_kd", [5.0, 4.0], by_domain={"code": 4.0, "prose": 4.0, "noise": 4.0}, made_with=made)
    changed = {**made, "architecture.hidden_size": 1_280, "training.token_budget": 4_000, "architecture.rope": True}
    worse = student("miniplm", [5.0, 4.2], by_domain=WORSE, selection=half(kept_share=1.0), made_with=changed)
    text = said([base, worse])
    assert (
        "They were made in different ways, so that nothing here can be laid to the selection alone: "
        "architecture.hidden_size 1,280 against 64; training.token_budget 4,000 against 8,000; architecture.rope True "
        "against none."
    ) in text
    assert "did not help" not in text and "keeps 100%" not in text and "the selection cut" not in text

    larger = student("larger", [5.0, 3.0], by_domain={"code": 3.0, "prose": 3.0, "noise": 3.0}, made_with=changed)
    assert "They were made in different ways: architecture.hidden_size" in said([base, larger])
    alike = student("alike", [5.0, 3.0], by_domain={"code": 3.0, "prose": 3.0, "noise": 3.0}, made_with=made)
    assert "different ways" not in said([base, alike])


def test_a_total_says_what_it_leaves_out() -> None:
    table = held_out_table(*sequences_and_scores(), excluded_domains=["code", "absent"])
    assert table["domain"].to_list() == ["code", "empty", "prose", "all domains but code"]
    assert table["nll_nats"].to_list() == [8.0, 0.0, 4.0, 4.0]
    assert counted_domains([]) == "all domains"
    assert counted_domains(["d", "a", "c", "b"]) == "all domains but a, b, c, 1 more"


def test_a_domain_may_be_called_all_domains() -> None:
    sequences, scores = sequences_and_scores()
    table = held_out_table(sequences.with_columns(domain=pl.lit("all domains")), scores)
    assert table["domain"].to_list() == ["all domains", "all domains"]
    assert table.filter("is_total")["nll_nats"].to_list() == [12.0]


# ---- pictures: that they are drawn at the promised size, with the names as they are; what they look like was looked at


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the library draws as text; it may ask for no formula."""
    from matplotlib.backends.backend_agg import RendererAgg

    found: list[str] = []
    draw = RendererAgg.draw_text

    def note(self, context, x, y, text, *arguments, ismath=False, **others):
        assert ismath is False, text
        found.append(text)
        draw(self, context, x, y, text, *arguments, ismath=ismath, **others)

    monkeypatch.setattr(RendererAgg, "draw_text", note)
    return found


ODD_NAMES = ("$\\frac{$", "$$", "cost $^$ x", "a_b^c", "$x$ and $y$", "\\$5 \\alpha$", "{", "%d", "_hidden", "<b>")


def test_names_of_domains_are_drawn_as_they_stand(drawn: list[str]) -> None:
    rows = {"domain": [*ODD_NAMES, "two\nlines\t and more", " ", "https://example.org/" + 50 * "x" + "/end"]}
    shares = [1 / len(rows["domain"])] * len(rows["domain"])
    plot_domain_shares(pl.DataFrame({**rows, "share_of_candidate_tokens": shares, "share_of_kept_tokens": shares}))
    expected = {*ODD_NAMES, "two lines and more", "' '", "https://example.org/…" + 15 * "x" + "/end"}
    assert set(drawn) >= expected
    assert len("https://example.org/…" + 15 * "x" + "/end") == 40


def test_names_of_students_are_drawn_as_they_stand(drawn: list[str]) -> None:
    base = student("_base", [5.0, 4.0], by_domain={"code": 4.0})
    other = student("x" * 100, [5.0, 3.0], by_domain={"code": 3.0})
    plot_loss_curves([base, other], baseline="_base", excluded_domains=["noise", "absent"])
    short = 20 * "x" + "…" + 19 * "x"
    assert set(drawn) >= {
        "final loss of _base on this sample: 3.000",
        "_base (candidates)",
        f"{short} (candidates)",
        f"{short} gets there with",
        "held-out loss on a sample of",
        "all domains but noise (nats per token)",
    }


def test_seeds_are_one_line_in_a_band_and_those_measured_otherwise_a_line_each() -> None:
    base = student("base", [5.0, 4.0], by_domain={"code": 4.0})
    runs = [student("many", [5.0, last], by_domain={"code": last}).runs[0] for last in (3.0, 3.5, 3.8)]
    alike = replace(base, name="many", runs=tuple(runs))
    longer = student("many", [5.0, 4.5, 3.9], by_domain={"code": 3.9}).runs[0]
    for name, lines, bands in (("alike", 2, 1), ("otherwise", 5, 0)):
        one = alike if name == "alike" else replace(alike, runs=(*runs, longer))
        svg = plot_loss_curves([base, one], baseline="base", picture="svg").decode()
        assert len(re.findall('id="FillBetween', svg)) == bands, name
        assert svg.count("stroke-width: 1.6;") == lines + 2, name  # and one for each student in the legend


def test_a_student_has_one_style_whoever_is_drawn_beside_it_in_the_file() -> None:
    names = [f"s{number}" for number in range(30)]
    styles = line_styles(names)
    assert line_styles(reversed(names)) == styles
    assert len({(one.colour, one.dashes) for one in styles.values()}) == 28  # seven colours, four kinds of dashes


def test_many_students_are_named_with_their_last_losses_the_lowest_first(drawn: list[str]) -> None:
    losses = [4.0, 3.5, 3.9, 3.4, 3.8, 3.3, 3.7, 3.6]
    many = [student(f"s{number}", [5.0, loss], by_domain={"code": loss}) for number, loss in enumerate(losses)]
    plot_loss_curves(many, baseline="s0")
    names = [text for text in dict.fromkeys(drawn) if re.fullmatch(r"s\d \d\.\d{3}", text)]
    assert names == [f"s{number} {losses[number]:.3f}" for number in sorted(range(8), key=losses.__getitem__)]


def test_what_is_reached_and_what_never_is_stands_beside_and_below_the_cost(drawn: list[str]) -> None:
    costs = {"student": ["plain", "better", *(f"never_{number}" for number in range(20))]}
    ledger = pl.DataFrame(costs).with_columns(training_flops=pl.lit(3e12), offline_flops=pl.lit(0.0))
    pairs = pl.DataFrame({"student": costs["student"][1:]}).with_columns(
        opponent=pl.lit("plain"),
        training_flops=pl.when(pl.col("student") == "better").then(1e12),
        offline_flops=pl.lit(8e12),
        cheaper_from_students=pl.when(pl.col("student") == "better").then(5),
    )
    assert width_of(plot_break_even(pairs, ledger, baseline="plain")) == 900
    assert {"plain", "better", "1", "10", "1e+13"} <= set(drawn)
    [note] = [text for text in dict.fromkeys(drawn) if text.startswith("never there: never_0")]
    assert not any("$" in text for text in drawn)
    assert "never_19" in note or any("never_19" in text for text in drawn)


def width_of(png: bytes) -> int:
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png").shape[1]


def test_the_pictures_are_900_pixels_wide() -> None:
    many = pl.DataFrame(
        {
            "domain": [f"domain {number}" for number in range(40)],
            "share_of_candidate_tokens": [1 / 40] * 40,
            "share_of_kept_tokens": [number / 780 for number in range(40)],
        }
    )
    edges = np.linspace(-1, 2, 8)
    bins = pl.DataFrame(
        {
            "bin_start_nats": [-9.0, *edges],
            "bin_end_nats": [*edges, 9.0],
            "num_candidates": [3, 5, 8, 13, 8, 5, 3, 2, 1],
            "num_kept": [0, 0, 0, 6, 8, 5, 3, 2, 1],
        }
    )
    assert width_of(plot_loss_curves([AHEAD, BASE], baseline="no_kd")) == 900
    assert width_of(plot_difference_distribution(bins, cutoff=0.1, unit="nats per token")) == 900
    assert width_of(plot_domain_shares(many)) == 900
