"""Of the assets that are ready, those whose kind stands first are made first: gates before what costs more."""

import dagster as dg

from miniplm_assets.assets.build import build_assets
from miniplm_assets.experiment import load_experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.registry import DEMO, PROJECT, open_pipeline
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.kind import Kind, Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.store import Store


class Nothing(Settings):
    """Reads no setting."""


def test_no_student_is_trained_before_the_pilot_has_spoken_and_all_is_scored():
    assets = build_assets(open_pipeline(DEMO))
    priorities = {asset.key.to_user_string(): int(asset.op.tags["dagster/priority"]) for asset in assets}
    students = [priority for key, priority in priorities.items() if key.endswith("student_checkpoint")]
    before = ("/pilot", "_scores", "/refined_corpus", "/score_agreement", "_model", "/sequences")
    assert max(students) < min(priority for key, priority in priorities.items() if key.endswith(before))


def test_dagster_keeps_to_it(tmp_path):
    """By name, `a_student` would come first."""
    order = []

    def kind(name):
        def make(work):
            order.append(work.node.key)
            return work.make(lambda draft: None)

        return Kind(
            name=name, code_version="1", section="corpus", technologies=frozenset(), description="", make=make,
            nodes=lambda _: [Node(kind=kinds[name], settings=Nothing())],
        )  # fmt: skip

    kinds = {name: kind(name) for name in ("z_pilot", "m_scores", "a_student")}
    graph = build_graph(kinds.values(), load_experiment(DEMO), load_sql_project(PROJECT / "dbt_like_sql"))
    pipeline = Pipeline(graph, Store(tmp_path))
    assert dg.materialize(build_assets(pipeline)).success
    assert order == ["z_pilot", "m_scores", "a_student"]
