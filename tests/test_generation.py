"""What a teacher writes: the tokens of transformers' own generate, or of a loop without a cache; seeded by sequence.

The oracles: `generate` a sequence at a time; a plain loop over whole forward passes that draws by numpy's own random
numbers; frequencies against the probabilities that the model states; and what is cut by hand.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from miniplm_assets.core.errors import ExperimentError, ModelError, ScoringError
from miniplm_assets.experiment import CrossEntropy, Decoding, MiniLlm, Sampling, SparseKd, VanillaKd, load_experiment
from miniplm_assets.experiment.objectives import TokenSelection
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.verify import verify_store
from miniplm_assets.lm.device_time import DeviceTime
from miniplm_assets.lm.generate_shard import ShardGeneration
from miniplm_assets.lm.generator import GeneratorSettings, TorchGenerator, block_of
from miniplm_assets.lm.next_token import TokenChoice
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training.batch import make_batch
from miniplm_assets.training.objectives import Objective, objective_of
from miniplm_assets.training.objectives.objective import MODEL_KINDS
from miniplm_assets.training.token_file import Row, write_token_file
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.pages import value_of
from tests.test_experiment import changed, load, minimal
from tests.test_pipeline import computed, materialise

pytestmark = pytest.mark.long

VOCAB_SIZE = 61
END = 0
LENGTH = 24
DRAWN = Sampling(do_sample=True, seed=7)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}


def model_of(model_type: str = "qwen2", **settings: Any) -> Any:
    more = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": END}
    if model_type == "qwen2":
        more["num_key_value_heads"] = 2
    config = AutoConfig.for_model(model_type, **{**more, "pad_token_id": END, **SHAPES[model_type], **settings})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def choice_of(**settings: Any) -> TokenChoice:
    everywhere = {"sampling": Sampling(), "end_of_document_id": END, "vocab_size": VOCAB_SIZE}
    return TokenChoice(**{**everywhere, "max_sequence_tokens": LENGTH, **settings})


@pytest.fixture
def opened():
    """A function that opens a generator; all are closed at the end."""
    generators = []

    def open_one(model: Any, **settings: Any) -> TorchGenerator:
        decoding = Decoding(sequences_per_batch=settings.pop("sequences_per_batch", 4))
        own = {name: settings.pop(name) for name in ("sampling", "max_sequence_tokens") if name in settings}
        generators.append(TorchGenerator(model, decoding=decoding, choice=choice_of(**own), **settings))
        return generators[-1]

    yield open_one
    for generator in generators:
        generator.close()


def prompts_of(count: int, *, shortest: int = 3, longest: int = 12) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    prompts = [random.integers(1, VOCAB_SIZE, random.integers(shortest, longest + 1)) for _ in range(count)]
    prompts[1][1] = END  # packed documents: one ends inside of a prompt
    return [prompt.astype(np.int32) for prompt in prompts]


def generated_alone(model: Any, prompt: np.ndarray, **more: Any) -> list[int]:
    """Return what transformers itself writes, greedily, behind one prompt."""
    model.generation_config = GenerationConfig(pad_token_id=END, eos_token_id=END)
    read = torch.from_numpy(prompt.astype(np.int64)).unsqueeze(0)
    return model.generate(read, attention_mask=torch.ones_like(read), do_sample=False, **more)[0].tolist()


def drawn_alone(model: Any, prompt: np.ndarray, sequence_id: int, seed: int) -> list[int]:
    """Return what is drawn behind one prompt, by whole passes, float64 and numpy's own uniform numbers."""
    uniform = np.random.Generator(np.random.Philox(key=np.array([seed, sequence_id], dtype=np.uint64))).random(LENGTH)
    token_ids = prompt.tolist()
    while len(token_ids) < LENGTH and (len(token_ids) == len(prompt) or token_ids[-1] != END):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([token_ids])).logits[0, -1].double().numpy()
        cumulated = np.cumsum(np.exp(logits - logits.max()))
        token_ids.append(int(np.argmax(cumulated > uniform[len(token_ids)] * cumulated[-1])))
    return token_ids


# ---- the next token


