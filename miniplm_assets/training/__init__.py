"""Models trained from scratch: teachers, references and students."""

from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.train import train_language_model

__all__ = ["TrainingJob", "train_language_model"]
