"""What the README's command leaves in the terminal beside progress: nothing that frightens."""

import os
import subprocess
import sys

from miniplm_assets.kinds.registry import EXPERIMENT_VARIABLE, PROJECT, WAREHOUSE_VARIABLE
from tests.corpora import tiny_experiment, write_experiment, write_shard

# As `dg launch`, after a model: whose kernels torch never lets go of.
LAUNCH = """
import sys, torch._dynamo
from dagster_dg_cli.cli import main
sys.argv = ["dg", "launch", "--assets", '* and key:"raw_corpus"']
main()
"""


def test_a_good_run_ends_without_warnings_and_without_leaks(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("bisect",))
    path = write_experiment(tmp_path / "experiment.yaml", tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse"))
    environment = {name: value for name, value in os.environ.items() if name != WAREHOUSE_VARIABLE}
    environment |= {EXPERIMENT_VARIABLE: str(path), "DAGSTER_HOME": str(tmp_path), "VIRTUAL_ENV": sys.prefix}
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    ended = subprocess.run(
        [sys.executable, "-c", LAUNCH], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    said = ended.stdout + ended.stderr
    assert "raw_corpus: making" in said
    for frightening in ("nanobind", "leaked", "Warning", "warning", "Traceback"):
        assert frightening not in said, said[-2_000:]


def test_make_tells_dg_which_environment_is_its_own():
    """Else it warns, before anything else is seen, that none is active."""
    told = subprocess.run(
        ["make", "-n", "demo", "ui", "check"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    calls = [line for line in told.stdout.splitlines() if "bin/dg " in line]
    assert len(calls) >= 3
    assert all(f"VIRTUAL_ENV={PROJECT}/.venv .venv/bin/dg " in line for line in calls)
