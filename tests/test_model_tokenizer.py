"""A model's own tokenizer against that of the sequences, and what a model reads in front of a text."""

import json

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.errors import ModelError
from miniplm_assets.corpus.model_tokenizer import FirstToken, begin_of_sequence, first_token, require_same_pieces
from miniplm_assets.corpus.tokenizer import END_OF_DOCUMENT, train_tokenizer
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment
from tests.scoring_oracle import tiny_model

NATS_PER_TOKEN = 1e-4
TEXTS = ["The teacher reads. The reference reads too!\n\nBoth differ, naïve island, winter corpus and river model."] * 3
BOS = FirstToken(piece="<bos>", token_id=300)


def make_tokenizer(folder):
    """Save a tokenizer of 300 entries, its end of a document at id 0."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(iter(TEXTS), vocab_size=300, folder=folder)
    return folder


def change(folder, change_spec):
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    change_spec(spec)
    path.write_text(json.dumps(spec))
    return folder


def add_special(spec, piece, token_id):
    spec["added_tokens"].append(
        {"id": token_id, "content": piece, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    )


def put_first(*pieces, last=()):
    """Let a tokenizer put special tokens around a text."""

    def change_spec(spec):
        for number, piece in enumerate((*pieces, *last)):
            add_special(spec, piece, 300 + number)
        around = [{"SpecialToken": {"id": piece, "type_id": 0}} for piece in pieces]
        behind = [{"SpecialToken": {"id": piece, "type_id": 0}} for piece in last]
        spec["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*around, {"Sequence": {"id": "A", "type_id": 0}}, *behind],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                piece: {"id": piece, "ids": [300 + number], "tokens": [piece]}
                for number, piece in enumerate((*pieces, *last))
            },
        }

    return change_spec


def reverse(spec):
    """Give every piece another id, as case 28 has it."""
    spec["model"]["vocab"] = {piece: 299 - token_id for piece, token_id in spec["model"]["vocab"].items()}
    for token in spec["added_tokens"]:
        token["id"] = 299 - token["id"]


def exchange(spec):
    """Give two letters the id of each other."""
    assert spec["model"]["vocab"]["a"] == 65
    spec["model"]["vocab"] |= {"a": 66, "b": 65}


@pytest.fixture
def folders(tmp_path):
    """A model's folder with its own tokenizer, and the same tokenizer alone."""
    model, tokenizer = make_tokenizer(tmp_path / "model"), make_tokenizer(tmp_path / "tokenizer")
    (model / "config.json").write_text('{"vocab_size": 304}')
    return model, tokenizer


def held_against(folders):
    require_same_pieces(*folders, model="model there", tokenizer="bpe")


def test_what_is_the_same_passes_and_so_does_a_special_token_more(folders):
    held_against(folders)
    change(folders[0], put_first("<bos>"))
    held_against(folders)
    change(folders[1], lambda spec: add_special(spec, "<|im_start|>", 302))
    held_against(folders)


def test_other_ids_are_refused(folders):
    change(folders[0], reverse)
    with pytest.raises(
        ModelError, match=r"model there: its own tokenizer.json has other ids than tokenizer bpe for 300"
    ):
        held_against(folders)


def test_two_pieces_that_changed_places_are_named(folders):
    change(folders[0], exchange)
    with pytest.raises(ModelError, match=r"for 2 of 300 pieces: 'a' is 66 there and 65 here; 'b' is 65"):
        held_against(folders)


def test_another_end_of_a_document_is_refused(folders):
    change(folders[0], lambda spec: spec["added_tokens"][0].update(content="<|other|>"))
    change(
        folders[0],
        lambda spec: spec["model"]["vocab"].update({"<|other|>": spec["model"]["vocab"].pop(END_OF_DOCUMENT)}),
    )
    with pytest.raises(ModelError, match=r"for 1 of 300 pieces: '<\|endoftext\|>' is None there and 0 here"):
        held_against(folders)


def test_ids_that_the_model_has_no_embedding_for_are_refused(folders):
    (folders[0] / "tokenizer.json").unlink()
    held_against(folders)
    (folders[0] / "config.json").write_text('{"text_config": {"vocab_size": 280}}')
    with pytest.raises(ModelError, match=r"knows the token ids 0 to 279 .*tokenizer bpe has pieces up to id 299"):
        held_against(folders)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (None, None),
        (put_first("<bos>"), BOS),
        (put_first("<bos>", last=("<eos>",)), BOS),
        (put_first(last=("<eos>",)), None),
    ],
    ids=["nothing", "one in front", "one on each side", "one behind"],
)
def test_what_stands_in_front_is_seen_by_encoding(folders, changed, expected):
    if changed is not None:
        change(folders[0], changed)
    assert first_token(folders[0], "model there") == expected