@pytest.mark.parametrize("model_type", SHAPES)
def test_greedy_is_what_transformers_writes_a_sequence_at_a_time(opened, model_type):
    model, prompts = model_of(model_type), prompts_of(10)
    found = opened(model).continued(prompts, np.arange(10))
    assert [one.tolist() for one in found] == [generated_alone(model, one, max_length=LENGTH) for one in prompts]
    assert len({len(one) for one in prompts}) > 5  # so that one batch held prompts of several lengths


def test_what_a_models_own_generation_config_wishes_is_left_aside(opened):
    model, prompts = model_of(), prompts_of(3)
    expected = [generated_alone(model, one, max_length=LENGTH) for one in prompts]
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, eos_token_id=[5, 6, 7], max_new_tokens=2
    )
    assert [one.tolist() for one in opened(model).continued(prompts, np.arange(3))] == expected


def test_a_first_token_is_read_and_not_kept(opened):
    model, prompts = model_of(), prompts_of(6)
    found = opened(model, begin_of_sequence_id=1).continued(prompts, np.arange(6))
    for one, prompt in zip(found, prompts, strict=True):
        behind = generated_alone(model, np.concatenate([[1], prompt]), max_length=LENGTH + 1)
        assert one.tolist() == behind[1:]


def test_ids_that_the_tokenizer_does_not_have_are_never_written(opened):
    model, prompts = model_of(vocab_size=90), prompts_of(8)
    found = opened(model).continued(prompts, np.arange(8))
    assert max(one.max() for one in found) < VOCAB_SIZE
    assert max(max(generated_alone(model, one, max_length=LENGTH)) for one in prompts) >= VOCAB_SIZE


def test_what_is_drawn_belongs_to_the_seed_and_the_sequence(opened):
    model, prompts, ids = model_of(), prompts_of(14), np.arange(14) * 3 + 2**62
    found = opened(model, sampling=DRAWN).continued(prompts, ids)
    expected = [drawn_alone(model, one, int(name), 7) for one, name in zip(prompts, ids, strict=True)]
    assert [one.tolist() for one in found] == expected
    # Others in the batch, another order, another batch: the same. Another seed: another text.
    some = [13, 2, 7]
    alone = opened(model, sampling=DRAWN, sequences_per_batch=2).continued([prompts[one] for one in some], ids[some])
    assert [one.tolist() for one in alone] == [expected[one] for one in some]
    other = opened(model, sampling=Sampling(do_sample=True, seed=8)).continued(prompts, ids)
    assert sum(one.tolist() != before for one, before in zip(other, expected, strict=True)) > 10


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.6}, {"temperature": 2.0, "top_k": 20, "top_p": 0.7}],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_the_model_says(opened, sampling):
    model, count = model_of(), 6_000
    prompt = np.array([5, 9, 3], dtype=np.int32)
    settings = {**sampling, "do_sample": True, "seed": 1}
    generator = opened(model, sampling=Sampling(**settings), sequences_per_batch=500, max_sequence_tokens=4)
    found = np.array([one[3] for one in generator.continued([prompt] * count, np.arange(count))])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 9, 3]])).logits[0, -1].double().numpy()
    shares = np.exp(logits / sampling.get("temperature", 1.0))
    order = np.argsort(-shares)
    shares[order[sampling.get("top_k", VOCAB_SIZE) :]] = 0
    shares /= shares.sum()
    before = np.cumsum(shares[order]) - shares[order]  # of the likelier ones
    shares[order[before >= sampling.get("top_p", 2.0)]] = 0
    shares /= shares.sum()
    frequencies = np.bincount(found, minlength=VOCAB_SIZE) / count
    assert (frequencies[shares == 0] == 0).all()
    assert np.abs(frequencies - shares).max() < 4 * np.sqrt(0.25 / count)


def test_a_prompt_stays_as_it_is_and_the_end_of_a_document_ends_it(opened):
    prompts = prompts_of(200)
    prompts[7][-1] = END
    found = opened(model_of(), sampling=DRAWN).continued(prompts, np.arange(200))
    for one, prompt in zip(found, prompts, strict=True):
        assert one[: len(prompt)].tolist() == prompt.tolist()
        written = one[len(prompt) :].tolist()
        assert END not in written[:-1]
        assert len(one) == LENGTH or END in (one[-1], prompt[-1])
    assert found[7].tolist() == prompts[7].tolist()
    assert sum(len(one) < LENGTH for one in found) > 20  # many have ended, many have not
    assert sum(len(one) == LENGTH for one in found) > 20


