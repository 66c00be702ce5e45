"""Differences per byte: a teacher and a reference of different tokenizers are asked for the same bytes of a text."""

import math
from collections import Counter
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.errors import CorpusError, ExperimentError, ModelError
from miniplm_assets.corpus.retokenised import count_scored_bytes, require_every_byte, write_retokenised_sequences
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Scoring, load_experiment
from miniplm_assets.experiment.schema import Sequences
from miniplm_assets.kinds.origin_words import selection_words
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.plan import plan, require_possible
from miniplm_assets.lineage.verify import verify_derived, verify_store
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.lm.text_scores import TextScorer, windows_of
from tests.corpora import write_experiment
from tests.scoring_oracle import END_OF_DOCUMENT, scrambled_sequences, tiny_model
from tests.test_golden import SHAPE, two_models
from tests.test_passages import BYTES, FIRST, NAMES, SHARD, WORDS, byte_level, family, saved, write_documents

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
# A text that is spelt with a tokenizer's own signs comes back with others.
PLAIN_WORDS = [word for word in WORDS if word not in ("▁", "<0x41>")]


def bytes_of(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The bytes of a token, by the tables of transformers and of SentencePiece."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    piece = tokenizer.id_to_token(token_id)
    if "ByteLevel" in tokenizer.to_str():
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        return bytes(byte_of[character] for character in piece)
    return bytes([BYTES.index(piece)]) if piece in BYTES else piece.replace("▁", " ").encode()


def parts_of(token_ids: list[int], end_id: int) -> list[list[int]]:
    """The places of the tokens of each document."""
    places = groupby(range(len(token_ids)), key=lambda place: token_ids[place] == end_id)
    return [list(part) for is_end, part in places if not is_end]


def retokenise(folder: Path, texts: list[str], selecting: Path, reading: Path, **changes: Any) -> tuple[Any, Any, Any]:
    """Pack documents by one tokenizer; return the sequences, the same for another, and the facts of those."""
    write_documents(folder / "documents.parquet", texts, ["web"] * len(texts))
    (folder / "packed").mkdir()
    (folder / "made").mkdir()
    write_sequences(
        folder / "documents.parquet",
        shard=SHARD,
        tokenizer_folder=selecting,
        sequences=Sequences(sequence_length=changes.pop("sequence_length", 8)),
        shard_fingerprint=FIRST,
        folder=folder / "packed",
        report=lambda _: None,
    )
    facts = write_retokenised_sequences(
        folder / "packed" / "sequences.parquet",
        shard=SHARD,
        selecting=load_tokenizer(selecting),
        reading=load_tokenizer(reading),
        scores_after_end=changes.pop("scores_after_end", False),
        folder=folder / "made",
        report=lambda _: None,
    )
    packed, made = (pq.read_table(folder / name / "sequences.parquet").to_pylist() for name in ("packed", "made"))
    return packed, made, facts


@given(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.lists(
        st.lists(st.sampled_from(PLAIN_WORDS), min_size=1, max_size=25).map("".join).filter(lambda text: text.strip()),
        min_size=1,
        max_size=5,
    ),
    st.integers(8, 20),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
@example("byte_level", "llama", ["🎉再🎉北京。the Hund", "x" * 90, "🎉"], 8, False)
@example("llama", "byte_level", ["再🎉 the end.", "e\u0301" * 9, "👩\u200d👧" * 4], 8, False)
@example("metaspace", "unigram", ["再" * 20, " the the"], 9, True)
@example("unigram", "byte_level", ["the ", "नमस्ते"], 8, True)
def test_both_are_asked_for_the_same_bytes(
    selecting: str, reading: str, texts: list[str], sequence_length: int, scores_after_end: bool
) -> None:
    own, other = family(selecting, has_begin=False), family(reading, has_begin=True)
    ends = [one.tokenizer.token_to_id("</s>") for one in (own, other)]
    with TemporaryDirectory() as place:
        folder = Path(place)
        first, second = saved(own.tokenizer, folder / "first"), saved(other.tokenizer, folder / "second")
        packed, made, facts = retokenise(
            folder, texts, first, second, sequence_length=sequence_length, scores_after_end=scores_after_end
        )
        counted = count_scored_bytes(
            folder / "packed" / "sequences.parquet", load_tokenizer(first), scores_after_end=scores_after_end
        )
    plain = Tokenizer.from_str(other.tokenizer.to_str())
    plain.encode_special_tokens = True
    num_inexact = 0
    assert [row["sequence_id"] for row in made] == [row["sequence_id"] for row in packed]
    for before, after in zip(packed, made, strict=True):
        own_parts, parts = (parts_of(row["token_ids"], end) for row, end in zip((before, after), ends, strict=True))
        assert [before["token_ids"].count(ends[0]), len(own_parts)] == [after["token_ids"].count(ends[1]), len(parts)]
        assert (before["token_ids"][-1] == ends[0]) == (after["token_ids"][-1] == ends[1])
        context = set(after["context_places"])
        asked_for = []
        for number, (span, text, own_places, places) in enumerate(
            zip(before["spans"], before["texts"], own_parts, parts, strict=True)
        ):
            is_whole = scores_after_end and number > 0
            asked_places = own_places if is_whole else own_places[1:]
            asked = b"".join(bytes_of(own.tokenizer, before["token_ids"][one]) for one in asked_places)
            spelt = b"".join(bytes_of(own.tokenizer, before["token_ids"][one]) for one in own_places)
            is_exact = spelt in (text.encode(), b" " + text.encode())
            num_inexact += not is_exact
            read = [place for place in places if place in context]
            assert read == places[: len(read)] and bool(read) != is_whole
            found = b"".join(bytes_of(plain, after["token_ids"][one]) for one in places[len(read) :])
            if is_whole:  # each with the space of its own tokenizer
                # One that a cut within a character left spells less than its text (counted below).
                assert found in (text.encode(), b" " + text.encode())
                assert asked in (text.encode(), b" " + text.encode()) or not is_exact
                asked = text.encode()
            else:
                assert (found == asked or not is_exact) and text.encode().endswith(found)
                asked = found
                spelt = b"".join(bytes_of(plain, after["token_ids"][one]) for one in read)
                left = text.encode()[: len(text.encode()) - len(asked)]
                assert spelt in ({left, b" " + left} if span["char_start"] == 0 and left else {left or b" "})
            asked_for.append(asked)
            if reading == "byte_level" and asked.decode(errors="replace").encode() == asked:  # no character is cut
                encoded = plain.encode(asked.decode(), add_special_tokens=False).ids
                assert [after["token_ids"][one] for one in places[len(read) :]] == encoded
        assert after["num_scored_bytes"] == sum(map(len, asked_for))
        previous = before["token_ids"][:-1]
        assert after["num_scored_tokens"] == len(previous) - (0 if scores_after_end else previous.count(ends[0]))
    # The library tells of the bytes of a Unigram model where a character ends, and not where one is cut.
    assert num_inexact == 0 or selecting == "unigram"
    assert facts["num_changed_sequences"] <= num_inexact
    assert facts["num_tokens"] == sum(len(row["token_ids"]) for row in made) == facts["tokens_per_split"]["candidate"]
    expected = [(row["sequence_id"], row["num_scored_bytes"]) for row in made]
    assert list(zip(*counted.to_pydict().values(), strict=True)) == expected


def test_a_case_worked_by_hand(tmp_path: Path) -> None:
    """An emoji is four tokens of the one and of the other, and the first of them is not asked for."""
    one = saved(byte_level(add_prefix_space=False), tmp_path / "one")
    packed, made, facts = retokenise(tmp_path, ["🎉", "the end"], one, one, sequence_length=30)
    [row] = made
    assert row["token_ids"] == packed[0]["token_ids"]
    assert row["context_places"] == [0, 5]  # the first byte, and "the" or what of it is a token
    text = packed[0]["token_ids"][6:-1]
    library = Tokenizer.from_file(str(one / "tokenizer.json"))
    assert row["num_scored_bytes"] == 3 + len(library.decode(text)) == facts["num_scored_bytes"]


def test_tokens_of_another_tokenizer_and_an_end_within_a_text_are_refused(tmp_path: Path) -> None:
    one = saved(byte_level(add_prefix_space=False), tmp_path / "one")
    tokenizer = byte_level(add_prefix_space=False)
    end_id = tokenizer.token_to_id("q")
    other = load_tokenizer(saved(tokenizer, tmp_path / "other"))
    retokenise(tmp_path, ["the end q. The end.", "the qq"], one, one)
    other.end_of_document_id = end_id
    arguments = {"shard": SHARD, "scores_after_end": False, "folder": tmp_path / "made", "report": print}
    path, own = tmp_path / "packed" / "sequences.parquet", load_tokenizer(one)
    with pytest.raises(CorpusError, match=r"gives its end-of-document token .* within a text\. Name another"):
        write_retokenised_sequences(path, selecting=own, reading=other, **arguments)
    with pytest.raises(CorpusError, match=r"spans of text, and its tokens are of .*; materialise the sequences again"):
        write_retokenised_sequences(path, selecting=other, reading=own, **arguments)


def test_a_tokenizer_without_a_token_for_each_byte_is_refused(tmp_path: Path) -> None:
    import json

    folder = saved(family("metaspace", has_begin=False).tokenizer, tmp_path / "one")
    require_every_byte(load_tokenizer(folder), "one")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["byte_fallback"] = False
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ModelError, match=r"tokenizer one: .*no token for each single byte.*or has byte fallback|keep"):
        require_every_byte(load_tokenizer(folder), "one")


@given(st.integers(1, 200), st.integers(9, 40))
def test_each_token_is_asked_for_once_with_half_a_window_before_it(num_tokens: int, max_tokens: int) -> None:
    asked: Counter[int] = Counter()
    for start, first, stop in windows_of(num_tokens, max_tokens):
        assert 0 <= start < first <= stop <= num_tokens and stop - start <= max_tokens
        assert start == 0 or first - start == max_tokens // 2
        asked.update(range(first, stop))
    assert asked == Counter(range(1, num_tokens))


@pytest.mark.parametrize("begin", [None, 1])
@pytest.mark.parametrize("scores_after_end", [False, True])
def test_long_texts_are_summed_over_windows(tmp_path: Path, begin: int | None, scores_after_end: bool) -> None:
    """Against each window by itself, in float64; some of them hold context alone."""
    import torch

    model = tiny_model("qwen2", tmp_path / "model")
    generator = np.random.default_rng(1)
    rows = []
    for number, token_ids in enumerate(scrambled_sequences(1_000, longest=60, num=12)):
        behind_ends = [] if scores_after_end else (np.flatnonzero(token_ids[:-1] == END_OF_DOCUMENT) + 1).tolist()
        must = {0, *behind_ends}
        chosen = range(len(token_ids)) if number == 3 else np.flatnonzero(generator.random(len(token_ids)) < 0.3)
        places = sorted({*must, *map(int, chosen)})
        row = {"sequence_id": number, "token_ids": token_ids, "context_places": places, "num_scored_tokens": 7}
        rows.append(row)
    rule = TokenRule(end_of_document_id=END_OF_DOCUMENT, score_after_end_of_document=scores_after_end)
    scoring = Scoring(device="cpu", score_after_end_of_document=scores_after_end)
    with open_scorer(
        tmp_path / "model",
        scoring=scoring,
        end_of_document_id=END_OF_DOCUMENT,
        begin_of_sequence_id=begin,
        max_sequence_tokens=16,
        report=lambda _: None,
    ) as scorer:
        texts = TextScorer(scorer, rule=rule, max_tokens=16)
        scores = texts.score(pl.DataFrame(rows, schema_overrides={"token_ids": pl.List(pl.Int32)}))
        nothing = texts.score(pl.DataFrame(rows[3:4], schema_overrides={"token_ids": pl.List(pl.Int32)}))
    double = model.double()
    for row, found in zip(rows, scores.logprob_nats, strict=True):
        total, start, done = 0.0, 0, 1
        while done < len(row["token_ids"]):
            window = row["token_ids"][start : start + 16].tolist()
            first = [] if begin is None else [begin]
            with torch.no_grad():
                logprobs = torch.log_softmax(double(torch.tensor([first + window])).logits[0], dim=-1)
            for place in range(done, start + len(window)):
                if place not in row["context_places"]:
                    total += float(logprobs[len(first) + place - start - 1, row["token_ids"][place]])
            done = start + len(window)
            start = done - 8
        assert found == pytest.approx(total, abs=1e-3)
    assert scores.num_scored_tokens.tolist() == [7] * len(rows)
    assert nothing.logprob_nats.tolist() == [0.0]


# One experiment: two tokenizers, and the same one under two names.

SMALL = {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 420}
PER_BYTE = {"rank_by": "nats_per_byte", "keep_fraction": 0.5}
SELECTIONS = {
    "two": {"teacher": "large", "reference": "other", **PER_BYTE},
    "one": {"teacher": "large", "reference": "small", **PER_BYTE},
    "copied": {"teacher": "large", "reference": "copy", **PER_BYTE},
}
# That are not made here.
MORE = {
    "quarter": {**SELECTIONS["two"], "keep_fraction": 0.25},
    "sums": {**SELECTIONS["two"], "rank_by": "nats_per_sequence"},
    "hard": {"score": "reference", "reference": "other", "order": "lowest", **PER_BYTE},
    "chance": {"score": "random", "tokenizer": "bpe", "keep_fraction": 0.5},
    "after": {"teacher": "large", "reference": "other", "pre_filter": "chance", **PER_BYTE},
}


def write_other_model(folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(**{**SHAPE, **SMALL, "initializer_range": 0.3})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def content_of(folder: Path) -> dict[str, Any]:
    content = two_models(folder)
    write_other_model(folder / "other")
    saved(family("llama", has_begin=False).tokenizer, folder / "pieces")
    other = {"source": "folder", "path": str(folder / "other")}
    training = {"token_budget": 2_000, "sequences_per_step": 8, "num_evaluations": 1, "num_held_out_sequences": 8}
    student = {"architecture": "tiny", "tokenizer": "bpe", "training": training}
    content["tokenizers"] |= {
        "pieces": {"source": "folder", "path": str(folder / "pieces")},
        "again": dict(content["tokenizers"]["bpe"]),
    }
    content["references"] |= {
        "other": {"tokenizer": "pieces", "model": other, "scoring": {"sequences_per_part": 50}},
        "copy": {**content["references"]["small"], "tokenizer": "again"},
    }
    return content | {
        "architectures": {"tiny": {**SHAPE, "num_hidden_layers": 1, "vocab_size": 400}},
        "selections": SELECTIONS,
        "students": {
            "plain": student,
            "foreign": {**student, "tokenizer": "pieces", "corpus": "refined_corpus/two", "baseline": "plain"},
        },
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("per_byte")
    path = write_experiment(folder / "experiment.yaml", content_of(folder))
    before = {one.key: one for one in plan(open_pipeline(path))}
    pipeline = open_pipeline(path)
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(build_assets(pipeline), instance=instance, raise_on_error=True).success
    return folder, pipeline, before


def table(pipeline: Any, key: str, name: str = "*.parquet") -> pl.DataFrame:
    recipes = pipeline.latest_fingerprints().stored(key)
    files = [path for recipe in recipes for path in pipeline.store.require(recipe).matching(name)]
    return pl.concat(pl.read_parquet(path, glob=False) for path in files)


def model_of(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).double().eval()


def token_nats(model: Any, token_ids: list[int], max_tokens: int) -> list[float]:
    """log p of every token but the first, in float64; beyond a window, with half of one before what is left over."""
    import torch

    found: list[float] = []
    start = 0
    while len(found) < len(token_ids) - 1:
        window = token_ids[start : start + max_tokens]
        with torch.no_grad():
            logits = model(torch.tensor(window)[None]).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)
        nats = [float(logprobs[place, token]) for place, token in enumerate(window[1:])]
        found += nats[len(found) - start :]
        start = len(found) + 1 - max_tokens // 2
    return found


def nats_of_bytes(
    tokenizer: Tokenizer, end: str, model: Any, row: dict[str, Any], asked: set[int], texts: list[str]
) -> tuple[dict[tuple[int, int], float], list[float]]:
    """Share the nats of each token that is asked for among its bytes: by span and place in it; and those of ends."""
    end_id = tokenizer.token_to_id(end)
    nats = [math.nan, *token_nats(model, row["token_ids"], 49)]
    shares: dict[tuple[int, int], float] = {}
    for span, (places, text) in enumerate(zip(parts_of(row["token_ids"], end_id), texts, strict=True)):
        stop = len(text.encode())
        for place in reversed(places):  # what is put in front is at the other side
            if place not in asked:
                continue
            length = len(bytes_of(tokenizer, row["token_ids"][place]))
            for byte in range(stop - length, stop):
                assert (span, byte) not in shares
                shares[span, byte] = nats[place] / length
            stop -= length
    return shares, [nats[place] for place in asked if row["token_ids"][place] == end_id]


def brute_force(made: Any) -> dict[int, float]:
    """The difference per byte of every candidate of `two`, over its bytes."""
    folder, pipeline, _ = made
    [bpe] = pipeline.latest_fingerprints().stored("bpe/tokenizer")
    own = Tokenizer.from_file(str(pipeline.store.require(bpe).folder / "tokenizer.json"))
    other = Tokenizer.from_file(str(folder / "pieces" / "tokenizer.json"))
    teacher, reference = model_of(folder / "large"), model_of(folder / "other")
    packed = table(pipeline, "bpe/sequences", "sequences.parquet").filter(pl.col("split") == "candidate")
    read = table(pipeline, "other/bpe/retokenised_sequences")
    rows = packed.join(read, on="sequence_id", suffix="_read", validate="1:1")
    end_id = own.token_to_id("<|endoftext|>")
    found = {}
    for row in rows.iter_rows(named=True):
        tokens = row["token_ids"]
        asked = {place for place in range(1, len(tokens)) if tokens[place - 1] != end_id}
        by_teacher, ends = nats_of_bytes(own, "<|endoftext|>", teacher, row, asked, row["texts"])
        as_read = {"token_ids": row["token_ids_read"]}
        asked = set(range(len(as_read["token_ids"]))) - set(row["context_places"])
        by_reference, other_ends = nats_of_bytes(other, "</s>", reference, as_read, asked, row["texts"])
        assert by_teacher.keys() == by_reference.keys() and len(ends) == len(other_ends)
        difference = sum(by_teacher[byte] - by_reference[byte] for byte in by_teacher) + sum(ends) - sum(other_ends)
        found[row["sequence_id"]] = difference / len(by_teacher) if by_teacher else 0.0
    return found


@pytest.fixture(scope="module")
def by_hand(made):
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so small a model, threads wait for each other alone
    yield brute_force(made)
    torch.set_num_threads(num_threads)


def test_a_difference_per_byte_is_that_of_a_brute_force_over_the_bytes(made, by_hand):
    _, pipeline, _ = made
    read = table(pipeline, "other/bpe/retokenised_sequences")
    assert (read["num_tokens"] > 49).mean() > 0.5  # in windows
    ranked = dict(table(pipeline, "two/per_byte_scores").select("sequence_id", "rank_difference").iter_rows())
    assert ranked.keys() == by_hand.keys() and len(ranked) > 100
    assert list(ranked.values()) == pytest.approx([by_hand[key] for key in ranked], abs=1e-4)
    order = sorted(by_hand, key=lambda key: (-by_hand[key], key))
    kept = table(pipeline, "two/refined_corpus")["sequence_id"].to_list()
    assert sorted(kept) == sorted(order[: len(order) // 2])


def test_sums_are_of_the_same_bytes_too(made, by_hand):
    _, pipeline, _ = made
    num_bytes = dict(table(pipeline, "two/scored_bytes").iter_rows())
    sums = table(pipeline, "two/difference_scores")
    asked = sums.filter(pl.col("sequence_id").replace_strict(num_bytes) > 0)
    expected = [by_hand[key] * num_bytes[key] for key in asked["sequence_id"]]
    assert len(asked) > 0.9 * len(sums) and asked["difference_nats"].to_list() == pytest.approx(expected, abs=1e-2)
    per_token = sums["difference_nats"] / sums["num_scored_tokens"]
    assert sums["difference_nats_per_token"].to_list() == pytest.approx(per_token.to_list())


def test_on_one_tokenizer_it_is_the_ranking_of_nats_per_byte(made):
    _, pipeline, _ = made
    [recipe] = pipeline.latest_fingerprints().stored("bpe/tokenizer")
    own = Tokenizer.from_file(str(pipeline.store.require(recipe).folder / "tokenizer.json"))
    end_id = own.token_to_id("<|endoftext|>")
    packed = table(pipeline, "bpe/sequences", "sequences.parquet").filter(pl.col("split") == "candidate")
    scores = [table(pipeline, key).select("sequence_id", "logprob_nats") for key in SCORES_OF_ONE]
    rows = packed.join(scores[0], on="sequence_id").join(scores[1], on="sequence_id", suffix="_reference")
    ranks = {}
    for row in rows.iter_rows(named=True):
        firsts = [places[0] for places in parts_of(row["token_ids"], end_id)]
        not_asked = sum(len(bytes_of(own, row["token_ids"][place])) for place in firsts)
        num_bytes = sum(len(text.encode()) for text in row["texts"]) - not_asked
        difference = row["logprob_nats"] - row["logprob_nats_reference"]
        ranks[row["sequence_id"]] = difference / num_bytes if num_bytes else 0.0
    found = dict(table(pipeline, "one/per_byte_scores").select("sequence_id", "rank_difference").iter_rows())
    assert found == ranks
    order = sorted(ranks, key=lambda key: (-ranks[key], key))
    kept = table(pipeline, "one/refined_corpus")["sequence_id"].to_list()
    assert sorted(kept) == sorted(order[: len(order) // 2])


SCORES_OF_ONE = ("large/teacher_scores", "small/reference_scores")


def test_the_same_tokenizer_by_another_name_gives_the_same(made):
    """Where it parts a text as before, which it does not where it is parted within a word."""
    _, pipeline, _ = made
    packed = table(pipeline, "bpe/sequences", "sequences.parquet").select("sequence_id", "token_ids")
    both = packed.join(table(pipeline, "copy/bpe/retokenised_sequences"), on="sequence_id", suffix="_read")
    alike = both.filter(pl.col("token_ids") == pl.col("token_ids_read"))
    assert 0.5 * len(both) < len(alike)
    one, copied = (table(pipeline, f"{name}/per_byte_scores") for name in ("one", "copied"))
    joined = one.join(copied, on="sequence_id", suffix="_read").join(alike, on="sequence_id", how="semi")
    assert joined["rank_difference"].to_list() == pytest.approx(joined["rank_difference_read"].to_list(), abs=1e-6)
    assert joined["num_scored_tokens"].equals(joined["num_scored_tokens_read"])


def test_each_reads_what_it_needs_and_nothing_is_scored_twice(made):
    folder, pipeline, before = made
    content = yaml.safe_load((folder / "experiment.yaml").read_text())
    content["selections"] |= MORE
    graph = open_pipeline(write_experiment(folder / "more.yaml", content)).graph
    # Asked for in its own tokens by `hard` alone; `copy` by nobody.
    assert "other/reference_scores" in graph and "copy/reference_scores" not in graph
    for name in ("two", "quarter", "sums"):
        assert graph[f"{name}/difference_scores"].inputs["reference_scores"] == "other/bpe/retokenised_reference_scores"
    assert graph["after/surviving_reference_scores"].inputs["model_scores"] == "other/bpe/retokenised_reference_scores"
    assert graph["one/difference_scores"].inputs["reference_scores"] == "small/reference_scores"
    assert graph["hard/likelihood_scores"].inputs["model_scores"] == "other/reference_scores"
    assert "hard/scored_bytes" in graph and "sums/scored_bytes" not in graph
    planned, stored = before["other/bpe/retokenised_reference_scores"], pipeline.store
    recipe = pipeline.latest_fingerprints().recipe("other/bpe/retokenised_reference_scores")
    facts = stored.require(recipe).facts
    assert planned.num_missing == 2 and planned.flops and planned.num_tokens
    read = table(pipeline, "other/bpe/retokenised_sequences")
    assert facts["num_read_tokens"] > read["num_tokens"].sum()  # windows overlap
    assert facts["num_sequences"] == len(read)
    after = {one.key: one for one in plan(open_pipeline(made[0] / "experiment.yaml"))}
    assert all(one.is_complete for one in after.values())


def test_verify_and_the_catalog_know_them(made):
    _, pipeline, _ = made
    assert list(verify_store(pipeline.store, print)) == []
    lines: list[str] = []
    assert list(verify_derived(pipeline, lines.append)) == []
    assert sum("that its scores ask for" in line for line in lines) == len(SELECTIONS)
    with duckdb.connect(str(pipeline.store.root / "warehouse.duckdb"), read_only=True) as warehouse:
        units = dict(warehouse.execute("select selection, rank_by from selection_cutoff").fetchall())
        read = warehouse.execute("select distinct reference, tokenizer from retokenised_sequences order by all")
        assert read.fetchall() == [("copy", "bpe"), ("other", "bpe")]
        students = warehouse.execute("select student from comparison order by all").fetchall()
    assert units == dict.fromkeys(SELECTIONS, "nats_per_byte")
    assert students == [("foreign",), ("plain",)]
    assert "rank_by nats_per_byte" in selection_words(pipeline.graph.values())["two"]


def test_a_tokenizer_that_does_not_spell_every_byte_is_refused_before_anything_runs(tmp_path):
    import json

    content = content_of(tmp_path)
    spec = json.loads((tmp_path / "pieces" / "tokenizer.json").read_text())
    spec["model"]["byte_fallback"] = False
    (tmp_path / "pieces" / "tokenizer.json").write_text(json.dumps(spec))
    path = write_experiment(tmp_path / "experiment.yaml", content)
    with pytest.raises(ExperimentError, match=r"other/bpe/retokenised_sequences: tokenizer pieces/tokenizer: "):
        require_possible(plan(open_pipeline(path)))


PROXY = {"share": 0.1, "training": {"token_budget": 100}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rank_by": "nats_per_token"},
            r"selections\.two\.rank_by nats_per_token: teacher large uses tokenizer bpe, reference other uses pieces; "
            r".*only over the same tokens\. Write rank_by: nats_per_byte,",
        ),
        ({"proxy": PROXY}, r"selections\.two\.proxy: it predicts from the tokens of both, .* leave it out"),
        ({"agreement": {"dtype": "bfloat16"}}, r"selections\.two\.agreement: it holds .* the same tokenizer"),
        (
            {"rescoring": {"around": "one", "within_nats": 0.1, "dtype": "bfloat16"}},
            r"selections\.two\.rescoring: it puts .*leave it out",
        ),
        ({"scale_correction": "residual"}, r"selections\.two\.scale_correction residual: .*rank_by is nats_per_byte"),
        (
            {"reference": "small", "proxy": PROXY},
            r"selections\.two\.proxy: it predicts differences per token, .*write rank_by: nats_per_token",
        ),
        ({"reference": "small", "agreement": {"dtype": "bfloat16"}}, r"agreement: .*no rank_by nats_per_byte, order"),
        ({}, r"selections\.two: the pilot compares both models on the same tokens, .*; leave the pilot out"),
    ],
)
def test_what_needs_the_same_tokens_is_refused_with_the_place_and_the_remedy(tmp_path, changes, message):
    models = {
        "source": {"source": "folder", "path": "models"},
        "bpe": {"source": "trained", "vocab_size": 300},
    }
    content = {
        "warehouse": "results",
        "corpus": {"source": {"type": "jsonl", "path": "texts"}},
        "tokenizers": {"bpe": models["bpe"], "pieces": {"source": "folder", "path": "pieces"}},
        "teachers": {"large": {"tokenizer": "bpe", "model": models["source"]}},
        "references": {
            "small": {"tokenizer": "bpe", "model": models["source"]},
            "other": {"tokenizer": "pieces", "model": models["source"]},
        },
        "selections": {"two": {**SELECTIONS["two"], **changes}, "one": {**SELECTIONS["one"]}},
        **({} if changes else {"pilot": {"share": 0.1}}),
    }
    with pytest.raises(ExperimentError, match=message):
        load_experiment(write_experiment(tmp_path / "experiment.yaml", content))


def test_a_pilot_of_one_tokenizer_ranks_by_the_byte_too(tmp_path):
    content = content_of(tmp_path)
    content["selections"] = {"one": {**SELECTIONS["one"]}}
    content |= {"students": {}, "pilot": {"share": 0.9, "max_share_below_zero": 1.0}}
    pipeline = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    with dg.DagsterInstance.ephemeral() as instance:
        selection = 'key:raw_corpus or +key:"one/pilot"'
        assert dg.materialize(build_assets(pipeline), instance=instance, selection=selection).success
    assert table(pipeline, "one/pilot", "domains.parquet")["share_of_kept_tokens"].sum() == pytest.approx(1)
