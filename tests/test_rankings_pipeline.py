"""Selections that are no plain difference, as assets: what they need, what is shared, and what they leave."""

import json
from collections import Counter
from contextlib import contextmanager
from itertools import combinations

import dagster as dg
import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file
from scipy.spatial.distance import pdist

from miniplm_assets.assets.build import build_assets
from miniplm_assets.cli import main
from miniplm_assets.core.ranking import num_kept, within_domains
from miniplm_assets.kinds import scores
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.verify import verify_derived
from miniplm_assets.lineage.work import Work
from tests.corpora import write_experiment
from tests.test_golden import SHAPE, two_models
from tests.test_work import TestRun

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

PAIR = {"teacher": "large", "reference": "small"}
SELECTIONS = {
    "half": PAIR,
    "chance": {"score": "random", "tokenizer": "bpe"},
    "usual": {"score": "prior", "tokenizer": "bpe", "within": "domain"},
    "hard": {"score": "reference", "reference": "small", "order": "lowest"},
    "scaled": {**PAIR, "scale_correction": "residual", "temperature": 0.1},
    "even": {**PAIR, "scale_correction": "standardised", "within": "domain"},
    "after": {**PAIR, "pre_filter": "hard"},
}


def keys_before(graph, key):
    found = set()
    pending = [key]
    while pending:
        for needed in graph[pending.pop()].needs:
            if needed not in found:
                found.add(needed)
                pending.append(needed)
    return found


@contextmanager
def scored_keys():
    """Give the keys of the scores that a model is asked for meanwhile."""
    keys: list[str] = []
    real = scores._score

    def score(one, work):
        keys.append(work.node.key)
        return real(one, work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "_score", score)
        yield keys


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    training = {"token_budget": 2_000, "sequences_per_step": 8, "num_evaluations": 1, "num_held_out_sequences": 8}
    student = {"architecture": "tiny", "tokenizer": "bpe", "training": training}
    content = two_models(folder) | {
        "architectures": {"tiny": {**SHAPE, "num_hidden_layers": 1}},
        "selections": {name: {**chosen, "keep_fraction": 0.5} for name, chosen in SELECTIONS.items()},
        "students": {
            "by_chance": {**student, "corpus": "refined_corpus/chance"},
            "by_prior": {**student, "corpus": "refined_corpus/usual", "baseline": "by_chance"},
            "by_reference": {**student, "corpus": "refined_corpus/hard", "baseline": "by_chance"},
            "by_both": {**student, "corpus": "refined_corpus/after", "baseline": "by_chance"},
        },
    }
    pipeline = open_pipeline(write_experiment(folder / "experiment.yaml", content))
    with scored_keys() as keys, dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(build_assets(pipeline), instance=instance)
    # What survives a pre_filter is taken from the teacher's scores of everything, which other selections ask for.
    assert sorted(keys) == ["large/teacher_scores", "small/reference_scores"]
    return pipeline, result


def test_what_needs_no_model_has_no_edge_to_one(many):
    graph = many[0].graph
    models = {"large/teacher_model", "small/reference_model"}
    assert not models & (keys_before(graph, "chance/refined_corpus") | keys_before(graph, "usual/refined_corpus"))
    assert models & keys_before(graph, "hard/refined_corpus") == {"small/reference_model"}
    assert models <= keys_before(graph, "scaled/refined_corpus")
    assert "large/teacher_scores" not in graph["comparison"].inputs
    assert {"after/surviving_teacher_scores", "small/reference_scores"} <= keys_before(graph, "after/refined_corpus")