def test_a_model_that_is_broken_is_refused_by_the_name_of_a_sequence(opened):
    model = model_of()
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = torch.nan
    prompts = [np.array([5, 6, 7], dtype=np.int32), np.array([5, 9, 7], dtype=np.int32)]
    with pytest.raises(ScoringError, match=r"^sequence 103: what the teacher says .* is not finite"):
        opened(model).continued(prompts, np.array([102, 103]))
    with pytest.raises(ScoringError, match=r"sequence 4 .* 61"):
        opened(model_of()).continued([np.array([VOCAB_SIZE], dtype=np.int32)], np.array([4]))


def test_an_accelerator_has_one_batch_at_a_time_and_says_where_its_memory_is_too_small(opened, monkeypatch):
    model, prompts = model_of(), prompts_of(10)
    expected = [one.tolist() for one in opened(model).continued(prompts, np.arange(10))]
    generator = opened(model)
    generator._threads.shutdown()
    generator._threads = None  # as where the device is none of a CPU's
    generate, beside = model.generate, []

    def watched(*arguments: Any, **settings: Any) -> Any:
        beside.append(generator._lock.locked())
        return generate(*arguments, **settings)

    monkeypatch.setattr(model, "generate", watched)
    assert [one.tolist() for one in generator.continued(prompts, np.arange(10))] == expected
    assert beside == [True] * 3

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(ScoringError, match=r"ran out of memory while 4 sequences of up to 24 tokens .* set .* lower"):
        generator.continued(prompts, np.arange(10))
    generator.close()
    with pytest.raises(ScoringError, match="the generation was stopped"):
        generator.continued(prompts, np.arange(10))


def test_a_model_with_too_few_positions_is_refused_before_it_writes(tmp_path):
    model_of("gpt2", n_positions=20).save_pretrained(tmp_path)
    with (
        pytest.raises(ModelError, match=r"large/teacher_model: .* at most 20 tokens, .* set sequence_length to 20"),
        settings_of(tmp_path, device="cpu").open_generator(print),
    ):
        raise AssertionError("it was opened")


def settings_of(folder: Path, *, begin_of_sequence_id: int | None = None, **decoding: Any) -> GeneratorSettings:
    return GeneratorSettings(
        model_folder=folder,
        named="large/teacher_model",
        decoding=Decoding(**decoding),
        end_of_document_id=END,
        begin_of_sequence_id=begin_of_sequence_id,
        vocab_size=VOCAB_SIZE,
        max_sequence_tokens=LENGTH,
    )


# ---- with vLLM


@pytest.mark.vllm
def test_vllm_writes_what_torch_writes(tmp_path):
    # Three ids that no tokenizer has; and no position for a sequence's last token, which nobody reads.
    model = model_of(vocab_size=VOCAB_SIZE + 3, max_position_embeddings=LENGTH, hidden_size=64, intermediate_size=96)
    model.save_pretrained(tmp_path)
    prompts, ids = prompts_of(40), np.arange(40) + 3
    how: dict[str, Any] = {"sampling": DRAWN, "begin_of_sequence_id": 2}
    lines: list[str] = []
    with (
        settings_of(tmp_path, backend="vllm", **how).open_generator(lines.append) as generator,
        ThreadPoolExecutor(2) as threads,
    ):
        parts = [slice(0, 20), slice(20, 40)]  # that share the engine
        done = list(threads.map(lambda part: generator.continued(prompts[part], ids[part]), parts))
    assert lines[0].startswith("starting vLLM")
    written = [one.tolist() for part in done for one in part]
    with settings_of(tmp_path, sequences_per_batch=1, **how).open_generator(print) as generator:
        assert written == [one.tolist() for one in generator.continued(prompts, ids)]
    assert {len(one) == LENGTH for one in written} == {True, False}  # to the full length, and to the document's end


