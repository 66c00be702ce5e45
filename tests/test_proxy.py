"""A proxy: what it learns, what it predicts, and what a selection makes of the two kinds of differences."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from miniplm_assets.core.errors import ScoringError, SqlError, TrainingError
from miniplm_assets.core.proxy import broken_limits, mark_held_out, summarise
from miniplm_assets.core.ranking import kept_sequences
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment import ProxyTraining, Selection
from miniplm_assets.kinds.proxy_differences import predict_file
from miniplm_assets.kinds.rankings import PROXY_SCORES, traits_of
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training.regression import Form, Predictor, load_regression
from miniplm_assets.training.regression_trainer import RegressionJob, _Run, learning_rate, train_regression
from miniplm_assets.training.token_file import TokenFile, write_token_file
from tests.sql_tables import Tables, project, score, sequence

VOCAB_SIZE, END, COUNTED = 12, 0, 3
SHAPE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_inner": 16},  # has dropout, and learnt positions
    "qwen2": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
RULE = TokenRule(end_of_document_id=END, score_after_end_of_document=False)
TRAINING = ProxyTraining(token_budget=12_000, sequences_per_step=16, peak_learning_rate=1e-2)


def write_reference(folder: Path, model_type: str) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, vocab_size=VOCAB_SIZE, max_position_embeddings=16, **SHAPE[model_type])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def drawn_sequences(number: int, *, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB_SIZE, size=int(random.integers(4, 17))) for _ in range(number)]


@pytest.fixture
def job(tmp_path: Path, request: pytest.FixtureRequest) -> RegressionJob:
    """The share of one token among those that are read, of 300 sequences; every fourth is held out."""
    sequences = drawn_sequences(300)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sequences])])
    values = np.array([(one[:-1] == COUNTED).mean() for one in sequences])
    return RegressionJob(
        name="half/proxy_model",
        model_folder=write_reference(tmp_path / "reference", getattr(request, "param", "gpt2")),
        training=TRAINING,
        rule=RULE,
        tokens=TokenFile(np.concatenate(sequences).astype(np.uint32), offsets, np.arange(300) * 7),
        values=5.0 + 0.01 * values,  # far from 0, with little between them
        is_held_out=np.arange(300) % 4 == 0,
        seed=3,
        fingerprint="f" * 32,
        device="cpu",
        tokens_per_batch=100,
    )


def train(job: RegressionJob, folder: Path, stop: Stop | None = None) -> dict[str, Any]:
    for name in ("work", "target"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    report = lambda _: None  # noqa: E731
    return train_regression(job, work=folder / "work", target=folder / "target", report=report, stop=stop or Stop())


def held_out(folder: Path) -> pl.DataFrame:
    renamed = {"value": "difference_nats_per_token", "predicted_value": "predicted_difference_nats_per_token"}
    return pl.read_parquet(folder / "target" / "held_out.parquet").rename(renamed)


def judged(rows: pl.DataFrame, **changes: Any) -> dict[str, Any]:
    asked = {"kept_share": 0.5, "rank_by": "nats_per_token", "order": "highest", **changes}
    return summarise(mark_held_out(rows, **asked))


@pytest.mark.parametrize("job", ["gpt2", "qwen2"], indirect=True)
def test_what_follows_from_the_tokens_is_learnt(job, tmp_path):
    facts = train(job, tmp_path)
    rows = held_out(tmp_path)
    assert sorted(rows["sequence_id"]) == [place * 7 for place in range(0, 300, 4)]
    assert rows["difference_nats_per_token"].to_list() == [job.values[place // 7] for place in rows["sequence_id"]]
    measures = judged(rows)
    assert measures["rank_correlation"] > 0.8 and measures["equal_selection_share"] > 0.8
    assert list(broken_limits(measures, min_rank_correlation=0.8)) == []
    # In the unit of the values, not of what was learnt.
    error = (rows["predicted_difference_nats_per_token"] - rows["difference_nats_per_token"]).pow(2).mean()
    assert error < 0.3 * job.values.var()
    assert facts["num_held_out_sequences"] == 75 and facts["num_learnt_sequences"] == 225
    assert facts["num_tokens"] in range(12_000, 12_016)
    assert facts["training_flops"] == 6 * facts["num_parameters"] * facts["num_tokens"]
    log = pl.read_parquet(tmp_path / "target" / "training_log.parquet")
    assert log["num_tokens"][-1] == facts["num_tokens"] and log["step"][-1] == facts["num_steps"]
    assert log["training_error"][0] > 3 * log["training_error"][-1]


def test_noise_is_not_learnt_and_the_gate_says_so(job, tmp_path):
    noise = np.random.default_rng(8).normal(size=300)
    train(replace(job, values=noise, training=TRAINING.model_copy(update={"token_budget": 4_000})), tmp_path)
    [problem] = broken_limits(judged(held_out(tmp_path)), min_rank_correlation=0.5)
    assert "min_rank_correlation is 0.5" in problem


@pytest.mark.parametrize("while_predicting", [False, True])
def test_a_stopped_run_ends_with_the_same_bytes(job, tmp_path, monkeypatch, while_predicting):
    job = replace(job, training=TRAINING.model_copy(update={"token_budget": 1_500}))
    whole = train(job, tmp_path / "whole")
    stop = Stop()
    if while_predicting:
        predict = Predictor.predict

        def predict_and_ask(*arguments):
            stop.is_asked = True
            return predict(*arguments)

        monkeypatch.setattr(Predictor, "predict", predict_and_ask)
    else:
        do = _Run._do

        def do_and_ask(run, step):
            do(run, step)
            stop.is_asked |= step == 4

        monkeypatch.setattr(_Run, "_do", do_and_ask)
    with pytest.raises(Stopped):
        train(job, tmp_path / "cut", stop)
    assert not list((tmp_path / "cut" / "target").iterdir())
    monkeypatch.undo()
    assert train(job, tmp_path / "cut")["resumed_from_step"] == (whole["num_steps"] if while_predicting else 4)
    for name in ("model.safetensors", "held_out.parquet", "regression.json"):
        assert (tmp_path / "cut/target" / name).read_bytes() == (tmp_path / "whole/target" / name).read_bytes()
    logs = [
        pl.read_parquet(tmp_path / name / "target/training_log.parquet").drop("seconds") for name in ("cut", "whole")
    ]
    assert logs[0].equals(logs[1])


def test_a_step_in_parts_is_the_same_step(job, tmp_path):
    job = replace(job, training=TRAINING.model_copy(update={"token_budget": 600}))
    # Without dropout, which draws for each part.
    job = replace(job, model_folder=write_reference(tmp_path / "qwen2", "qwen2"))
    parts = replace(job, training=job.training.model_copy(update={"sequences_per_device": 3}))
    for name, one in (("whole", job), ("parts", parts)):
        train(one, tmp_path / name)
    whole, in_parts = (held_out(tmp_path / name)["predicted_difference_nats_per_token"] for name in ("whole", "parts"))
    assert (whole - in_parts).abs().max() < 1e-3 * whole.std()


def test_values_that_are_all_alike_are_refused(job, tmp_path):
    with pytest.raises(TrainingError, match="225 sequences to learn from have the same value, 0.25"):
        train(replace(job, values=np.full(300, 0.25)), tmp_path)


def test_another_proxys_checkpoint_is_refused(job, tmp_path):
    job = replace(job, training=TRAINING.model_copy(update={"token_budget": 200}))
    train(job, tmp_path)
    with pytest.raises(TrainingError, match="cannot be resumed from"):
        train(replace(job, fingerprint="e" * 32), tmp_path)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_share():
    training = ProxyTraining(token_budget=1, peak_learning_rate=2.0, warmup_share=0.4, final_learning_rate_share=0.25)
    rates = [learning_rate(training, step, 10) for step in range(1, 11)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    # Half a cosine over the six that are left: in its middle the mean of 2 and 0.5.
    assert rates[6] == pytest.approx(1.25) and rates[9] == pytest.approx(0.5)
    assert rates[3:] == sorted(rates[3:], reverse=True)


@pytest.fixture
def trained(job, tmp_path):
    train(replace(job, training=TRAINING.model_copy(update={"token_budget": 600})), tmp_path)
    return tmp_path / "target"


def predictor_of(folder: Path, tokens_per_batch: int = 40) -> Predictor:
    model, form = load_regression(folder, device="cpu", report=lambda _: None)
    return Predictor(model=model, form=form, dtype="float32", tokens_per_batch=tokens_per_batch, look=lambda: None)


def test_a_value_is_the_head_of_the_mean_over_the_scored_tokens(trained, tmp_path):
    """Each alone, without padding, by transformers' own model; the end of a document, and one of no scored token."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel

    weights = load_file(trained / "model.safetensors")
    body = AutoModel.from_config(AutoConfig.from_pretrained(trained))
    body.load_state_dict({name.removeprefix("body."): one for name, one in weights.items() if "body." in name})
    body.eval()
    form = predictor_of(trained).form
    sequences = [*drawn_sequences(20, seed=5), np.array([END, 4]), np.array([7]), np.array([5, END, END, 2])]
    expected = []
    for tokens in sequences:
        places = [place for place in range(len(tokens) - 1) if tokens[place] != END]
        if not places:
            expected.append(0.0)
            continue
        with torch.no_grad():
            hidden = body(torch.tensor(tokens[None, :-1])).last_hidden_state[0]
        value = hidden[places].mean(0) @ weights["head.weight"][0] + weights["head.bias"][0]
        expected.append(form.mean + form.deviation * value.item())
    read = [one.astype(np.int32) for one in sequences]
    values, num_scored = predictor_of(trained).predict(read, np.arange(len(read)))
    assert values.tolist() == pytest.approx(expected, rel=1e-6)
    assert num_scored.tolist() == [sum(token != END for token in one[:-1]) for one in sequences]


