"""A small corpus and experiment of real text: the modules of the running interpreter."""

import json
import sysconfig
from pathlib import Path
from typing import Any

import yaml

MODULES = (
    "argparse",
    "ast",
    "calendar",
    "configparser",
    "datetime",
    "difflib",
    "doctest",
    "fractions",
    "heapq",
    "inspect",
)


def write_shard(path: Path, modules: tuple[str, ...] = MODULES, *, document_characters: int = 1_500) -> Path:
    """Write the sources of some modules as a JSONL file, a document each some thousand characters."""
    library = Path(sysconfig.get_path("stdlib"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for module in modules:
            text = (library / f"{module}.py").read_text(encoding="utf-8")
            for start in range(0, len(text), document_characters):
                domain = "code" if start % (2 * document_characters) else "noise"
                piece = text[start : start + document_characters]
                piece = piece if domain == "code" else "".join(sorted(piece, key=hash_of(piece)))
                file.write(json.dumps({"text": piece, "meta": {"source": domain}}) + "\n")
    return path


def hash_of(seed: str) -> Any:
    """Return a sort key that shuffles the characters of a text, the same way every time."""
    import random

    generator = random.Random(seed)
    return lambda _: generator.random()


def tiny_experiment(corpus: Path, warehouse: Path, **changes: Any) -> dict[str, Any]:
    """Return an experiment that is materialised in seconds, with everything that the demo has."""
    shape = {
        "model_type": "qwen2",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    training = {
        "token_budget": 6_000,
        "sequences_per_step": 8,
        "peak_learning_rate": 5e-3,
        "num_evaluations": 3,
        "num_held_out_sequences": 16,
    }
    model = {"source": "trained", "architecture": "tiny", "training": training}
    student = {"architecture": "tiny", "tokenizer": "bpe", "training": training}
    return {
        "warehouse": str(warehouse),
        "seed": 3,
        "corpus": {
            "source": {"type": "jsonl", "path": str(corpus)},
            "fields": {"domain_field": "meta.source"},
            "splits": {"validation": 0.1, "reference": 0.2, "teacher": 0.2},
        },
        "sequences": {"sequence_length": 64},
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 300}},
        "architectures": {"tiny": shape, "larger": {**shape, "num_hidden_layers": 2}},
        "teachers": {
            "large": {
                "tokenizer": "bpe",
                "model": {**model, "architecture": "larger"},
                "scoring": {"sequences_per_part": 100},
            }
        },
        "references": {"small": {"tokenizer": "bpe", "model": model, "scoring": {"sequences_per_part": 100}}},
        "selections": {"half": {"teacher": "large", "reference": "small", "keep_fraction": 0.5}},
        "students": {"no_kd": student, "miniplm": {**student, "corpus": "refined_corpus/half", "baseline": "no_kd"}},
        "evaluation": {"excluded_domains": ["noise"]},
        **changes,
    }


def write_experiment(path: Path, content: dict[str, Any]) -> Path:
    """Write an experiment file."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