def in_vllm(sampling: Sampling, rows: dict[int, tuple[int, list[int], list[int]]]) -> Any:
    """Return what chooses in vLLM, told of sequences by their row: id, prompt behind a first token, written so far."""
    pytest.importorskip("vllm")
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

    from miniplm_assets.lm.vllm_choice import ChosenTokens

    task = {"choice": json.loads(json.dumps(choice_of(sampling=sampling).as_json())), "num_first_tokens": 1}
    config = SimpleNamespace(additional_config={"miniplm": task})
    chosen = ChosenTokens(config, torch.device("cpu"), False)
    added = [
        (row, SamplingParams(extra_args={"sequence_id": sequence_id}), prompt, written)
        for row, (sequence_id, prompt, written) in rows.items()
    ]
    chosen.update_state(BatchUpdate(batch_size=len(rows), removed=[], added=added, moved=[]))
    return chosen


def test_in_vllm_no_id_is_chosen_that_no_tokenizer_has():
    chosen = in_vllm(Sampling(), {0: (7, [2, 5], []), 1: (8, [2, 5], [])})
    logits = torch.randn((2, VOCAB_SIZE + 3), generator=torch.Generator().manual_seed(1))
    logits[:, VOCAB_SIZE:] = 9.0
    likeliest = logits[:, :VOCAB_SIZE].argmax(1)
    assert chosen.apply(logits).argmax(1).tolist() == likeliest.tolist()
    assert not chosen.is_argmax_invariant()


def test_in_vllm_a_token_is_drawn_at_its_place_whatever_the_row():
    written: list[int] = []
    chosen = in_vllm(DRAWN, {2: (7, [2, 5, 6], written), 0: (8, [2, 5], [])})
    probabilities = torch.rand((3, VOCAB_SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers = np.random.Generator(np.random.Philox(key=np.array([7, 7], dtype=np.uint64))).random(LENGTH)
    for place in (2, 3, 4):  # behind the two tokens of its own
        cumulated = probabilities[2].cumsum(0)
        expected = int(np.argmax((cumulated > numbers[place] * cumulated[-1]).numpy()))
        written.append(int(chosen.apply(probabilities.log().float())[2].argmax()))
        assert written[-1] == expected


def test_in_vllm_a_broken_teacher_is_named():
    chosen = in_vllm(Sampling(), {0: (7, [2, 5], []), 1: (8, [2, 5], [])})
    logits = torch.zeros((3, VOCAB_SIZE))
    logits[2] = torch.nan  # a row of nobody
    chosen.apply(logits.clone())
    logits[1, 3] = torch.nan
    with pytest.raises(ValueError, match="sequence 8: what the teacher says of its next token is not finite"):
        chosen.apply(logits)


# ---- by corpus file, in parts


class Killed(BaseException):
    """What stands for a kill in the middle."""


@pytest.fixture
def continued(opened, tmp_path):
    """A function that continues one file of 90 sequences, and returns its path and its facts."""
    random = np.random.default_rng(2)
    rows = [random.integers(0, VOCAB_SIZE, random.integers(4, LENGTH + 1)).tolist() for _ in range(90)]
    rows[3] = [5, 6, END]  # shorter than a prompt, and at an end
    rows[4] = [5, 6, 7]
    table = {"sequence_id": range(500, 590), "domain": ["code", "prose", "prose"] * 30}
    sequences = pl.DataFrame({**table, "token_ids": pl.Series(rows, dtype=pl.List(pl.Int32))})
    sequences.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "sequences.parquet")
    model, said = model_of(), []

    def continue_all(name: str, *, sequences_per_part: int = 1, num_parts: int | None = None, **settings: Any) -> Any:
        generator = opened(model, **settings)
        (tmp_path / name).mkdir(exist_ok=True)
        target = tmp_path / name / "generated.parquet"
        shard = ShardGeneration(
            pl.scan_parquet(tmp_path / "sequences.parquet"),
            shard="a.jsonl",
            prompt_tokens=12,
            generator=generator,
            decode=lambda token_ids: " ".join(map(str, token_ids)),
            end_of_document_id=END,
            device_time=DeviceTime(1),
            sequences_per_part=sequences_per_part,
            sequences_per_block=block_of(Decoding(sequences_per_batch=4)),
            work=tmp_path / name,
            target=target,
            report=said.append,
        )
        for number, part in enumerate(shard.works()):
            if number == num_parts:
                raise Killed
            shard.add(part())
        return SimpleNamespace(path=target, facts=shard.close(), sequences=sequences, said=said)

    return continue_all


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
def test_neither_parts_nor_threads_nor_a_kill_change_a_byte(continued, tmp_path, sampling):
    expected = continued("whole", sequences_per_part=1_000, sampling=sampling).path.read_bytes()
    assert continued("parts", sampling=sampling).path.read_bytes() == expected
    assert len(list((tmp_path / "parts").glob("part-*"))) == 3  # of whole blocks, 32 each, though 1 was asked for
    num_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads + 2)
    try:
        assert continued("threads", sampling=sampling).path.read_bytes() == expected
    finally:
        torch.set_num_threads(num_threads)
    with pytest.raises(Killed):
        continued("killed", num_parts=2, sampling=sampling)
    first, second = sorted((tmp_path / "killed").glob("part-*"))
    first_written = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:-9])
    found = continued("killed", sampling=sampling)
    assert found.path.read_bytes() == expected
    assert first.stat().st_mtime_ns == first_written
    assert any("part-00001.parquet is damaged and is made again" in line for line in found.said)


