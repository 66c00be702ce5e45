"""The experiment file: one YAML that names the corpus, the models, the selections and the students."""

from miniplm_assets.experiment.cleaning import Cleaning
from miniplm_assets.experiment.decontamination import Decontamination
from miniplm_assets.experiment.generations import Decoding, Generation, Sampling
from miniplm_assets.experiment.load import load_experiment
from miniplm_assets.experiment.models import (
    FolderModel,
    FolderTokenizer,
    HubModel,
    HubTokenizer,
    ModelSource,
    Scored,
    StudentTraining,
    TokenizerSource,
    TrainedModel,
    TrainedTokenizer,
    Training,
)
from miniplm_assets.experiment.objectives import CrossEntropy, MiniLlm, Objective, SparseKd, VanillaKd
from miniplm_assets.experiment.processing import Processing
from miniplm_assets.experiment.proxy import Proxy, ProxyTraining
from miniplm_assets.experiment.schema import Experiment, Sequences, Splits, Student
from miniplm_assets.experiment.scoring import Agreement, KeepTokens, OtherScoring, Pilot, Rescoring, Scoring
from miniplm_assets.experiment.selections import Selection
from miniplm_assets.experiment.sources import (
    DemoSource,
    DocumentFields,
    HuggingFaceSource,
    JsonlSource,
    ParquetSource,
    Source,
    TextSource,
)
from miniplm_assets.experiment.student_check import CANDIDATES
from miniplm_assets.experiment.tasks import Cloze, Tasks

__all__ = [
    "CANDIDATES",
    "Agreement",
    "Cleaning",
    "Cloze",
    "CrossEntropy",
    "Decoding",
    "Decontamination",
    "DemoSource",
    "DocumentFields",
    "Experiment",
    "FolderModel",
    "FolderTokenizer",
    "Generation",
    "HubModel",
    "HubTokenizer",
    "HuggingFaceSource",
    "JsonlSource",
    "KeepTokens",
    "MiniLlm",
    "ModelSource",
    "Objective",
    "OtherScoring",
    "ParquetSource",
    "Pilot",
    "Processing",
    "Proxy",
    "ProxyTraining",
    "Rescoring",
    "Sampling",
    "Scored",
    "Scoring",
    "Selection",
    "Sequences",
    "Source",
    "SparseKd",
    "Splits",
    "Student",
    "StudentTraining",
    "Tasks",
    "TextSource",
    "TokenizerSource",
    "TrainedModel",
    "TrainedTokenizer",
    "Training",
    "VanillaKd",
    "load_experiment",
]
