"""One selection, students of other families and tokenizers: trained, measured and compared by the byte."""

import json
import math
import shutil
from itertools import pairwise

import dagster as dg
import duckdb
import polars as pl
import pytest
from tokenizers import Tokenizer

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.errors import ExperimentError, ModelError
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.outcome import outcome
from miniplm_assets.lineage.plan import plan, require_possible
from miniplm_assets.lineage.verify import verify_derived, verify_store
from miniplm_assets.lm.architectures import count_parameters
from miniplm_assets.training.token_file import write_token_file
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.test_passages import byte_level, family, lower_case, saved, spelt_pieces

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
MAMBA = {"model_type": "mamba", "hidden_size": 32, "state_size": 4, "num_hidden_layers": 1, "tie_word_embeddings": True}
MADE = {"half/pieces/refined_sequences", "half/letters/refined_sequences"}


def content_of(folder):
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    content["selections"]["half"] = {"score": "random", "tokenizer": "bpe", "keep_fraction": 0.5}
    content |= {"teachers": {}, "references": {}}
    content["tokenizers"] |= {
        "pieces": {"source": "folder", "path": str(folder / "pieces")},
        "letters": {"source": "folder", "path": str(folder / "letters")},
    }
    content["architectures"] |= {"llama": LLAMA, "mamba": MAMBA}
    training = {**content["students"]["no_kd"]["training"], "token_budget": 3_000, "num_evaluations": 2}
    of_llama = {"architecture": "llama", "tokenizer": "pieces", "training": training}
    of_mamba = {"architecture": "mamba", "tokenizer": "letters", "training": training}
    refined = {"corpus": "refined_corpus/half"}
    content["students"] = {
        "qwen": {"architecture": "tiny", "tokenizer": "bpe", "training": training, **refined},
        "llama_alone": of_llama,
        "llama": {**of_llama, **refined, "baseline": "llama_alone"},
        "mamba": {**of_mamba, **refined, "baseline": "qwen"},
    }
    return content


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    saved(family("metaspace", has_begin=True).tokenizer, folder / "pieces")
    saved(byte_level(add_prefix_space=False), folder / "letters")
    write_shard(folder / "corpus" / "a.jsonl", MODULES[:3])
    write_shard(folder / "corpus" / "b.jsonl", MODULES[3:5])
    path = write_experiment(folder / "experiment.yaml", content_of(folder))
    before = {one.key: one for one in plan(open_pipeline(path))}
    pipeline = open_pipeline(path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(build_assets(pipeline), instance=instance, raise_on_error=True)
    checks = {
        (check.asset_key.to_user_string(), check.check_name): check for check in result.get_asset_check_evaluations()
    }
    return folder, pipeline, before, checks


def table(pipeline, key, name="*.parquet"):
    recipes = pipeline.latest_fingerprints().stored(key)
    files = [path for recipe in recipes for path in pipeline.store.require(recipe).matching(name)]
    return pl.concat(pl.read_parquet(path, glob=False) for path in files)


@pytest.mark.parametrize("tokenizer", ["pieces", "letters"])
def test_every_selected_character_is_in_the_other_tokens_once(families, tokenizer):
    _, pipeline, _, checks = families
    refined = table(pipeline, "half/refined_corpus")
    made = table(pipeline, f"half/{tokenizer}/refined_sequences", "sequences.parquet")

    def characters(rows):
        pieces = rows.explode("spans", "texts").unnest("spans").select("document_id", "char_start", "texts")
        found = [
            (row["document_id"], row["char_start"] + place, character)
            for row in pieces.iter_rows(named=True)
            for place, character in enumerate(row["texts"])
        ]
        assert len(found) == len(set(found))
        return sorted(found)

    assert characters(made) == characters(refined)
    assert made["num_tokens"].max() <= 65 and made["sequence_id"].n_unique() == len(made)
    assert made["num_tokens"].sum() / (65 * len(made)) > 0.7  # packed, not a sequence for each passage
    assert checks[f"half/{tokenizer}/refined_sequences", "every_selected_byte_is_packed"].passed
    assert checks[f"half/{tokenizer}/refined_sequences", "no_passage_is_rejected"].passed
    assert checks[f"half/{tokenizer}/refined_sequences", "tokens_spell_the_text"].passed


def test_neighbours_are_joined(families):
    """No passage begins where another of its document ends."""
    documents = table(families[1], "documents", "documents.parquet").select(
        "document_id", pl.col("text").str.len_chars()
    )
    refined = table(families[1], "half/refined_corpus").explode("spans").unnest("spans")
    begun = refined.select("document_id", place="char_start")
    ended = refined.select("document_id", place="char_end")
    num_joins = len(begun.join(ended, on=["document_id", "place"]))
    assert num_joins > 10
    facts = families[1].store.require(families[1].latest_fingerprints().recipe("half/pieces/refined_sequences")).facts
    assert facts["num_passages"] == len(refined) - num_joins
    ends = refined.join(documents, on="document_id").filter(pl.col("char_end") == pl.col("text"))
    assert facts["num_cut_passages"] == facts["num_passages"] - ends["document_id"].n_unique()


def test_students_are_measured_on_the_validation_text_in_their_own_tokens(families):
    pipeline = families[1]
    documents = table(pipeline, "documents", "documents.parquet")
    held_out_documents = documents.filter(pl.col("split") == "validation", pl.col("domain") != "noise")
    for student, tokenizer in (("qwen", "bpe"), ("llama", "pieces"), ("mamba", "letters")):
        recipe = pipeline.latest_fingerprints().recipe(f"{tokenizer}/tokenizer")
        library = Tokenizer.from_file(str(pipeline.store.require(recipe).folder / "tokenizer.json"))
        end = {"<|endoftext|>", "</s>"}
        sequences = table(pipeline, f"{tokenizer}/sequences", "sequences.parquet")
        held_out = sequences.filter(pl.col("split") == "validation", pl.col("domain") != "noise")
        num_bytes = num_tokens = 0
        for token_ids in held_out["token_ids"].to_list():
            pieces = [library.id_to_token(token_id) for token_id in token_ids]
            scored = [piece for before, piece in pairwise(pieces) if before not in end]
            num_tokens += len(scored)
            # A character of a byte-level piece is a byte.
            of_text = [piece for piece in scored if piece not in end]
            num_bytes += sum(map(len, of_text)) if tokenizer != "pieces" else len(spelt_pieces(of_text))
        [total] = table(pipeline, f"{student}/student_evaluation", "held_out.parquet").filter("is_total").to_dicts()
        assert (total["num_sequences"], total["num_scored_tokens"]) == (len(held_out), num_tokens)
        assert total["bits_per_byte"] == pytest.approx(total["nll_nats"] / math.log(2) / num_bytes, rel=1e-12)
        assert 0.85 * held_out_documents["num_bytes"].sum() < num_bytes < held_out_documents["num_bytes"].sum()


def test_students_of_other_families_learn_and_load(families):
    from transformers import AutoModelForCausalLM

    folder, pipeline, _, _ = families
    for student, model_type, tokenizer in (("llama", "llama", "pieces"), ("mamba", "mamba", "letters")):
        log = table(pipeline, f"{student}/student_checkpoint", "training_log.parquet")
        losses = log["held_out_nll_nats_per_token"].drop_nulls()
        assert losses[-1] < losses[0]
        [recipe] = pipeline.latest_fingerprints().stored(f"{student}/student_checkpoint")
        model = AutoModelForCausalLM.from_pretrained(pipeline.store.require(recipe).folder)
        assert model.config.model_type == model_type
        own = Tokenizer.from_file(str(folder / tokenizer / "tokenizer.json"))
        assert model.config.vocab_size == own.get_vocab_size()


def test_no_loss_falls_on_a_token_that_stands_where_a_text_was_cut(tmp_path):
    from miniplm_assets.lm.scores import TokenRule
    from miniplm_assets.training.batch import make_batch
    from miniplm_assets.training.objectives import Objective

    def rows_of(name, rows):
        token_ids, cuts = (pl.Series(one, dtype=pl.List(pl.Int32)) for one in zip(*rows, strict=True))
        file = tmp_path / f"{name}.parquet"
        table = {"sequence_id": range(len(rows)), "num_tokens": token_ids.list.len(), "token_ids": token_ids}
        pl.DataFrame({**table, "cut_ends": cuts}).write_parquet(file)
        for _ in range(2):  # written, and found
            tokens = write_token_file(
                tmp_path / name,
                sequence_files=[file],
                split=None,
                vocab_size=10,
                data_fingerprint=name,
                report=pytest.fail,
            )
        return [tokens.row(place) for place in range(tokens.num_sequences)]

    # 0 ends a document, or stands where one was cut; a sequence of one token teaches nothing.
    cut = [([5, 6, 0, 7, 8, 0, 9, 4, 0], [2, 8]), ([3], []), ([4, 0, 5, 0], [3]), ([6, 7], []), ([8, 9, 0], [2])]
    rule = TokenRule(end_of_document_id=0, score_after_end_of_document=False)
    batch = make_batch(rows_of("cut", cut), rule=rule, mean_over="tokens", objective=Objective())
    assert batch["targets"].tolist() == [6, 8, 0, 4, 0, 7, 9]
    whole = [(token_ids, []) for token_ids, _ in cut]
    batch = make_batch(rows_of("whole", whole), rule=rule, mean_over="tokens", objective=Objective())
    assert batch["targets"].tolist() == [6, 0, 8, 0, 4, 0, 0, 0, 7, 9, 0]


def test_a_student_predicts_no_cut(families):
    """All that is marked is the token that ends documents; where it would have begun a sequence, it is left out."""
    pipeline = families[1]
    made = table(pipeline, "half/pieces/refined_sequences", "sequences.parquet")
    facts = pipeline.store.require(pipeline.latest_fingerprints().recipe("half/pieces/refined_sequences")).facts
    num_cuts = made["cut_ends"].list.len().sum()
    assert 0.8 * facts["num_cut_passages"] < num_cuts <= facts["num_cut_passages"]
    places = made.explode("cut_ends").drop_nulls("cut_ends")
    assert set(places["token_ids"].list.get(places["cut_ends"])) == {2}  # </s>


@pytest.mark.parametrize(
    ("shape", "vocab_size", "published_millions"),
    [
        ({**LLAMA, "hidden_size": 768, "intermediate_size": 3_072, "num_hidden_layers": 12}, 128_256, 212),
        ({**MAMBA, "hidden_size": 768, "state_size": 16, "num_hidden_layers": 24}, 50_277, 130),
    ],
)
def test_shapes_of_the_paper_have_its_sizes(shape, vocab_size, published_millions):
    """Llama 3.1 and Mamba of arXiv 2410.17215, built on the meta device."""
    if shape["model_type"] == "llama":
        shape = {**shape, "num_attention_heads": 12, "num_key_value_heads": 12, "tie_word_embeddings": True}
    count = count_parameters(shape, vocab_size=vocab_size).total
    assert round(count / 1e6) in (published_millions, published_millions - 1)  # Mamba's 129.1M is called 130M


def test_they_are_compared_by_the_byte(families):
    pipeline = families[1]
    text = outcome(pipeline)
    compared = table(pipeline, "comparison")
    bits = dict(compared.group_by("student").agg(pl.col("bits_per_byte").mean()).iter_rows())
    assert bits.keys() == {"qwen", "llama_alone", "llama", "mamba"}
    assert f"{bits['mamba']:.3f} against {bits['qwen']:.3f} bits a byte of held-out text" in text
    assert "They have different tokenizers, so that their losses per token cannot be compared" in text
    rows = compared.filter(pl.col("student") == "mamba")
    assert rows["tokens_to_baseline_loss"].null_count() == len(rows)


def test_the_catalog_tells_selection_and_tokenizer_apart(families):
    store = families[1].store
    with duckdb.connect(str(store.root / "warehouse.duckdb"), read_only=True) as warehouse:
        rows = warehouse.execute(
            "select selection, tokenizer, sum(num_bytes) from refined_sequences group by all order by all"
        )
        found = rows.fetchall()
        [(num_bytes,)] = warehouse.execute("select sum(num_bytes) from refined_corpus").fetchall()
    assert found == [("half", "letters", num_bytes), ("half", "pieces", num_bytes)]
    assert list(verify_store(store, print)) == list(verify_derived(families[1], print)) == []


def test_a_plan_tells_its_cost_before_and_after(families):
    folder, pipeline, before, _ = families
    after = {one.key: one for one in plan(open_pipeline(folder / "experiment.yaml"))}
    for key in MADE:
        facts = pipeline.store.require(pipeline.latest_fingerprints().recipe(key)).facts
        assert before[key].num_missing == 2 and after[key].is_complete
        assert before[key].num_bytes == pytest.approx(4 * facts["num_tokens"], rel=0.5)


def test_a_new_selection_makes_its_text_anew_and_no_tokenizer(families, tmp_path):
    folder = shutil.copytree(families[0], tmp_path / "copy")
    text = (folder / "experiment.yaml").read_text().replace(str(families[0]), str(folder))
    (folder / "experiment.yaml").write_text(text.replace("keep_fraction: 0.5", "keep_fraction: 0.25"))
    steps = {one.key: one for one in plan(open_pipeline(folder / "experiment.yaml"))}
    for key in MADE:
        assert steps[key].num_missing == 2 and steps[key].reasons == ("input refined_corpus changed (2 results)",)
    assert steps["mamba/student_checkpoint"].reasons == ("input refined_sequences changed",)
    assert steps["pieces/sequences"].is_complete and steps["llama_alone/student_checkpoint"].is_complete


def test_verify_finds_a_document_whose_text_is_another(families, tmp_path):
    warehouse = shutil.copytree(families[0] / "warehouse", tmp_path / "warehouse")
    said = []
    pipeline = open_pipeline(families[0] / "experiment.yaml", warehouse=str(warehouse))
    assert list(verify_derived(pipeline, said.append)) == []
    assert sum("half/pieces/refined_sequences: the selected text of" in line for line in said) == 1
    path = next((warehouse / "half" / "pieces" / "refined_sequences").glob("*/sequences.parquet"))
    rows = pl.read_parquet(path)
    rows.with_columns(pl.col("texts").list.eval(pl.element().str.replace("e", "E"))).write_parquet(path)
    [problem] = verify_derived(pipeline, print)
    assert problem.startswith("half/pieces/refined_sequences") and "with another text than was selected" in problem


def test_a_tokenizer_that_keeps_no_text_is_refused_before_anything_runs(tmp_path):
    saved(lower_case(), tmp_path / "pieces")
    saved(byte_level(add_prefix_space=False), tmp_path / "letters")
    write_shard(tmp_path / "corpus" / "a.jsonl", MODULES[:1])
    path = write_experiment(tmp_path / "experiment.yaml", content_of(tmp_path))
    message = r"half/pieces/refined_sequences: tokenizer pieces/tokenizer: does not keep a text.*two words"
    with pytest.raises(ExperimentError, match=message) as caught:
        require_possible(plan(open_pipeline(path)))
    assert "letters" not in str(caught.value)


def test_a_tokenizer_without_a_file_that_gives_places_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "tokenizer.model").write_bytes(b"sentencepiece")
    (tmp_path / "pieces" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    saved(byte_level(add_prefix_space=False), tmp_path / "letters")
    write_shard(tmp_path / "corpus" / "a.jsonl", MODULES[:1])
    path = write_experiment(tmp_path / "experiment.yaml", content_of(tmp_path))
    with pytest.raises(ModelError, match=r"pieces.* has no tokenizer\.json\. Load it once with transformers"):
        plan(open_pipeline(path))
