"""What an experiment may say of the loss that a student is trained with."""

from typing import Literal

from miniplm_assets.experiment.settings import Settings


class CrossEntropy(Settings):
    """The cross-entropy of the text: plain pre-training, and MiniPLM's on a refined corpus."""

    type: Literal["cross_entropy"] = "cross_entropy"


# One line an objective; told apart by `type`.
Objective = CrossEntropy
