"""Stage `models`: teachers and references, from a hub, from a folder, or trained here."""

from miniplm_assets.assets.build import Kind
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.assets.training import train
from miniplm_assets.core.splits import REFERENCE, TEACHER
from miniplm_assets.experiment import TrainedModel
from miniplm_assets.lineage.folders import require_copied
from miniplm_assets.lm.model_sources import fetch_model
from miniplm_assets.lm.scorer import check_model_length
from miniplm_assets.storage.store import Draft

GROUP = "models"


def make_model(step: Step) -> Made:
    """Copy a model that others trained, or train one on its own split of the corpus."""
    experiment = step.pipeline.experiment
    is_teacher = step.node.step == "teacher_model"
    model = (experiment.teachers if is_teacher else experiment.references)[step.node.name].model

    def write(draft: Draft) -> None:
        if isinstance(model, TrainedModel):
            train(
                step,
                draft,
                architecture=experiment.architectures[model.architecture],
                training=model.training,
                sequence_files=step.input_tables("sequences"),
                split=TEACHER if is_teacher else REFERENCE,
            )
        else:
            fetch_model(model, draft.path)
            require_copied(step.node, step.recipe, draft.path)
            check_model_length(draft.path, experiment.sequences.sequence_length + 1)

    return step.make(write)


def model_kind(who: str) -> Kind:
    """Return the kind of `teacher_model` or `reference_model`."""
    learns_from = "the teacher split, never on candidates" if who == "teacher" else "the reference split alone"
    return Kind(
        group=GROUP,
        technologies=frozenset({"pytorch", "huggingface"}),
        description=f"The {who}: copied from a hub or a folder at a fixed revision, or trained here on {learns_from}.",
        make=make_model,
        uses_device=True,
    )
