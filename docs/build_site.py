"""Builds the site of README and docs into build/site: python -m docs.build_site.

The pages are laid out as in the repository, with the files that they link to, so that a link leads to the same place on
the site as on a code host. A link that leads nowhere ends it with 1.
"""

import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
BUILD = PROJECT / "build"
# Pages, and what they link to.
LAID_OUT = (
    "CONTRIBUTING.md",
    "README.md",
    "docs",
    "experiments",
    "miniplm_assets/experiment/scoring.py",
    "tests/model_types.json",
)


def build() -> int:
    """Lay the pages out and build the site; return 0, or 1 where a link leads nowhere."""
    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name in LAID_OUT:
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, place, ignore=shutil.ignore_patterns("__pycache__", "mkdocs.yml"))
        else:
            shutil.copy(PROJECT / name, place)
    configuration = shutil.copy(PROJECT / "docs" / "mkdocs.yml", BUILD)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", configuration]
    built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if built.returncode:
        # Behind what is wrong comes a trace of zensical's own.
        print((built.stdout + built.stderr).partition("Traceback")[0], file=sys.stderr)
        return 1
    print(BUILD / "site" / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(build())
