"""What a step gives for a fixed input, as a digest: a change of it asks for another code version of that kind.

Where a digest here changes, results that are stored under the old code version are no longer what the code would make:
raise `code_version` of the kind (and of those whose bytes follow from it alone), then pin the new digest.

Ids begin with the fingerprint of their file's result, which `test_identity` pins; here only their place in it counts.
Floating-point sums differ in their last bits from processor to processor, so that they are pinned as numbers.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.identity import ROW_BITS
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import write_experiment

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

NOUNS = ("river", "teacher", "corpus", "token", "island", "naïve")
NOUNS += ("数据", "reference", "sentence", "🙂", "winter", "model")
VERBS = ("reads", "keeps", "drops", "scores", "finds", "follows", "joins", "measures")
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def write_corpus(folder):
    """Two files of two domains; a text that is there twice, an empty one, one that is not JSON."""
    generator = random.Random(5)
    folder.mkdir()
    for shard in ("a", "b"):
        rows = []
        for number in range(60):
            sentences = [
                f"The {generator.choice(NOUNS)} {generator.choice(VERBS)} {generator.randrange(1_000)} "
                f"{generator.choice(NOUNS)}s{generator.choice('.!?')}"
                for _ in range(generator.randrange(1, 12))
            ]
            domain = "prose" if number % 3 else "notes"
            rows.append({"text": " ".join(sentences) if number != 7 else "", "meta": {"source": domain}})
        rows.append({"text": "Once here, once there.", "meta": {"source": "prose"}})
        lines = [json.dumps(row, ensure_ascii=shard == "a") for row in rows]
        lines.insert(3, "not json")
        (folder / f"{shard}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_model(folder, *, num_layers, scale):
    """A model whose weights follow from a formula, not from a library's random numbers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE, num_hidden_layers=num_layers))
    with torch.no_grad():
        for number, (name, weights) in enumerate(model.named_parameters()):
            waves = np.sin(np.arange(weights.numel(), dtype=np.float64) * (0.7 + 0.013 * number) + number)
            base = 1.0 if "norm" in name else 0.0
            weights.copy_(torch.from_numpy(base + scale * waves).reshape(weights.shape).float())
    model.save_pretrained(folder)


def two_models(folder: Path) -> dict[str, Any]:
    """Write a corpus, a teacher and a reference; return an experiment that selects nothing by them."""
    write_corpus(folder / "corpus")
    write_model(folder / "large", num_layers=2, scale=0.3)
    write_model(folder / "small", num_layers=1, scale=0.2)
    scored = {
        name: {"tokenizer": "bpe", "model": {"source": "folder", "path": str(folder / name)}}
        for name in ("large", "small")
    }
    return {
        "warehouse": str(folder / "warehouse"),
        "seed": 11,
        "corpus": {
            "source": {"type": "jsonl", "path": str(folder / "corpus")},
            "fields": {"domain_field": "meta.source"},
            "splits": {"validation": 0.1, "reference": 0.3},
        },
        "sequences": {"sequence_length": 48},
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 300}},
        "teachers": {"large": scored["large"]},
        "references": {"small": scored["small"]},
    }


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    content = two_models(folder) | {
        "selections": {"half": {"teacher": "large", "reference": "small", "keep_fraction": 0.5}},
    }
    pipeline = open_pipeline(write_experiment(folder / "experiment.yaml", content))
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(build_assets(pipeline), instance=instance).success
    found = {}
    for path in (folder / "warehouse").glob("**/manifest.json"):
        manifest = json.loads(path.read_text())
        kind = next(part for part in manifest["key"].split("/") if part not in ("bpe", "large", "small", "half"))
        for file in sorted(manifest["files"], key=lambda file: file["name"]):
            if file["name"].endswith(".parquet"):
                shard = manifest["ingredients"]["shard"]
                found.setdefault(kind, {})[f"{shard or ''} {file['name']}".strip()] = path.parent / file["name"]
            elif file["name"] == "tokenizer.json":
                found[kind] = path.parent / file["name"]
    return found


def digest(rows):
    """Return the SHA-256 of the types and the values of a table, in its order, without what floating point rounds."""
    rows = rows.select(pl.exclude(pl.Float64, pl.Float32))
    places = {name for name in rows.columns if name.endswith("_id")}
    lines = [json.dumps({name: str(type_) for name, type_ in rows.schema.items()})]
    for row in rows.iter_rows(named=True):
        for name in places:
            row[name] &= 2**ROW_BITS - 1
        for span in row.get("spans") or []:
            span["document_id"] &= 2**ROW_BITS - 1
        lines.append(json.dumps(row, ensure_ascii=False))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def digests(tables):
    return {name: digest(pl.read_parquet(path)) for name, path in sorted(tables.items())}


def test_documents_and_rejected_rows(golden):
    assert digests(golden["documents"]) == {
        "a.jsonl documents.parquet": "4e03aab85f370dc2",
        "a.jsonl rejected.parquet": "7dcd28e6b0d2df47",
        "b.jsonl documents.parquet": "ff19bb480f0c688a",
        "b.jsonl rejected.parquet": "2654d0007e3d21c0",
    }


def test_the_tokenizer(golden):
    spec = json.loads(golden["tokenizer"].read_text(encoding="utf-8"))
    merges = hashlib.sha256(json.dumps([spec["model"]["vocab"], spec["model"]["merges"]]).encode()).hexdigest()
    assert merges[:16] == "360cc94de9a63cbb"


def test_sequences(golden):
    assert digests(golden["sequences"]) == {
        "a.jsonl rejected.parquet": "ba37740968f949a2",
        "a.jsonl sequences.parquet": "9aff7e39cd53ca37",
        "b.jsonl rejected.parquet": "ba37740968f949a2",
        "b.jsonl sequences.parquet": "9a1fdf16e2ebffc5",
    }


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("teacher_scores", [-211.642347, -245.668117, -289.877324, -227.918674]),
        ("reference_scores", [-207.819660, -243.199138, -290.910360, -224.730208]),
    ],
)
def test_scores(golden, kind, first):
    assert digests(golden[kind]) == {
        "a.jsonl scores.parquet": "c73d7ba4141b1364",
        "b.jsonl scores.parquet": "8bbbe9014812e84a",
    }
    scores = pl.read_parquet(golden[kind]["a.jsonl scores.parquet"])
    assert scores["logprob_nats"].head(4).to_list() == pytest.approx(first, rel=1e-5)


def test_the_cutoff_and_the_refined_corpus(golden):
    [cutoff] = golden["selection_cutoff"].values()
    row = pl.read_parquet(cutoff).row(0, named=True)
    assert row["cutoff_difference"] == pytest.approx(-0.0506674, abs=1e-5)
    assert digests(golden["selection_cutoff"]) == {"selection_cutoff.parquet": "c75d77848a061287"}
    # A rounding must not decide what is kept: the last kept and the first dropped candidate lie apart.
    ranks = pl.concat(pl.read_parquet(path) for path in golden["difference_scores"].values())["rank_difference"]
    gap = (ranks - row["cutoff_difference"]).abs().sort()
    assert gap[0] == 0 and gap[1] > 1e-4
    assert digests(golden["refined_corpus"]) == {
        "a.jsonl.parquet": "bad0939fccaff22c",
        "b.jsonl.parquet": "2b53c9539177dcbc",
    }
