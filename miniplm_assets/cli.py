"""Commands beside Dagster's own: look before you pay, verify, forget, prune, export, read the outcome or the report."""

import argparse
import json
import os
import sys
import webbrowser
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from miniplm_assets.cli_forget import add_forget
from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.kinds.exports import REFINED, STUDENT, find_export, write_corpus, write_student
from miniplm_assets.kinds.placing import is_placed
from miniplm_assets.kinds.publications import publication_of
from miniplm_assets.kinds.registry import EXPERIMENT_VARIABLE, open_chosen
from miniplm_assets.kinds.what_if import in_words, what_if
from miniplm_assets.lineage.origins import StateResults
from miniplm_assets.lineage.outcome import REPORT, REPORT_FILE, last_made, outcome
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import (
    ACCELERATOR_FLOPS_PER_SECOND,
    PlannedAsset,
    plan,
    remade_by_a_new_file,
    require_possible,
)
from miniplm_assets.lineage.prune import leftovers, referenced, remove_leftover, unreferenced_results
from miniplm_assets.lineage.verify import verify_derived, verify_store
from miniplm_assets.lm.device_speed import DeviceSpeed
from miniplm_assets.publishing.folder import new_folder, require_free
from miniplm_assets.publishing.licence import require_license_id
from miniplm_assets.publishing.push import TOKEN_VARIABLE, RepositoryType, push, require_repository_id, token_in
from miniplm_assets.storage.faults import NOT_PERMITTED, not_permitted
from miniplm_assets.storage.leases import unused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 where all is well, 1 where something was found, 2 where it could not be done."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except MiniplmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # of a disk or a network, or of rights
        is_forbidden = error.errno in NOT_PERMITTED and error.filename is not None
        print(f"error: {not_permitted(error.filename, error) if is_forbidden else cause_of(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miniplm_assets", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, summary in (
        ("outcome", _outcome, "say which student is better, and where to look"),
        ("plan", _plan, "say what is stored, what would run and why, and what it would cost"),
        ("verify", _verify, "re-read every stored file, and derive the selections again from the scores"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        _add_experiment(command)
        command.set_defaults(run=run)
    other = commands.add_parser(
        "what-if", help="say what a selection would keep at another cutoff, from its stored scores"
    )
    other.add_argument("selection", help="of the experiment")
    _add_experiment(other)
    amount = other.add_mutually_exclusive_group(required=True)
    amount.add_argument("--keep-fraction", type=float, metavar="SHARE", help="of the candidates to keep")
    amount.add_argument("--token-budget", type=int, metavar="TOKENS", help="to keep the best until they hold so many")
    other.add_argument("--within-domains", action="store_true", help="keep the same share of each domain")
    other.add_argument("--json", action="store_true", help="for a program")
    other.set_defaults(run=_what_if)
    report = commands.add_parser("report", help="say where the report is: one HTML file of all that was found")
    _add_experiment(report)
    report.add_argument("--open", action="store_true", help="show it in the browser")
    report.set_defaults(run=_report)
    prune = commands.add_parser("prune", help="list, or delete, what no given experiment refers to")
    prune.add_argument("experiments", nargs="+", type=Path, help="every experiment whose results are to stay")
    prune.add_argument("--delete", action="store_true", help="delete what is listed")
    prune.set_defaults(run=_prune)
    add_forget(commands, _add_experiment, _open)
    export = commands.add_parser("export", help="write a student or a refined corpus as a repository of a model hub")
    export.add_argument("what", help=f"{STUDENT}/<name>, {STUDENT}/<name>/<seed> or {REFINED}/<selection>")
    export.add_argument("folder", type=Path, help="that is written; it does not exist yet, or is empty")
    _add_experiment(export)
    export.add_argument("--license", metavar="ID", help="that the card states, such as apache-2.0; default: none")
    export.add_argument("--push", metavar="REPO_ID", help=f"send it to the Hugging Face hub, with {TOKEN_VARIABLE}")
    export.set_defaults(run=_export)
    return parser


def _add_experiment(command: argparse.ArgumentParser) -> None:
    command.add_argument("experiment", nargs="?", type=Path, help=f"default: {EXPERIMENT_VARIABLE}, else the demo")


def _open(experiment: Path | None) -> Pipeline:
    return open_chosen(experiment).looked_at()


def _outcome(options: argparse.Namespace) -> int:
    print(outcome(_open(options.experiment)))
    return 0


def _report(options: argparse.Namespace) -> int:
    pipeline = _open(options.experiment)
    fingerprints, caution = last_made(pipeline, REPORT, called="the report")
    stored = pipeline.store.require(fingerprints.recipe(REPORT)).file(REPORT_FILE)
    placed = pipeline.store.root / REPORT_FILE
    path = placed if is_placed(stored, placed) else stored
    if caution:
        print(caution, file=sys.stderr)
    print(path)
    if options.open and not webbrowser.open(path.resolve().as_uri()):
        print("error: no browser was found here; open that file in one", file=sys.stderr)
        return 2
    return 0


def _plan(options: argparse.Namespace) -> int:
    speed, pipeline = DeviceSpeed(), _open(options.experiment)
    planned = plan(pipeline, speed.seconds)
    require_possible(planned)
    print(f"{'asset':44} {'stored':>7} {'to do':>6} {'tokens':>9} {'FLOPs':>8} {'time':>9} {'disk':>9}")
    for one in planned:
        todo = "?" if one.num_missing is None else str(one.num_missing)
        print(
            f"{one.key:44} {one.num_stored:>7} {todo:>6} {_count(one.num_tokens):>9} {_count(one.flops):>8} "
            f"{_duration(one):>9} {_count(one.num_bytes):>8}B"
        )
        for reason in one.reasons:
            print(f"    {reason}")
    left = [one for one in planned if not one.is_complete]
    print("\n" + _summary(planned, left))
    if any(one.seconds is not None and not one.is_measured for one in left):
        print(f"Times without * follow from what was measured just now: {speed.describe()}.")
    remade = remade_by_a_new_file(pipeline.graph)
    if remade:
        num_remade = len({key for keys in remade.values() for key in keys})
        print(
            f"A new corpus file will be dear: {', '.join(remade)} learn from every file, so that all of {num_remade} "
            "assets that hold a result for each file are made anew; name some files (shards) to learn from."
        )
    return 0


def _summary(planned: Sequence[PlannedAsset], left: Sequence[PlannedAsset]) -> str:
    stored = f"{len(planned) - len(left)} of {len(planned)} assets are stored"
    if not left:
        return f"{stored}; nothing is to do."
    flops = sum(one.flops or 0 for one in left)
    here, there = sum(one.seconds or 0 for one in left), flops / ACCELERATOR_FLOPS_PER_SECOND
    return (
        f"{stored}; the rest takes {flops:.2g} FLOPs: {_time(here)} here, or {_time(there)} of a device that does "
        f"{ACCELERATOR_FLOPS_PER_SECOND:.0e} a second (an H100).\n"
        "Times marked * follow from earlier results of the same shape; - is not known yet."
    )


def _verify(options: argparse.Namespace) -> int:
    pipeline = _open(options.experiment)
    num_problems = 0
    for problem in chain(verify_store(pipeline.store, print), verify_derived(pipeline, print)):
        num_problems += 1
        print(f"WRONG {problem}", flush=True)
    print(f"{num_problems} problems" if num_problems else "all is well")
    return 1 if num_problems else 0


def _what_if(options: argparse.Namespace) -> int:
    told = what_if(
        _open(options.experiment),
        options.selection,
        keep_fraction=options.keep_fraction,
        token_budget=options.token_budget,
        within_domains=options.within_domains,
    )
    print(json.dumps(told, indent=2) if options.json else in_words(told))
    return 0


def _prune(options: argparse.Namespace) -> int:
    pipelines = [_open(path) for path in options.experiments]
    roots = {pipeline.store.root for pipeline in pipelines}
    if len(roots) > 1:
        raise MiniplmError(
            f"the experiments have different warehouses ({', '.join(map(str, roots))}); prune each alone"
        )
    store = pipelines[0].store
    wanted = referenced(pipelines)
    results = unreferenced_results(store, wanted, lambda problem: print(f"left alone: {problem}"))
    for result in results:
        print(f"{result.manifest.num_bytes / 1e6:12,.2f} MB  {result.manifest.created_at}  {result.folder}")
    unfinished = leftovers(store, wanted)
    for leftover in unfinished:
        print(f"{leftover.num_bytes / 1e6:12,.2f} MB  {'never finished':25}  {leftover.folder}")
    num_bytes = sum(result.manifest.num_bytes for result in results)
    print(
        f"{len(results)} results that no given experiment refers to, {num_bytes / 1e6:,.2f} MB; "
        f"{len(unfinished)} leftovers, {sum(leftover.num_bytes for leftover in unfinished) / 1e6:,.2f} MB"
    )
    if options.delete:
        with unused(store.root):
            for result in results:
                store.remove(result)
            in_use = [leftover.folder for leftover in unfinished if not remove_leftover(store, leftover)]
        print("deleted" + "".join(f"\nin use by now, and left: {folder}" for folder in in_use))
    elif results or unfinished:
        print("nothing was deleted; repeat with --delete")
    return 0


def _export(options: argparse.Namespace) -> int:
    repository, token = options.push, None
    if options.license is not None:
        require_license_id(options.license)
    if repository is not None:  # before anything is written, or read
        require_repository_id(repository)
        token = token_in(os.environ)
    pipeline = _open(options.experiment)
    node, seed = find_export(pipeline.graph, options.what)
    publication = publication_of(pipeline.graph, node.key, options.license)
    require_free(options.folder, apart_from=pipeline.store.root)
    fingerprints, caution = last_made(pipeline, node.key, seed, called="what was made")
    if caution:
        print(caution)
    shelf = StateResults(pipeline, fingerprints)
    with new_folder(options.folder) as draft:
        if seed is None:
            write_corpus(publication, shelf, draft, repository=repository)
        else:
            write_student(publication, shelf, seed, draft, repository=repository)
    written = [path for path in options.folder.rglob("*") if path.is_file()]
    num_bytes = sum(path.stat().st_size for path in written)
    print(f"{options.folder}: {len(written)} files, {num_bytes / 1e6:,.2f} MB", flush=True)
    if options.license is None:
        print("The card states no licence: name one with --license, or in the field `license` of its README.md.")
    if token is not None:
        kind: RepositoryType = "dataset" if seed is None else "model"
        print(push(options.folder, repository=repository, kind=kind, token=token))
    return 0


def _count(number: float | None) -> str:
    if number is None:
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 1e15:
            return f"{number:.1e}".replace("e+", "e")
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _duration(one: PlannedAsset) -> str:
    return "-" if one.seconds is None else _time(one.seconds) + ("*" if one.is_measured else "")


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}h" if seconds >= 3600 else f"{seconds:,.1f}s"