def test_the_teacher_scores_only_what_survives_and_the_plan_says_what_that_spares(many, tmp_path):
    pipeline, _ = many
    content = yaml.safe_load((pipeline.store.root.parent / "experiment.yaml").read_text())
    content["selections"] = {name: content["selections"][name] for name in ("hard", "after")}
    content["students"], content["corpus"]["expected_tokens"] = {}, 1_000_000
    # Where nothing asks for all of it, the teacher does not score all.
    alone = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content), warehouse=str(tmp_path / "empty"))
    assert "large/teacher_scores" not in alone.graph
    planned = {one.key: one for one in plan(alone)}
    scored = planned["after/surviving_teacher_scores"]
    assert scored.num_tokens == 600_000 * 0.5 + 100_000  # of 0.6 of the corpus; 0.1 is for validation
    spared = scored.flops * 300_000 // 400_000
    whole = scored.flops + spared
    assert f"its pre_filter spares {spared:.3g} of {whole:.3g} FLOPs (43%)" in scored.reasons

    # Here another selection has all of it scored, and what survives is taken from there; there it is scored alone.
    selection = 'key:raw_corpus or +key:"after/surviving_teacher_scores"'
    del content["corpus"]["expected_tokens"]
    alone = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content), warehouse=str(tmp_path / "empty"))
    with scored_keys() as keys, dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(build_assets(alone), instance=instance, selection=selection).success
    assert sorted(keys) == ["after/surviving_teacher_scores", "small/reference_scores"]
    taken, scored = (
        {
            (one.name, json.loads((one / "manifest.json").read_text())["ingredients"]["shard"]): one
            for one in (store.root / "after/surviving_teacher_scores").iterdir()
            if one.is_dir()
        }
        for store in (pipeline.store, alone.store)
    )
    assert taken.keys() == scored.keys() and len(taken) == 3  # of two files, and of both together
    for piece, folder in taken.items():
        facts = [json.loads((one / "manifest.json").read_text())["facts"] for one in (folder, scored[piece])]
        assert facts[0]["num_sequences"] == facts[1]["num_sequences"] > 0
        for split, domains in facts[1]["by_split_and_domain"].items():
            assert domains.keys() == facts[0]["by_split_and_domain"][split].keys()
            for domain, sums in domains.items():
                assert facts[0]["by_split_and_domain"][split][domain] == pytest.approx(sums, rel=1e-6)
        for path in folder.glob("*.parquet"):
            one, other = pl.read_parquet(path), pl.read_parquet(scored[piece] / path.name)
            assert one.drop("logprob_nats").equals(other.drop("logprob_nats"))
            assert one["logprob_nats"].to_list() == pytest.approx(other["logprob_nats"].to_list(), rel=1e-6)

    [survivors] = [path for path in (pipeline.store.root / "after/surviving_sequences").iterdir() if path.is_dir()]
    ids = set(pl.concat(pl.read_parquet(path) for path in survivors.glob("*.parquet"))["sequence_id"])
    folder = pipeline.store.root / "after/surviving_teacher_scores"
    found = pl.concat(pl.read_parquet(path) for path in folder.glob("*/*.parquet"))
    assert set(found["sequence_id"]) == ids and len(found) == len(ids)


def test_each_keeps_half_of_its_own(many):
    pipeline, _ = many
    kept = {}
    for name in SELECTIONS:
        [folder] = [one for one in (pipeline.store.root / name / "refined_corpus").iterdir() if one.is_dir()]
        tables = sorted(folder.glob("*.parquet"))
        kept[name] = set(pl.concat(pl.read_parquet(table) for table in tables)["sequence_id"])
        [folder] = [one for one in (pipeline.store.root / name / "selection_cutoff").iterdir() if one.is_dir()]
        [cutoff] = pq.read_table(folder / "selection_cutoff.parquet").to_pylist()
        assert len(kept[name]) == cutoff["num_kept"] == cutoff["num_candidates"] // 2
    assert kept["after"] < kept["hard"]
    assert len({frozenset(ids) for ids in kept.values()}) == len(kept)


