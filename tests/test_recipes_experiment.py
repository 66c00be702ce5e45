"""experiments/recipes.yaml names every objective, selection and control that there is, on the models of the demo."""

from pathlib import Path
from typing import get_args

from miniplm_assets.experiment import load_experiment
from miniplm_assets.experiment.objectives import Objective
from miniplm_assets.experiment.selections import MODELS_OF_SCORE, Selection
from miniplm_assets.kinds.registry import open_pipeline

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RECIPES = EXPERIMENTS / "recipes.yaml"
# What a selection says beside its score, that changes what it keeps.
STEPS = ("order", "temperature", "within", "scale_correction", "pre_filter", "proxy")


def test_every_objective_and_every_selection_has_a_student() -> None:
    experiment = load_experiment(RECIPES)
    students = experiment.students.values()
    union, _ = get_args(Objective)
    there_are = {get_args(one.model_fields["type"].annotation)[0] for one in get_args(union)}
    assert {one.objective.type for one in students} == there_are
    learnt = [experiment.selections[one.selection] for one in students if one.selection is not None]
    assert {one.score for one in learnt} == MODELS_OF_SCORE.keys()
    for step in STEPS:
        values = {str(getattr(one, step)) for one in learnt}
        default = Selection.model_fields[step].get_default()
        assert values > {str(default)}, step
    assert {one.scale_correction for one in learnt} == {"none", "standardised", "residual"}
    assert any(one.generation is not None for one in students)
    # Any objective on any corpus; and each opponent is held against MiniPLM.
    both = {(one.selection, one.objective.type) for one in students}
    assert both >= {("difference", "vanilla_kd"), ("difference", "sparse_kd")}
    assert {one.baseline for name, one in experiment.students.items() if name not in ("no_kd", "miniplm")} == {
        "miniplm"
    }


def test_the_models_are_those_of_the_demo() -> None:
    mine, demo = (open_pipeline(EXPERIMENTS / name) for name in ("recipes.yaml", "demo.yaml"))
    for key in ("bpe/tokenizer", "large/teacher_model", "small/reference_model"):
        assert mine.graph[key].settings.identity() == demo.graph[key].settings.identity()
        assert mine.graph[key].shards == demo.graph[key].shards
