"""How a warehouse of very many corpus files behaves when nothing is left to compute: time and memory of looking at it.

    python benchmarks/simulate_scale.py --shards 1_000 10_000             # minutes
    python benchmarks/simulate_scale.py --shards 10_000 100_000 --steps load look plan run prune

A tiny experiment is really made on one corpus file. What it stored is then put into a second warehouse as the results
of as many corpus files as asked for: each its own file of a document, its own folder and manifest, the tables hard
links to the one that was made. So every table of all files together, and every page that is made of them, is
nonsense; how long it takes to find out that all is there is not.

Steps, each in a process of its own, in turn:

    load    the experiment is opened
    look    the corpus is looked at, as the sensor does: nothing has changed
    plan    what a run would do: nothing
    run     every asset is asked for, and found stored
    catalog the catalog is made anew
    prune   what no experiment refers to is looked for: nothing
    verify  every stored byte is read again, and held against its manifest

A row for each: wall and CPU seconds, and the most memory that it took; at the end, how each grew.
"""

import argparse
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scale import QuietRun, texts
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.latest import link_latest
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.prune import leftovers, referenced, unreferenced_results
from miniplm_assets.lineage.snapshot import current_snapshot
from miniplm_assets.lineage.verify import verify_store
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.manifest import MANIFEST, Manifest
from miniplm_assets.storage.store import Result

RAW_CORPUS: Final = "raw_corpus"
CATALOG: Final = "warehouse_catalog"
NUM_DOCUMENTS: Final = 400
# Lies in a folder whose warehouse is put together.
WHOLE: Final = "whole"


def experiment_on(corpus: Path, warehouse: Path) -> dict[str, Any]:
    """Return an experiment of everything that a selection and two students take, as small as can be."""
    shape = {
        "model_type": "qwen2",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    training = {"token_budget": 2_000, "sequences_per_step": 8, "num_evaluations": 2, "num_held_out_sequences": 16}
    model = {"source": "trained", "architecture": "tiny", "training": training}
    student = {"architecture": "tiny", "tokenizer": "bpe", "training": training}
    return {
        "warehouse": str(warehouse),
        "corpus": {
            "source": {"type": "jsonl", "path": str(corpus)},
            "fields": {"domain_field": "domain"},
            "splits": {"validation": 0.1, "reference": 0.2, "teacher": 0.2},
        },
        "sequences": {"sequence_length": 64},
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 280}},
        "architectures": {"tiny": shape},
        "teachers": {"large": {"tokenizer": "bpe", "model": model}},
        "references": {"small": {"tokenizer": "bpe", "model": model}},
        "selections": {"half": {"teacher": "large", "reference": "small", "keep_fraction": 0.5}},
        "students": {"no_kd": student, "miniplm": {**student, "corpus": "refined_corpus/half", "baseline": "no_kd"}},
    }


def write_experiment(folder: Path) -> Path:
    """Write the experiment of a folder that holds its corpus and its warehouse."""
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment_on(folder / "corpus", folder / "warehouse")), encoding="utf-8")
    return path


