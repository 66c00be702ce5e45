"""Every asset of an experiment, by the kind that its node is of."""

import dagster as dg

from miniplm_assets.assets.build import Kind, build_asset
from miniplm_assets.assets.catalog import catalog_kind
from miniplm_assets.assets.corpus import DOCUMENTS_KIND, RAW_CORPUS_KIND, SEQUENCES_KIND, TOKENIZER_KIND
from miniplm_assets.assets.models import model_kind
from miniplm_assets.assets.reports import COMPARISON_KIND
from miniplm_assets.assets.scores import scores_kind
from miniplm_assets.assets.selection import selection_kind
from miniplm_assets.assets.students import STUDENT_CHECKPOINT_KIND, STUDENT_EVALUATION_KIND
from miniplm_assets.assets.trials import PILOT_KIND, SCORE_AGREEMENT_KIND
from miniplm_assets.lineage.graph import Node
from miniplm_assets.lineage.pipeline import Pipeline


def build_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """Return the Dagster asset of every node of an experiment."""
    kinds = {key: _kind(pipeline, node) for key, node in pipeline.graph.items() if key != "warehouse_catalog"}
    kinds["warehouse_catalog"] = catalog_kind(kinds)
    return [build_asset(pipeline, key, kind) for key, kind in kinds.items()]


def _kind(pipeline: Pipeline, node: Node) -> Kind:
    match node.step:
        case "raw_corpus":
            return RAW_CORPUS_KIND
        case "documents":
            return DOCUMENTS_KIND
        case "tokenizer":
            return TOKENIZER_KIND
        case "sequences":
            return SEQUENCES_KIND
        case "teacher_model":
            return model_kind("teacher")
        case "reference_model":
            return model_kind("reference")
        case "pilot":
            return PILOT_KIND
        case "score_agreement":
            return SCORE_AGREEMENT_KIND
        case step if step.endswith(("teacher_scores", "reference_scores")):
            return scores_kind(pipeline.experiment, node)
        case "student_checkpoint":
            return STUDENT_CHECKPOINT_KIND
        case "student_evaluation":
            return STUDENT_EVALUATION_KIND
        case "comparison":
            return COMPARISON_KIND
        case _:
            return selection_kind(pipeline, node)
