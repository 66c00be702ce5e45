"""An experiment as a component of anybody's Dagster project: ``type: miniplm_assets.MiniPLM`` in a ``defs.yaml``."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from miniplm_assets.code_location import build_definitions
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment import Experiment, load_experiment
from miniplm_assets.experiment.key_prefix import parse_key_prefix
from miniplm_assets.experiment.load import COMPONENT, experiment_of
from miniplm_assets.kinds.registry import pipeline_of

# What a scaffolded experiment begins as.
_TEMPLATE = Path(__file__).parent / "scaffolded_experiment.yaml"


class ScaffoldParams(BaseModel):
    """What `dg scaffold defs miniplm_assets.MiniPLM` may be told."""

    experiment: str | None = Field(
        None,
        description="an experiment file that is there, relative to the new folder; default: a small new one",
    )
    key_prefix: str | None = Field(
        None, description="what the keys of its assets begin with; default: the name of the new folder"
    )


class MiniPLMScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes a defs.yaml, and beside it an experiment that a laptop materialises in minutes."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """Return what may be told."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the files.

        Raises:
            ExperimentError: if the prefix is wrong.
        """
        told, folder = request.params, request.target_path
        key_prefix = folder.name if told.key_prefix is None else told.key_prefix
        parse_key_prefix(key_prefix)
        if told.experiment is None and not (folder / "experiment.yaml").exists():
            (folder / "experiment.yaml").write_text(_TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
        attributes = {"experiment": told.experiment or "experiment.yaml", "key_prefix": key_prefix}
        dg.scaffold_component(request, attributes)


@dg.scaffold_with(MiniPLMScaffolder)
class MiniPLM(dg.Component, dg.Model, dg.Resolvable):
    """Pre-train a small language model on the part of a corpus that is worth learning from.

    An experiment of miniplm_assets: a teacher and a reference score a corpus, the sequences where the teacher is far
    better are kept, and students are trained on them. Every part that the experiment file names is an asset.
    """

    experiment: str | dict[str, Any] = Field(
        description="The experiment: a file, relative to the folder of this one, or what would stand in it.",
        examples=["experiment.yaml"],
    )
    key_prefix: str = Field(
        "",
        description="What the keys of its assets, and the names of its job, sensor and schedule begin with, such as "
        "paper or lm/paper. Results do not have it, so that experiments on one warehouse share them.",
    )
    sets_executor: bool = Field(
        False,
        description="Whether the whole project executes as this component does: in one process but for models, "
        "cancelled by a signal, with progress in the terminal. For a project without an executor and a console logger "
        "of its own.",
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the assets, the job, the sensor and the schedule of the experiment.

        Raises:
            ExperimentError: if the experiment or the prefix is wrong.
        """
        folder = context.path if context.path.is_dir() else context.path.parent
        if isinstance(self.experiment, str):
            file = folder / self.experiment
            if not file.is_file():
                raise ExperimentError(
                    f"{folder}: attributes.experiment: {file} does not exist; name a file relative to this folder, or "
                    "write the experiment itself there, indented"
                )
            experiment = load_experiment(file)
        else:
            experiment = _inline(self.experiment, folder / "defs.yaml")
        pipeline = pipeline_of(experiment, key_prefix=self.key_prefix)
        return build_definitions(pipeline, is_whole=self.sets_executor)


def _inline(content: dict[str, Any], defs_file: Path) -> Experiment:
    """Return the experiment that stands in a defs.yaml, read as one in a file of its own where that can be.

    Dagster reads YAML 1.1, takes the last of two equal keys, and keeps no line for us; but it alone fills templates in,
    and knows which of several documents this is.
    """
    text = defs_file.read_text(encoding="utf-8") if defs_file.is_file() else ""
    if COMPONENT in text and "{{" not in text and "\n---" not in text:
        return load_experiment(defs_file)
    return experiment_of(content, where=defs_file)