def write_file(folder: Path, sequences: list[np.ndarray]) -> Path:
    splits = ["validation" if place % 5 == 0 else "candidate" for place in range(len(sequences))]
    table = {
        "sequence_id": pa.array(range(len(sequences)), pa.int64()),
        "split": pa.array(splits),
        "num_tokens": pa.array([len(one) for one in sequences], pa.int32()),
        "token_ids": pa.array([one.tolist() for one in sequences], pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(table), folder / "sequences.parquet", row_group_size=7)
    return folder / "sequences.parquet"


def test_every_candidate_without_scores_is_predicted_once(trained, tmp_path, monkeypatch):
    sequences = drawn_sequences(60, seed=2)
    path = write_file(tmp_path, sequences)
    scored = [place for place in range(60) if place % 5 == 0 or place % 3 == 0]
    pl.DataFrame({"sequence_id": scored[::-1]}).write_parquet(tmp_path / "scores.parquet")
    predictor = predictor_of(trained)
    monkeypatch.setattr("miniplm_assets.kinds.proxy_differences.SEQUENCES_AT_ONCE", 13)
    facts = predict_file(path, tmp_path / "scores.parquet", tmp_path / "out.parquet", predictor=predictor, shard="a")
    rows = pl.read_parquet(tmp_path / "out.parquet")
    left = [place for place in range(60) if place not in scored]
    assert rows["sequence_id"].to_list() == left and facts["num_predicted"] == len(left) == 32
    assert facts["num_scored_tokens"] == sum(int((sequences[place][:-1] != END).sum()) for place in left)
    alone = [predictor.predict([sequences[place].astype(np.int32)], np.array([place]))[0][0] for place in left]
    assert rows["predicted_difference_nats_per_token"].to_list() == pytest.approx(alone, rel=1e-6)


def test_a_value_that_is_not_finite_is_an_error_with_its_sequence(trained):
    predictor = predictor_of(trained)
    broken = replace(predictor, form=Form(**{**vars(predictor.form), "mean": float("nan")}))
    with pytest.raises(ScoringError, match=r"sequence 8 is predicted as nan \(2 of 3 are not finite\)"):
        broken.predict([np.array(one, dtype=np.int32) for one in ([7], [4, 5], [5, 6, 7])], np.array([9, 8, 7]))
    with pytest.raises(ScoringError, match="sequence 8 holds token id 12"):
        predictor.predict([np.array([1, 12], dtype=np.int32)], np.array([8]))


def test_a_token_file_of_some_sequences_holds_those_alone(tmp_path):
    sequences = drawn_sequences(30)
    path = write_file(tmp_path, sequences)
    for wanted in ([3, 8, 29], [1], []):
        arguments: dict[str, Any] = {
            "sequence_files": [path],
            "split": "candidate",
            "vocab_size": VOCAB_SIZE,
            "data_fingerprint": str(wanted),
            "report": lambda _: None,
            "sequence_ids": np.array(wanted, dtype=np.int64),
        }
        if not wanted:
            with pytest.raises(TrainingError, match="holds no sequence to learn from"):
                write_token_file(tmp_path / "tokens", **arguments)
            continue
        tokens = write_token_file(tmp_path / "tokens", **arguments)
        assert tokens.sequence_ids.tolist() == wanted
        assert [tokens.row(place).token_ids.tolist() for place in range(len(wanted))] == [
            sequences[place].tolist() for place in wanted
        ]


values = st.sampled_from([-1.0, -0.25, 0.0, 0.5, 0.75, 2.0])


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(
    st.lists(st.tuples(values, values, st.integers(1, 3)), min_size=2, max_size=12),
    st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    st.sampled_from(["nats_per_token", "nats_per_sequence"]),
    st.sampled_from(["highest", "lowest"]),
)
def test_agreement_is_that_of_a_brute_force(rows, kept_share, rank_by, order):
    table = pl.DataFrame(
        {
            "sequence_id": range(len(rows)),
            "difference_nats_per_token": [one[0] for one in rows],
            "predicted_difference_nats_per_token": [one[1] for one in rows],
            "num_scored_tokens": [one[2] for one in rows],
        },
        schema_overrides={"num_scored_tokens": pl.Int32},
    ).sample(fraction=1.0, shuffle=True, seed=1)
    measures = judged(table, kept_share=kept_share, rank_by=rank_by, order=order)
    both = [np.array([one[which] * (one[2] if "seq" in rank_by else 1) for one in rows]) for which in (0, 1)]

    def ranks(numbers: np.ndarray) -> np.ndarray:
        return np.array([(numbers < one).sum() + ((numbers == one).sum() + 1) / 2 for one in numbers])

    def pearson(first: np.ndarray, second: np.ndarray) -> float | None:
        first, second = first - first.mean(), second - second.mean()
        spread = np.sqrt((first**2).sum() * (second**2).sum())
        return float((first * second).sum() / spread) if spread else None

    assert measures["rank_correlation"] == pytest.approx(pearson(ranks(both[0]), ranks(both[1])))
    assert measures["linear_correlation"] == pytest.approx(pearson(*both))
    sign = -1 if order == "highest" else 1
    num_kept = max(1, round(kept_share * len(rows)))
    first, second = (
        set(sorted(range(len(rows)), key=lambda place: (sign * one[place], place))[:num_kept]) for one in both
    )
    assert measures["equal_selection_share"] == pytest.approx(1 - len(first ^ second) / len(rows))
    has_no_order = measures["rank_correlation"] is None
    is_broken = has_no_order or measures["rank_correlation"] < 0.5
    assert bool(list(broken_limits(measures, min_rank_correlation=0.5))) == is_broken


SQL = project()
SETTINGS = ("rank_by", "keep_fraction", "token_budget")
nats = st.sampled_from([-3.0, -2.5, -2.0, -1.01, -1.0, -0.5, 0.0])


def write_mixed(tables: Tables, rows: list[tuple[float, float, float, int, bool]]) -> None:
    """Write teacher's and reference's nats of those that are scored, and the prediction of the others."""
    candidates = [
        sequence(place, shard=f"s{place * 2 // len(rows)}", num_tokens=one[3] + 1) for place, one in enumerate(rows)
    ]
    other = sequence(len(rows), split="validation")
    scored = [place for place, one in enumerate(rows) if one[4]]
    tables.write_all(
        [*candidates, other], *({**{place: rows[place][who] for place in scored}, len(rows): -9.0} for who in (0, 1))
    )
    predicted = [
        {"sequence_id": place, "predicted_difference_nats_per_token": one[2], "num_scored_tokens": one[3]}
        for place, one in enumerate(rows)
        if not one[4]
    ]
    tables.write("proxy_differences", predicted, num_files=2)


def run(tables: Tables, chosen: Selection, name: str) -> None:
    parameters = {field: getattr(chosen, field) for field in SETTINGS}
    checks = tables.run(SQL, name, traits=traits_of(chosen), **parameters)
    assert {check.name for check in checks.values() if not check.passed} <= {"token_budget_is_reached"}
    if name == PROXY_SCORES:
        tables.paths["difference_scores"] = tables.paths[PROXY_SCORES]


def by_proxy(**amount: Any) -> Selection:
    proxy = {"share": 0.1, "training": {"token_budget": 1}}
    return Selection.model_validate({"teacher": "t", "reference": "r", "proxy": proxy, **amount})


@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(
    st.lists(st.tuples(nats, nats, values, st.integers(0, 3), st.booleans()), min_size=1, max_size=20),
    st.sampled_from(["nats_per_token", "nats_per_sequence"]),
    st.sampled_from([{"keep_fraction": 0.29}, {"keep_fraction": 0.5}, {"token_budget": 7}]),
)
def test_what_is_kept_is_what_sorting_true_and_predicted_differences_keeps(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, rank_by: Any, amount: dict[str, Any]
) -> None:
    # A sequence in which nothing is scored has no log-probability, and is predicted as 0.
    rows = [(one[0], one[1], one[2], one[3], one[4]) if one[3] else (0.0, 0.0, 0.0, 0, one[4]) for one in rows]
    tables = Tables(tmp_path_factory.mktemp("mixed"))
    write_mixed(tables, rows)
    chosen = by_proxy(rank_by=rank_by, **amount)
    for name in (PROXY_SCORES, "selection_cutoff", "refined_corpus"):
        run(tables, chosen, name)

    def value(teacher: float, reference: float, predicted: float, num_tokens: int, is_scored: bool) -> float:
        if rank_by == "nats_per_sequence":
            return teacher - reference if is_scored else predicted * num_tokens
        return (teacher - reference) / max(1, num_tokens) if is_scored else predicted

    ranks = [value(*one) for one in rows]
    found = {row["sequence_id"]: row for row in tables.rows(PROXY_SCORES)}
    assert {place: row["rank_difference"] for place, row in found.items()} == dict(enumerate(ranks))
    for place, (teacher, reference, _, num_tokens, is_scored) in enumerate(rows):
        row = found[place]
        assert row["num_scored_tokens"] == num_tokens
        logprobs = (row["teacher_logprob_nats"], row["reference_logprob_nats"], row["difference_nats"])
        assert logprobs == ((teacher, reference, teacher - reference) if is_scored else (None, None, None))
    order = sorted(range(len(rows)), key=lambda place: (-ranks[place], place))
    if "keep_fraction" in amount:
        num_kept = max(1, int(amount["keep_fraction"] * len(rows) + 1e-9))
    else:
        before = np.cumsum([0, *(rows[place][3] + 1 for place in order)])[:-1]
        num_kept = int((before < amount["token_budget"]).sum())
    assert {row["sequence_id"] for row in tables.rows("refined_corpus")} == set(order[:num_kept])
    teacher, reference = (
        pl.concat(pl.read_parquet(path) for path in tables.paths[f"{who}_scores"]) for who in ("teacher", "reference")
    )
    assert kept_sequences(
        pl.DataFrame([sequence(place, num_tokens=one[3] + 1) for place, one in enumerate(rows)]),
        teacher_scores=teacher,
        reference_scores=reference,
        predicted=pl.concat(pl.read_parquet(path) for path in tables.paths["proxy_differences"]),
        rank_by=rank_by,
        **amount,
    ) == set(order[:num_kept])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda scored, predicted: predicted.pop(),
            "sequence 3 of shard s1 is not predicted, and was scored over NULL",
        ),
        (
            lambda scored, predicted: predicted.append({**predicted[0], "sequence_id": 0}),
            "0 of shard s0 is scored, and",
        ),
        (
            lambda scored, predicted: predicted.append({**predicted[0], "sequence_id": 9}),
            "9 is predicted, but the corpus",
        ),
        (
            lambda scored, predicted: predicted[0].update(predicted_difference_nats_per_token=float("nan")),
            "2 .* is nan",
        ),
        (lambda scored, predicted: predicted[0].update(predicted_difference_nats_per_token=None), "2 .* is NULL"),
        (lambda scored, predicted: scored.update({1: float("-inf")}), "1 of shard s0 is -inf"),
        (lambda scored, predicted: scored.pop(1), "1 of shard s0 is not predicted, and was scored over NULL tokens"),
        (lambda scored, predicted: predicted.append(dict(predicted[0])), "sequence_id identifies a row"),
    ],
)
def test_a_candidate_without_exactly_one_difference_stops(tmp_path, break_it, message):
    tables = Tables(tmp_path)
    write_mixed(tables, [(-1.0, -2.0, 0.1, 2, place < 2) for place in range(4)])
    scored = {0: -1.0, 1: -1.0}
    predicted = list(tables.rows("proxy_differences"))
    predicted.sort(key=lambda row: row["sequence_id"])
    break_it(scored, predicted)
    tables.write("teacher_scores", [score(place, nats) for place, nats in scored.items()])
    tables.write("proxy_differences", predicted)
    with pytest.raises(SqlError, match=message):
        run(tables, by_proxy(keep_fraction=0.5), PROXY_SCORES)
