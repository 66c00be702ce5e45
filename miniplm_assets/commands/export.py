"""`export`: a student or a refined corpus as a repository of a model hub."""

import argparse
import os
from pathlib import Path

from miniplm_assets.commands.common import Commands, add_command, add_experiment, open_experiment
from miniplm_assets.kinds.exports import REFINED, STUDENT, find_export, write_corpus, write_student
from miniplm_assets.kinds.publications import publication_of
from miniplm_assets.lineage.origins import StateResults
from miniplm_assets.lineage.outcome import last_made
from miniplm_assets.publishing.folder import new_folder, require_free
from miniplm_assets.publishing.licence import require_license_id
from miniplm_assets.publishing.push import TOKEN_VARIABLE, RepositoryType, push, require_repository_id, token_in


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "write a student or a refined corpus as a repository of a model hub"
    export = add_command(commands, "export", _export, summary)
    export.add_argument("what", help=f"{STUDENT}/<name>, {STUDENT}/<name>/<seed> or {REFINED}/<selection>")
    export.add_argument("folder", type=Path, help="that is written; it does not exist yet, or is empty")
    add_experiment(export)
    export.add_argument("--license", metavar="ID", help="that the card states, such as apache-2.0; default: none")
    export.add_argument("--push", metavar="REPO_ID", help=f"send it to the Hugging Face hub, with {TOKEN_VARIABLE}")


def _export(options: argparse.Namespace) -> int:
    repository, token = options.push, None
    if options.license is not None:
        require_license_id(options.license)
    if repository is not None:  # before anything is written, or read
        require_repository_id(repository)
        token = token_in(os.environ)
    pipeline = open_experiment(options.experiment)
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
