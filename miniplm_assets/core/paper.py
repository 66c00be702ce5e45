"""What the paper prints of its students, to stand beside what is measured here (Gu et al. 2024, arXiv 2410.17215).

Zero-shot accuracy in per cent of nine tasks by lm-evaluation-harness: acc_norm where the task has it, else acc. Of some
rows only the average is printed.
"""

from typing import Final, Literal, get_args

TASKS: Final = (
    *("hellaswag", "lambada_openai", "winogrande", "openbookqa", "arc_easy", "arc_challenge", "piqa", "social_iqa"),
    "storycloze_2018",
)
PaperStudent = Literal[
    "200M no KD",
    "200M Vanilla KD",
    "200M MiniLLM",
    "200M SeqKD",
    "200M MiniPLM",
    "200M MiniPLM_prx",
    "200M MiniPLM + Vanilla KD",
    "500M no KD",
    "500M Vanilla KD",
    "500M MiniLLM",
    "500M SeqKD",
    "500M MiniPLM",
    "500M MiniPLM + Vanilla KD",
    "1.2B no KD",
    "1.2B Vanilla KD",
    "1.2B MiniLLM",
    "1.2B SeqKD",
    "1.2B MiniPLM",
    "1.2B MiniPLM + Vanilla KD",
    "212M Llama3.1 no KD",
    "212M Llama3.1 SeqKD",
    "212M Llama3.1 MiniPLM",
    "130M Mamba no KD",
    "130M Mamba SeqKD",
    "130M Mamba MiniPLM",
]
# In the order of TASKS.
ACCURACY_PERCENT: Final[dict[PaperStudent, tuple[float, ...]]] = {
    "200M no KD": (31.1, 32.4, 49.9, 27.6, 38.9, 23.1, 61.8, 36.4, 58.1),
    "200M Vanilla KD": (30.4, 31.0, 51.4, 26.6, 40.1, 23.1, 62.2, 36.9, 57.3),
    "200M SeqKD": (30.5, 31.0, 51.3, 27.4, 39.3, 22.4, 61.3, 36.9, 57.4),
    "200M MiniPLM": (32.7, 35.4, 51.4, 27.2, 40.6, 23.7, 63.3, 37.0, 60.0),
    "500M no KD": (35.8, 40.1, 51.0, 30.2, 41.7, 24.4, 65.4, 38.2, 61.4),
    "500M Vanilla KD": (37.0, 39.9, 51.7, 29.4, 45.1, 24.2, 65.8, 38.0, 61.6),
    "500M SeqKD": (34.9, 37.9, 50.7, 28.6, 42.7, 23.6, 65.0, 38.4, 58.9),
    "500M MiniPLM": (39.0, 42.6, 52.2, 30.2, 45.8, 24.9, 67.0, 39.0, 62.2),
    "1.2B no KD": (39.4, 44.5, 51.8, 28.4, 46.0, 25.7, 67.0, 39.5, 62.2),
    "1.2B Vanilla KD": (40.7, 43.3, 53.2, 29.8, 46.1, 25.5, 67.3, 39.2, 63.5),
    "1.2B SeqKD": (38.5, 41.4, 51.9, 29.2, 46.5, 25.1, 66.3, 39.0, 61.0),
    "1.2B MiniPLM": (42.8, 46.2, 53.3, 31.0, 46.8, 26.9, 68.3, 39.8, 64.0),
}
# As printed.
AVERAGE_PERCENT: Final[dict[PaperStudent, float]] = dict(
    zip(
        get_args(PaperStudent),
        (
            *(39.9, 39.9, 39.0, 39.7, 41.3, 40.9, 40.7),
            *(43.2, 43.6, 41.5, 42.3, 44.8, 44.9),
            *(44.9, 45.4, 43.6, 44.3, 46.6, 48.1),
            *(41.0, 40.8, 41.8, 41.6, 41.0, 42.6),
        ),
        strict=True,
    )
)