def make_template(folder: Path) -> Pipeline:
    """Make every asset of the experiment on one corpus file."""
    (folder / "corpus").mkdir(parents=True)
    lines = [json.dumps({"text": text, "domain": "web"}) for text in texts(NUM_DOCUMENTS, seed=0)]
    (folder / "corpus" / "one.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pipeline = open_pipeline(write_experiment(folder))
    _make_all(pipeline)
    return pipeline


def _make_all(pipeline: Pipeline) -> None:
    for node in pipeline.graph.values():
        work = Work(pipeline, node, QuietRun(pipeline))
        link_latest(work, node.kind.make(work))


def put_many(folder: Path, num_shards: int, template: Pipeline) -> None:
    """Let a warehouse hold the results of so many corpus files, made of those of one."""
    (folder / "corpus").mkdir(parents=True)
    for place in range(num_shards):
        line = json.dumps({"text": f"document {place}", "domain": "web"})
        (folder / "corpus" / f"{place:06d}.jsonl").write_text(line + "\n", encoding="utf-8")
    pipeline = open_pipeline(write_experiment(folder))
    raw_corpus = pipeline.graph[RAW_CORPUS]
    raw_corpus.kind.make(Work(pipeline, raw_corpus, QuietRun(pipeline)))
    made, wanted = template.latest_fingerprints(), pipeline.latest_fingerprints()
    for key, node in pipeline.graph.items():
        if key == RAW_CORPUS:
            continue
        pieces = wanted.pieces(key) if node.kind.pieces else {}
        ones = {name: template.store.require(recipe) for name, recipe in made.pieces(key).items()} if pieces else {}
        listed = []
        for name, recipe in pieces.items():
            one = ones.get(name) or next(iter(ones.values()))
            put(pipeline, recipe, one, one.facts)
            listed.append({"piece": name, "fingerprint": recipe.fingerprint, "num_rows": 1, "num_bytes": 1})
        whole = template.store.require(made.recipe(key))
        put(pipeline, wanted.recipe(key), whole, whole.facts | ({"pieces": listed} if pieces else {}))
    (folder / WHOLE).touch()


# A file has 65,000 names at most in some file systems: from then on a copy of it is what is linked.
_copies: dict[Path, Path] = {}


def link(source: Path, target: Path) -> None:
    """Give a file another name."""
    try:
        os.link(_copies.get(source, source), target)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        shutil.copy(source, target)
        _copies[source] = target


def put(pipeline: Pipeline, recipe: Recipe, template: Result, facts: Mapping[str, Any]) -> None:
    """Store a result as that of another recipe, its files linked."""
    target = pipeline.store.root / recipe.key / recipe.fingerprint
    target.mkdir(parents=True)
    for file in template.manifest.files:
        (target / file.name).parent.mkdir(parents=True, exist_ok=True)
        link(template.folder / file.name, target / file.name)
    update = {"fingerprint": recipe.fingerprint, "ingredients": recipe.ingredients, "facts": dict(facts)}
    manifest: Manifest = template.manifest.model_copy(update=update).sealed()
    (target / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json")), encoding="utf-8")


def look(pipeline: Pipeline) -> None:
    """Look at the corpus as it is now."""
    snapshot, why_not = current_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store)
    assert snapshot is not None and why_not is None


def run_plan(pipeline: Pipeline) -> None:
    """Plan a run, which has nothing to do."""
    missing = [one.key for one in plan(pipeline) if not one.is_complete]
    assert not missing, missing


def run_catalog(pipeline: Pipeline) -> None:
    """Make the catalog anew."""
    fingerprints = pipeline.latest_fingerprints()
    pipeline.store.remove(pipeline.store.require(fingerprints.recipe(CATALOG)))
    node = pipeline.graph[CATALOG]
    node.kind.make(Work(pipeline, node, QuietRun(pipeline)))


def run_prune(pipeline: Pipeline) -> None:
    """Look for what nobody refers to: nothing."""
    wanted = referenced([pipeline])
    unwanted = [*unreferenced_results(pipeline.store, wanted, print), *leftovers(pipeline.store, wanted)]
    assert not unwanted, unwanted[:3]


def run_verify(pipeline: Pipeline) -> None:
    """Read every stored byte again."""
    problems = [problem for problem in verify_store(pipeline.store, print) if "catalog" not in problem]
    assert not problems, problems[:3]


STEPS: Final[Mapping[str, Callable[[Pipeline], None]]] = {
    "load": lambda _: None,
    "look": look,
    "plan": run_plan,
    "run": _make_all,
    "catalog": run_catalog,
    "prune": run_prune,
    "verify": run_verify,
}


def measure(step: str, experiment: Path) -> dict[str, float]:
    """Take one step in this process."""
    started = time.perf_counter()
    STEPS[step](open_pipeline(experiment))
    wall = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "GiB": _most_memory() / 2**30}


def _most_memory() -> int:
    """Return the most bytes that this process held; what the system counts for it begins with its parent's."""
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Put warehouses of each size together, and take every step on each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--folder", type=Path, help="for the warehouses, which stay; default: a temporary one")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.step, options.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        one = folder / "one"
        is_there = (one / "experiment.yaml").exists()
        template = open_pipeline(one / "experiment.yaml") if is_there else make_template(one)
        found: dict[str, dict[int, dict[str, float]]] = {}
        for num_shards in sorted(options.shards):
            many = folder / str(num_shards)
            if not (many / WHOLE).exists():
                shutil.rmtree(many, ignore_errors=True)
                put_many(many, num_shards, template)
            for step in options.steps:
                command = [sys.executable, __file__, "--step", step, "--folder", str(many / "experiment.yaml")]
                told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
                took = json.loads(told.splitlines()[-1])
                found.setdefault(step, {})[num_shards] = took
                print(
                    f"{num_shards:>9,} files  {step:8} {took['wall']:8.1f} s  {took['cpu']:8.1f} CPU s  "
                    f"{took['GiB']:6.2f} GiB",
                    flush=True,
                )
        for step, sizes in found.items():
            if len(sizes) > 1:
                *_, small, large = sizes
                ratio = sizes[large]["cpu"] / sizes[small]["cpu"]
                print(f"{step}: {ratio:.1f} times the CPU seconds for {large / small:.0f} times the files")


if __name__ == "__main__":
    main()
