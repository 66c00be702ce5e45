"""What executes a run: one asset after the other in one process, and models beside one another where there is room.

In one process an asset costs 0.1 s, in its own 1.2 to 2.5 s: too much for a graph that is mostly stored, and nothing
where a model is trained for hours.
"""

from typing import Any, Literal

import dagster as dg

from miniplm_assets.assets.devices import may_see_several
from miniplm_assets.assets.models_at_once import AT_ONCE, ModelsAtOnce
from miniplm_assets.assets.step_processes import is_sendable
from miniplm_assets.assets.stopping import CancellingExecutor
from miniplm_assets.lineage.pipeline import Pipeline


def own_executor(pipeline: Pipeline) -> dg.ExecutorDefinition:
    """Return what executes the runs of an experiment.

    Args:
        pipeline: the experiment, which says how long its assets take, and how many models are run at once.
    """
    in_process = dg.in_process_executor
    fields: Any = in_process.config_schema.as_field().config_type
    at_once = dg.Field(
        dg.Noneable(int),
        is_required=False,
        description="models that are trained or run side by side in this run; default: what the experiment says. "
        "1: everything in one process",
    )

    def create(context: dg.InitExecutorContext) -> dg.Executor:
        create_inner = in_process.executor_creation_fn
        assert create_inner is not None, "Dagster's own has one"
        inner = create_inner(context)
        asked: Any = context.executor_config.get(AT_ONCE)
        wanted: int | Literal["auto"] = asked or pipeline.models_at_once
        is_one = not may_see_several() if wanted == "auto" else wanted == 1
        if not is_one and is_sendable(context.job, context.instance):
            inner = ModelsAtOnce(pipeline, wanted, inner.retries)
        elif not is_one and wanted != "auto":
            raise dg.DagsterUnmetExecutorRequirementsError(
                f"{AT_ONCE}: {wanted}: other processes cannot take part in this run: its job was made in this one, or "
                f"its instance ends with it. Start it by a command or in the UI, or set {AT_ONCE} to 1."
            )
        return CancellingExecutor(inner, pipeline)

    return dg.ExecutorDefinition(
        name=AT_ONCE,
        config_schema=dg.Field({**fields.fields, AT_ONCE: at_once}),
        executor_creation_fn=create,
        description="Execute a run in one process, and the assets that a model is trained or run for beside one "
        "another, each on a device of its own; a run that a signal stops is cancelled.",
    )