def test_verify_finds_each_again_and_a_sequence_that_is_none(many):
    pipeline, _ = many
    lines: list[str] = []
    assert list(verify_derived(pipeline, lines.append)) == []
    assert sum("that its scores ask for" in line for line in lines) == len(SELECTIONS)
    for name in ("chance", "usual", "even"):
        [folder] = [one for one in (pipeline.store.root / name / "refined_corpus").iterdir() if one.is_dir()]
        path = sorted(folder.glob("*.parquet"))[0]
        whole = path.read_bytes()
        pq.write_table(pq.read_table(path)[1:], path)
        try:
            [problem] = verify_derived(pipeline, lines.append)
        finally:
            path.write_bytes(whole)
        assert f"{name}/refined_corpus" in problem and "0 sequences too many, 1 missing" in problem


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("half", {"keep_fraction": 0.3}),
        ("half", {"keep_fraction": 0.5}),
        ("half", {"token_budget": 1_500, "within_domains": True}),
        ("even", {"keep_fraction": 0.9}),
        ("chance", {"token_budget": 700}),
    ],
)
def test_what_would_be_kept_is_what_a_selection_of_that_amount_keeps(many, capsys, name, amount):
    pipeline, _ = many
    arguments = [f"--{option.replace('_', '-')}={value}" for option, value in amount.items() if value is not True]
    arguments += ["--within-domains"] * ("within_domains" in amount)
    experiment = str(pipeline.store.root.parent / "experiment.yaml")
    assert main(["what-if", name, experiment, *arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    of_amount = {field: amount.get(field) for field in ("keep_fraction", "token_budget")}
    within = "domain" if amount.get("within_domains") or name == "even" else None
    # Without its own quotas, what ranks is what stands before them.
    table = {"half": "difference_scores", "even": "scale_corrected_scores", "chance": "random_scores"}[name]
    node = pipeline.graph[f"{name}/{table}"]
    stored = pipeline.store.require(pipeline.latest_fingerprints().recipe(node.key))
    values = pl.concat(pl.read_parquet(path) for path in stored.matching("*.parquet"))
    ranked = values.select("sequence_id", "domain", "num_tokens", value="rank_difference")
    if within:
        ranked = within_domains(ranked, **of_amount)
    ranked = ranked.sort("value", "sequence_id", descending=[True, False])
    then = ranked.head(num_kept(ranked, **of_amount))
    [folder] = [one for one in (pipeline.store.root / name / "refined_corpus").iterdir() if one.is_dir()]
    now = set(pl.concat(pl.read_parquet(path) for path in folder.glob("*.parquet"))["sequence_id"])
    both, either = now & set(then["sequence_id"]), now | set(then["sequence_id"])
    assert told["num_kept_by_both"] == len(both)
    assert told["overlap"] == pytest.approx(len(both) / len(either))
    assert (told["now"]["num_kept"], told["then"]["num_kept"]) == (len(now), len(then))
    assert told["then"]["num_kept_tokens"] == then["num_tokens"].sum()
    assert told["then"]["cutoff_difference"] == pytest.approx(then["value"][-1])
    tokens = dict(then.group_by("domain").agg(pl.col("num_tokens").sum()).iter_rows())
    assert {one["domain"]: one["then"]["num_kept_tokens"] for one in told["domains"]} == tokens
    assert main(["what-if", name, experiment, *arguments]) == 0
    assert f"keeps {len(then):,} of {len(values):,} sequences" in capsys.readouterr().out


def test_what_if_asks_for_a_selection_and_an_amount_that_there_may_be(many, capsys):
    experiment = str(many[0].store.root.parent / "experiment.yaml")
    assert main(["what-if", "halve", experiment, "--keep-fraction", "0.1"]) == 2
    assert "did you mean 'half'?" in capsys.readouterr().err
    assert main(["what-if", "half", experiment, "--keep-fraction", "0"]) == 2
    assert "more than 0 and at most 1" in capsys.readouterr().err


def stored_rows(pipeline, key):
    """The rows of a whole asset's Parquet files."""
    stored = pipeline.store.require(pipeline.latest_fingerprints().recipe(key))
    return pl.concat(pl.read_parquet(path) for path in stored.matching("*.parquet"))


def page_of(pipeline, key):
    """What the page of a stored asset says."""
    work = Work(pipeline, pipeline.graph[key], TestRun(pipeline))
    return work.node.kind.page(work, pipeline.store.require(work.recipe))


def test_selections_over_the_same_candidates_are_held_against_each_other(many):
    pipeline, _ = many
    kept = {name: set(stored_rows(pipeline, f"{name}/refined_corpus")["sequence_id"]) for name in SELECTIONS}
    pairs = list(combinations([name for name in SELECTIONS if name != "after"], 2))  # which has other candidates
    found = stored_rows(pipeline, "selection_overlap")
    assert list(found.select("first", "second").iter_rows()) == pairs
    for row in found.iter_rows(named=True):
        both, either = kept[row["first"]] & kept[row["second"]], kept[row["first"]] | kept[row["second"]]
        assert (row["num_kept_by_both"], row["jaccard"]) == (len(both), pytest.approx(len(both) / len(either)))
    page = page_of(pipeline, "selection_overlap")
    assert [row[0] for row in page.outcome["how alike they decide"].rows] == [", ".join(pair) for pair in pairs]
    alike = max(found.iter_rows(named=True), key=lambda row: row["share_of_equal_decisions"])
    assert f"{alike['first']} and {alike['second']}" in page.outcome["outcome"]
    differences = stored_rows(pipeline, "selection_differences")
    texts = dict(stored_rows(pipeline, "half/refined_corpus").select("sequence_id", "texts").iter_rows())
    for row in differences.iter_rows(named=True):
        keeps, drops = (row["first"], row["second"]) if row["kept_by"] == "first" else (row["second"], row["first"])
        assert row["sequence_id"] in kept[keeps] - kept[drops]
        if row["sequence_id"] in texts:
            assert row["text"] == "\n\n".join(texts[row["sequence_id"]])[:200]
    assert set(differences.select("first", "second").iter_rows()) == set(pairs)


@pytest.mark.parametrize("name", ["half", "chance", "after"])
def test_the_diversity_of_what_is_kept_is_that_of_all_pairs(many, name):
    pipeline, _ = many
    folder = pipeline.store.require(pipeline.latest_fingerprints().recipe("large/teacher_model")).folder
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].astype(float)
    kept = stored_rows(pipeline, f"{name}/refined_corpus")
    ranked = stored_rows(pipeline, pipeline.graph[f"{name}/selection_cutoff"].inputs["difference_scores"])
    shards = pipeline.latest_fingerprints().pieces("bpe/sequences").values()
    sequences = pl.concat(
        pl.read_parquet(pipeline.store.require(shard).file("sequences.parquet"), columns=["sequence_id", "token_ids"])
        for shard in shards
    )
    candidates = sequences.filter(pl.col("sequence_id").is_in(ranked["sequence_id"].implode()))
    counts = Counter(token for tokens in candidates["token_ids"] for token in tokens)
    weights = {token: 1e-3 / (1e-3 + count / counts.total()) for token, count in counts.items()}

    def mean_distance(ids):
        chosen = candidates.filter(pl.col("sequence_id").is_in(ids.implode()))["token_ids"]
        return pdist(
            [sum(weights[token] * embeddings[token] for token in tokens) for tokens in chosen], "cosine"
        ).mean()

    rows = {row["texts"]: row for row in stored_rows(pipeline, f"{name}/selection_diversity").iter_rows(named=True)}
    dropped = ranked.filter(~pl.col("sequence_id").is_in(kept["sequence_id"].implode()))
    for texts, members in (("candidates", ranked), ("kept", kept), ("dropped", dropped)):
        row = rows[texts]
        assert row["num_sequences"] == row["num_sampled"] == len(members)  # all of so few
        assert row["mean_distance"] == pytest.approx(mean_distance(members["sequence_id"]))
        assert row["mean_distance_low"] < row["mean_distance"] < row["mean_distance_high"]
    page = page_of(pipeline, f"{name}/selection_diversity")
    assert f"two of them are {rows['kept']['mean_distance']:.3f} (" in page.outcome["outcome"]
    assert [row[:2] for row in page.outcome["how hard, and how unlike"].rows] == [
        [row["texts"], row["num_sequences"]] for row in rows.values()
    ]
    if name == "half":
        scored = ranked.join(kept.select("sequence_id"), on="sequence_id", how="semi")
        nll = -kept["teacher_logprob_nats"].sum() / scored["num_scored_tokens"].sum()
        assert rows["kept"]["teacher_nll_nats_per_token"] == pytest.approx(nll)
    if name == "chance":
        assert rows["kept"]["teacher_nll_nats_per_token"] is None


def test_the_catalog_has_the_tables_of_all_and_the_comparison_does_without_a_teacher(many):
    pipeline, result = many
    assert result.success
    with duckdb.connect(str(pipeline.store.root / "warehouse.duckdb"), read_only=True) as warehouse:
        units = dict(warehouse.execute("select selection, rank_by from selection_cutoff").fetchall())
        drawn = warehouse.execute("select selection, count(*) from random_scores group by all order by all").fetchall()
        students = warehouse.execute("select student, baseline from comparison order by all").fetchall()
    assert units == {
        "half": "nats_per_token",
        "chance": "random_number",
        "usual": "share_above_quota",
        "hard": "nats_per_token",
        "scaled": "perturbed_score",
        "even": "share_above_quota",
        "after": "nats_per_token",
    }
    assert [name for name, _ in drawn] == ["chance", "scaled"] and drawn[0][1] == drawn[1][1] > 100
    assert [student for student, _ in students] == ["by_both", "by_chance", "by_prior", "by_reference"]


def test_equal_tables_of_two_selections_are_made_once(many):
    pipeline, _ = many
    for table, num_tables in (("difference_scores", 2), ("random_scores", 1)):  # of four selections, and of two
        assert len([path for path in pipeline.store.root.glob(f"*/{table}/*") if path.is_dir()]) == num_tables