def test_the_table_says_what_is_a_prompt_and_what_was_written(continued):
    found = continued("one", sampling=DRAWN)
    rows = pl.read_parquet(found.path)
    assert rows["sequence_id"].to_list() == list(range(500, 590))
    joined = rows.join(found.sequences, on="sequence_id", validate="1:1", suffix="_before")
    for row in joined.iter_rows(named=True):
        length, token_ids, before = row["num_prompt_tokens"], row["token_ids"], row["token_ids_before"]
        assert length == min(12, len(before))
        assert token_ids[:length] == before[:length]
        assert (row["num_tokens"], row["shard"], row["domain"]) == (len(token_ids), "a.jsonl", row["domain_before"])
        assert row["continuation"] == " ".join(map(str, token_ids[length:]))
        assert row["is_ended"] == (len(token_ids) > length and token_ids[-1] == END)
        assert len(token_ids) == LENGTH or row["is_ended"] or before[length - 1] == END
    assert rows["token_ids"][3].to_list() == [5, 6, END]
    assert rows["token_ids"][4].to_list()[:3] == [5, 6, 7]
    assert len(rows["token_ids"][4]) > 3
    lengths = [len(token_ids) for token_ids in found.sequences["token_ids"]]
    written = rows["num_tokens"].sum() - sum(min(12, length) for length in lengths)
    assert found.facts == {
        "num_sequences": 90,
        "num_tokens": rows["num_tokens"].sum(),
        "num_prompt_tokens": sum(min(12, length) for length in lengths),
        "num_generated_tokens": written,
        "num_short": sum(length < 12 for length in lengths),
        "num_kept_as_they_are": sum(one[min(12, len(one)) - 1] == END for one in found.sequences["token_ids"]),
        "num_ended": rows["is_ended"].sum(),
    }
    assert found.facts["num_ended"] > 5


# ---- what a student learns from


def test_a_prompt_without_a_loss_is_read_and_not_predicted():
    rule = TokenRule(end_of_document_id=END, score_after_end_of_document=False)
    rows = [Row(0, np.array([7, 8, END, 9, 5]), 2), Row(1, np.array([4, 6, 3]), 1), Row(2, np.array([4, 6, 3]), 3)]
    batch = make_batch(rows, rule=rule, mean_over="tokens", objective=Objective())
    # Of the first its END and what comes behind 9, of the second all but its first, of the third nothing.
    assert batch["targets"].tolist() == [END, 5, 6, 3]
    assert batch["positions"].tolist() == [1, 3, 4, 5]
    assert batch["input_ids"].tolist() == [[7, 8, END, 9], [4, 6, END, END], [4, 6, END, END]]