def test_two_tokens_in_front_are_refused(folders):
    change(folders[0], put_first("<bos>", "<lang>"))
    with pytest.raises(
        ModelError, match=r"puts 2 tokens in front of a text \('<bos>' \(id 300\), '<lang>' \(id 301\)\)"
    ):
        first_token(folders[0], "model there")


def test_the_models_own_word_counts_and_a_disagreement_is_refused(folders):
    change(folders[0], put_first("<bos>"))
    with pytest.raises(
        ModelError, match=r"own tokenizer puts '<bos>' \(id 300\) .*, and tokenizer bpe nothing.*to none"
    ):
        begin_of_sequence(*folders, model="model there", tokenizer="bpe")
    change(folders[1], put_first("<bos>"))
    assert begin_of_sequence(*folders, model="model there", tokenizer="bpe") == BOS
    (folders[0] / "tokenizer.json").unlink()
    assert begin_of_sequence(*folders, model="model there", tokenizer="bpe") == BOS


# ---- in the pipeline


@pytest.fixture
def experiment(tmp_path):
    """A teacher and a tokenizer in folders, of which both put a token first."""
    (tmp_path / "corpus").mkdir()
    rows = [{"text": f"{sentence} {number}", "meta": {"source": "prose"}} for number in range(60) for sentence in TEXTS]
    (tmp_path / "corpus" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny_model("llama", tmp_path / "model", vocab_size=304, max_position_embeddings=65)
    for folder in ("model", "tokenizer"):
        change(make_tokenizer(tmp_path / folder), put_first("<bos>"))
    content = tiny_experiment(
        tmp_path / "corpus", tmp_path / "warehouse", references={}, selections={}, students={}, evaluation={}
    )
    content["tokenizers"] = {"bpe": {"source": "folder", "path": str(tmp_path / "tokenizer")}}
    content["teachers"]["large"]["model"] = {"source": "folder", "path": str(tmp_path / "model")}
    return content


def materialise(tmp_path, content, select='+key:"large/teacher_scores"'):
    pipeline = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(build_assets(pipeline), instance=instance, selection=select)
    [scores] = [pl.read_parquet(path) for path in pipeline.store.root.glob("large/teacher_scores/*/scores.parquet")]
    [sequences] = [pl.read_parquet(path) for path in pipeline.store.root.glob("bpe/sequences/*/sequences.parquet")]
    return scores.join(sequences, on="sequence_id", validate="1:1")


def expected_scores(folder, sequences, first):
    """Log-probabilities in float64 behind a token: of all but the first one and what follows the end of a document."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double()
    sums = []
    for token_ids in sequences:
        read = [*first, *token_ids]
        with torch.no_grad():
            logprobs = model(torch.tensor([read])).logits[0].log_softmax(-1)
        places = range(len(first), len(read) - 1)
        sums.append(sum(float(logprobs[place, read[place + 1]]) for place in places if read[place] != 0))
    return np.array(sums)


@pytest.mark.parametrize(("setting", "first"), [("model", [300]), ("none", [])])
def test_a_model_that_learnt_behind_a_token_is_scored_behind_it(tmp_path, experiment, setting, first):
    experiment["teachers"]["large"]["scoring"]["begin_of_sequence"] = setting
    found = materialise(tmp_path, experiment)
    expected = expected_scores(tmp_path / "model", found["token_ids"].to_list(), first)
    num_scored = [sum(token_id != 0 for token_id in token_ids[:-1]) for token_ids in found["token_ids"].to_list()]
    assert found["num_scored_tokens"].to_list() == num_scored  # the same tokens with and without
    assert np.all(np.abs(found["logprob_nats"].to_numpy() - expected) <= NATS_PER_TOKEN * np.maximum(num_scored, 1))


def test_a_sequence_that_leaves_no_room_for_the_token_is_refused(tmp_path, experiment):
    experiment["sequences"]["sequence_length"] = 65
    with pytest.raises(dg.Failure, match="a token in front of each; set sequence_length to 64 or less"):
        materialise(tmp_path, experiment)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (exchange, "has other ids than tokenizer bpe/tokenizer for 2 of 300 pieces"),
        (lambda spec: spec.update(post_processor=None), "own tokenizer puts nothing in front"),
    ],
)
def test_a_model_is_held_against_the_tokenizer_as_soon_as_it_is_copied(tmp_path, experiment, changed, message):
    change(tmp_path / "model", changed)
    for _ in range(2):  # also where the copy is stored
        with pytest.raises(dg.Failure, match=message) as failure:
            materialise(tmp_path, experiment, select='+key:"large/teacher_model"')
        assert str(tmp_path / "model") in failure.value.description


def test_a_model_is_held_against_a_tokenizer_that_is_trained_here_too(tmp_path, experiment):
    change(tmp_path / "model", exchange)
    experiment["tokenizers"]["bpe"] = {"source": "trained", "vocab_size": 300}
    with pytest.raises(dg.Failure, match="has other ids than tokenizer bpe/tokenizer"):
        materialise(tmp_path, experiment)