def test_sequences_that_are_nothing_but_a_prompt_teach_nothing(tmp_path):
    rows = [([5, 6, 7], 2), ([5, 6], 2), ([8, 9, 4, 3], 1), ([4], 1)]
    token_ids = pl.Series([ids for ids, _ in rows], dtype=pl.List(pl.Int32))
    lengths = pl.Series([length for _, length in rows], dtype=pl.Int32)
    file = tmp_path / "rows.parquet"
    table = {"sequence_id": range(4), "num_tokens": token_ids.list.len(), "token_ids": token_ids}
    pl.DataFrame({**table, "num_prompt_tokens": lengths}).write_parquet(file)

    def written(**settings: Any) -> list[tuple[int, list[int], int]]:
        tokens = write_token_file(
            tmp_path / "tokens",
            sequence_files=[file],
            split=None,
            vocab_size=VOCAB_SIZE,
            data_fingerprint="f",
            report=pytest.fail,
            **settings,
        )
        rows = map(tokens.row, range(tokens.num_sequences))
        return [(row.sequence_id, row.token_ids.tolist(), row.num_without_loss) for row in rows]

    assert written(prompts_have_loss=False) == [(0, [5, 6, 7], 2), (2, [8, 9, 4, 3], 1)]
    assert written(prompts_have_loss=False) == [(0, [5, 6, 7], 2), (2, [8, 9, 4, 3], 1)]
    # The same folder, asked for in the other way, is written anew.
    assert written() == [(0, [5, 6, 7], 1), (1, [5, 6], 1), (2, [8, 9, 4, 3], 1)]


# ---- what the file may say


def with_generation(**settings: Any) -> dict[str, Any]:
    content = minimal()
    content["generations"] = {"continued": {"teacher": "large", **settings}}
    content["students"]["seqkd"] = {**content["students"]["plain"], "corpus": "generated_corpus/continued"}
    return content


def test_three_quarters_of_a_sequence_are_a_prompt_and_greedy_is_the_default(tmp_path):
    content = with_generation()
    for sequence_length, num_prompt_tokens in ((1_024, 768), (64, 48), (9, 6)):
        content["sequences"] = {"sequence_length": sequence_length}
        path = tmp_path / "experiment.yaml"
        path.write_text(json.dumps(content))
        settings = open_pipeline(path).graph["continued/generated_corpus"].settings
        assert (settings.prompt_tokens, settings.max_sequence_tokens) == (num_prompt_tokens, sequence_length + 1)
        assert settings.decoding.sampling == Sampling()
    assert load(tmp_path, content).generations["continued"].prompt_has_loss


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "lagre"}, r"generations\.continued\.teacher 'lagre' is not in this file; did you mean 'large'\?"),
        ({"corpus": "candidate"}, r"generations\.continued\.corpus: 'candidate' is neither 'candidates' nor .* 'cand"),
        ({"corpus": "refined_corpus/hlaf"}, r"continued\.corpus: selection 'hlaf' is not .*; did you mean 'half'\?"),
        ({"corpus": "generated_corpus/continued"}, r"is neither 'candidates' nor 'refined_corpus/<selection>'"),
        ({"prompt_tokens": 1_025}, r"prompt_tokens: 1,025 leaves .* nothing .* set 1,024 or less, .* out for 768"),
        ({"prompt_tokens": 0}, r"generations\.continued\.prompt_tokens: .*greater than or equal to 1"),
        ({"promt_tokens": 9}, r"unknown key; did you mean 'prompt_tokens'\?"),
        ({"tensor_parallel_size": 2}, r"generations\.continued: tensor_parallel_size 2 needs backend vllm"),
        ({"num_workers": 2}, r"generations\.continued: num_workers needs engine ray"),
        ({"sampling": {"temperature": 0.7}}, r"sampling: temperature: without do_sample .* set do_sample: true"),
        ({"sampling": {"do_sample": True, "top_p": 1.5}}, r"sampling\.top_p: .*less than or equal to 1"),
    ],
)
def test_what_cannot_be_generated_is_said_at_its_key(tmp_path, settings, message):
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, with_generation(**settings))


def test_a_student_of_a_generated_corpus_has_the_teachers_tokenizer_and_an_objective_of_its_text(tmp_path, monkeypatch):
    content = with_generation()
    content["students"]["seqkd"]["corpus"] = "generated_corpus/contineud"
    with pytest.raises(ExperimentError, match=r"seqkd\.corpus: generation 'contineud' .*did you mean 'continued'"):
        load(tmp_path, content)
    content = with_generation()
    content["students"]["seqkd"]["tokenizer"] = "other"
    with pytest.raises(
        ExperimentError, match=r"seqkd: tokenizer other differs from bpe, .* generated_corpus/continued"
    ):
        load(tmp_path, content)
    content = with_generation(corpus="refined_corpus/half")
    for who in ("teachers", "references"):  # the selection's; another teacher writes
        content[who]["second"] = {
            **content[who][{"teachers": "large", "references": "small"}[who]],
            "tokenizer": "other",
        }
    content["generations"]["continued"]["teacher"] = "second"
    with pytest.raises(ExperimentError, match=r"teacher second has tokenizer other, but refined_corpus/half is stored"):
        load(tmp_path, content)


@pytest.mark.parametrize("objective", [CrossEntropy, VanillaKd, MiniLlm, SparseKd, TokenSelection])
def test_what_is_stored_of_the_candidates_says_nothing_of_what_a_teacher_wrote(tmp_path, objective):
    named = {name: of for name, of in (("teacher", "large"), ("reference", "small")) if name in objective.model_fields}
    settings = objective(type=objective.model_fields["type"].annotation.__args__[0], **named)
    inputs = objective_of(settings).inputs(settings).values()
    reads_scores = any(kind not in MODEL_KINDS for kind, _ in inputs)
    content = with_generation()
    content["students"]["seqkd"]["objective"] = settings.model_dump()
    content["teachers"]["large"]["scoring"] = {"keep_tokens": {}, "keep_token_logprobs": True}
    content["references"]["small"]["scoring"] = {"keep_token_logprobs": True}
    if not reads_scores:
        load(tmp_path, content)
        return
    with pytest.raises(ExperimentError, match=r"students\.seqkd\.objective: .* reads what is stored .* are others"):
        load(tmp_path, content)


def test_a_wrong_generation_leaves_the_rest_to_be_checked(tmp_path):
    content = changed("students.plain.architecture", "tyni")
    content["generations"] = {"continued": {"teacher": "large", "prompt_tokens": -1}}
    content["students"]["seqkd"] = {**minimal()["students"]["plain"], "corpus": "generated_corpus/continued"}
    with pytest.raises(ExperimentError, match=r"(?s)'tyni'.*prompt_tokens|prompt_tokens.*'tyni'") as caught:
        load(tmp_path, content)
    assert "generation 'continued'" not in str(caught.value)


# ---- the whole


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two students of generated corpora, materialised."""
    folder = tmp_path_factory.mktemp("seqkd")
    write_shard(folder / "corpus" / "a.jsonl", MODULES[1:2])
    write_shard(folder / "corpus" / "b.jsonl", MODULES[2:3])
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    student = content["students"].pop("miniplm")
    how = {"teacher": "large", "sequences_per_batch": 16, "sequences_per_part": 128, "device": "cpu"}
    content["generations"] = {
        "continued": how,
        "drawn": {**how, "corpus": "refined_corpus/half", "prompt_tokens": 20, "sampling": {"do_sample": True}},
    }
    content["generations"]["drawn"]["prompt_has_loss"] = False
    for name in content["generations"]:
        content["students"][f"seqkd_{name}"] = {**student, "corpus": f"generated_corpus/{name}"}
    path = write_experiment(folder / "experiment.yaml", content)
    return SimpleNamespace(path=path, content=content, root=folder / "warehouse", run=materialise(path))


def test_a_student_learns_from_what_its_teacher_wrote(tiny):
    pipeline, materialisations, checks = tiny.run
    assert materialisations.keys() == pipeline.graph.keys()
    assert [check.check_name for check in checks if not check.passed] == []
    sequences = pl.read_parquet(f"{tiny.root}/bpe/sequences/*/sequences.parquet")
    candidates = sequences.filter(pl.col("split") == "candidate").select("sequence_id", "domain", "shard", "token_ids")
    kept = pl.read_parquet(f"{tiny.root}/half/refined_corpus/*/*.parquet").select("sequence_id")
    read = {"continued": candidates, "drawn": candidates.join(kept, on="sequence_id", how="semi")}
    for name, prompt_tokens in (("continued", 48), ("drawn", 20)):
        rows = pl.read_parquet(f"{tiny.root}/{name}/generated_corpus/*/generated_corpus.parquet")
        joined = rows.join(read[name], on="sequence_id", how="full", validate="1:1", suffix="_before")
        assert joined.null_count().sum_horizontal().item() == 0
        assert (joined["shard"] == joined["shard_before"]).all() and (joined["domain"] == joined["domain_before"]).all()
        assert (
            joined["num_prompt_tokens"] == joined["token_ids_before"].list.len().clip(upper_bound=prompt_tokens)
        ).all()
        prompts = [pl.col(column).list.head("num_prompt_tokens") for column in ("token_ids", "token_ids_before")]
        assert joined.select((prompts[0] == prompts[1]).all()).item()
        assert rows["num_tokens"].max() == 65
        assert value_of(materialisations[f"seqkd_{name}/student_checkpoint"], "num_tokens") >= 6_000
    # Other text was written, and learnt from: of an untrained student, another loss.
    before, after = (joined[column].list.tail(20) for column in ("token_ids_before", "token_ids"))
    assert (before != after).mean() > 0.9
    assert (
        "seqkd_drawn (trained on generated_corpus/drawn) ended"
        in materialisations["comparison"].metadata["verdict"].value
    )
    with duckdb.connect(str(tiny.root / "warehouse.duckdb"), read_only=True) as catalog:
        counts = dict(catalog.sql("select generation, count(*) from generated_corpus group by all").fetchall())
    assert counts == {name: len(rows) for name, rows in read.items()}
    assert list(verify_store(pipeline.store, print)) == []


def test_a_loss_for_prompts_or_smaller_parts_write_nothing_again(tiny):
    content = json.loads(json.dumps(tiny.content))
    content["generations"]["drawn"] |= {"prompt_has_loss": True, "sequences_per_part": 5}
    content["generations"]["continued"]["sequences_per_part"] = 1_000
    path = write_experiment(tiny.path.with_name("again.yaml"), content)
    _, materialisations, _ = materialise(path)
    reports = {
        "student_differences",
        "comparison",
        "ledger",
        "break_even",
        "scaling_laws",
        "report",
        "warehouse_catalog",
    }
    assert computed(materialisations) == {"seqkd_drawn/student_checkpoint", "seqkd_drawn/student_evaluation"} | reports


def test_a_plan_counts_every_token_once_at_two_flops_a_parameter(tiny):
    content = json.loads(json.dumps(tiny.content))
    for generation in content["generations"].values():
        generation["prompt_tokens"] = 30
    pipeline = open_pipeline(write_experiment(tiny.path.with_name("planned.yaml"), content))
    planned = {one.key: one for one in plan(pipeline)}
    num_parameters = value_of(tiny.run[1]["large/teacher_model"], "num_parameters")
    sequences = pl.read_parquet(f"{tiny.root}/bpe/sequences/*/sequences.parquet")
    num_tokens = sequences.filter(pl.col("split") == "candidate")["num_tokens"].sum()
    for name, expected in (("continued", num_tokens), ("drawn", round(num_tokens / 2))):
        one = planned[f"{name}/generated_corpus"]
        assert (one.num_missing, one.num_tokens) == (2, expected)
        assert one.flops == 2 * num_parameters * expected
        assert one.num_bytes > expected
    assert planned["seqkd_drawn/student_checkpoint"].num_missing == 1


def test_a_plan_refuses_a_teacher_with_too_few_positions(tmp_path):
    content = with_generation()
    content["teachers"]["large"]["model"]["path"] = str(tmp_path / "short")
    model_of(max_position_embeddings=100).save_pretrained(tmp_path / "short")
    content["corpus"]["source"]["path"] = str(tmp_path / "corpus")
    write_shard(tmp_path / "corpus" / "a.jsonl", MODULES[2:3])
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps({**content, "warehouse": str(tmp_path / "warehouse")}))
    problems = {one.key: one.problems for one in plan(open_pipeline(path)) if one.problems}
    [problem] = problems["continued/generated_corpus"]
    assert "at most 100 tokens" in problem and "set sequence_length to 100 or less" in problem


def test_a_file_without_generations_says_nothing_of_them(tmp_path):
    path = Path(tmp_path / "experiment.yaml")
    path.write_text(json.dumps(minimal()))
    assert load_experiment(path).generations == {}
    assert not [key for key in open_pipeline(path).graph if key.endswith("generated_corpus")]
