"""A language model that gives one number for a sequence in place of the next token, and what it predicts.

    value(t_0 .. t_n) = mean + deviation * (w . mean of h_i + b),    i over the places whose next token is scored

with h_i the output of the model's body there, and mean and deviation those of the values that it learnt from. Imported
by what trains such a model or asks it, when it does.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch  # noqa: TID253 - nobody imports this module before a model is trained, or asked
from numpy.typing import NDArray

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError, ScoringError
from miniplm_assets.lm.attention import settle_attention
from miniplm_assets.lm.batching import batches, longest_first, pad
from miniplm_assets.lm.model_folder import choose_device, read_config
from miniplm_assets.lm.modes import evaluation_mode
from miniplm_assets.lm.scores import TokenRule, check_sequences
from miniplm_assets.storage.files import read_note, write_note

WEIGHTS: Final = "model.safetensors"
FORM: Final = "regression.json"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a trained model says beside its weights.

    Attributes:
        mean: of the values that it learnt from.
        deviation: of the same; what it gives is in these.
        end_of_document_id: as in `TokenRule`, as the two after it.
        score_after_end_of_document: whether what follows it is scored.
        begin_of_sequence_id: what is read in front of every sequence, if anything.
    """

    mean: float
    deviation: float
    end_of_document_id: int
    score_after_end_of_document: bool
    begin_of_sequence_id: int | None

    @property
    def rule(self) -> TokenRule:
        """Which tokens are read and scored."""
        return TokenRule(
            end_of_document_id=self.end_of_document_id,
            score_after_end_of_document=self.score_after_end_of_document,
            begin_of_sequence_id=self.begin_of_sequence_id,
        )


class Regression(torch.nn.Module):
    """The body of a causal language model, and a linear head on the mean of what it gives."""

    def __init__(self, model: Any) -> None:
        """Take the body of a model; the head gives 0 until it has learnt.

        Args:
            model: a causal language model of transformers.

        Raises:
            ModelError: if it has no body beside its output layer.
        """
        super().__init__()
        output = model.get_output_embeddings()
        if model.base_model is model or output is None:
            raise ModelError(
                f"{type(model).__name__} has no body of its own beside its output layer, and a proxy learns from what "
                "the body gives; take another reference"
            )
        self.body = model.base_model
        self.head = torch.nn.Linear(output.weight.shape[1], 1, device=output.weight.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return a standardised value for each sequence, of shape (sequences,).

        Args:
            input_ids: of shape (sequences, places).
            weights: float32 of the same shape: what each place counts for in its sequence's mean.
        """
        hidden = self.body(input_ids=input_ids, use_cache=False)[0]
        with torch.autocast(hidden.device.type, enabled=False):
            mean: torch.Tensor = torch.bmm(weights.unsqueeze(1), hidden.float()).squeeze(1)
            return self.head(mean).squeeze(1)  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.head.weight.device

    @property
    def num_parameters(self) -> int:
        """How many it has."""
        return sum(parameter.numel() for parameter in self.parameters())


def values_of(
    model: Regression, sequences: Sequence[NDArray[np.int32]], members: NDArray[np.intp], rule: TokenRule
) -> torch.Tensor:
    """Return the standardised value of some sequences, in the order of `members`.

    Args:
        model: gives them.
        sequences: what is read of each; of those that are asked for, at least one token is scored.
        members: places in `sequences`.
        rule: which tokens are scored.
    """
    batch = pad(sequences, members, rule)
    weights = np.zeros(batch.input_ids.size, dtype=np.float32)
    counts = np.bincount(batch.owners, minlength=len(sequences))
    weights[batch.positions] = 1 / counts[batch.owners]
    input_ids = torch.from_numpy(batch.input_ids).to(model.device)
    return model(input_ids, torch.from_numpy(weights.reshape(batch.input_ids.shape)).to(model.device))  # type: ignore[no-any-return]


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Let matrix products be computed in a dtype; the weights stay as they are."""
    return torch.autocast(device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32")


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model that is asked.

    Attributes:
        model: the model.
        form: what belongs to its weights.
        dtype: of the matrix products.
        tokens_per_batch: padded tokens at once, at most.
        look: asked after each batch; what it raises ends the prediction.
    """

    model: Regression
    form: Form
    dtype: str
    tokens_per_batch: int
    look: Callable[[], None]

    def predict(
        self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Return the value of each sequence and how many of its tokens are scored; 0 of one in which none is.

        Args:
            sequences: token ids, one array for each sequence.
            sequence_ids: their ids, for the messages.

        Raises:
            ScoringError: naming a sequence that cannot be read, or whose value is not finite.
        """
        vocab_size = int(self.model.body.get_input_embeddings().weight.shape[0])
        check_sequences(sequences, sequence_ids, vocab_size=vocab_size)
        rule = self.form.rule
        read = rule.read(sequences)
        num_scored = np.array([int(rule.scored(tokens).sum()) for tokens in read], dtype=np.int32)
        values = np.zeros(len(read), dtype=np.float64)
        lengths = np.array([len(tokens) for tokens in read], dtype=np.intp)
        waiting = longest_first(lengths)
        waiting = waiting[num_scored[waiting] > 0]
        with evaluation_mode(self.model), torch.inference_mode(), autocast(self.model.device, self.dtype):
            for members in batches(waiting, lengths, tokens_per_batch=self.tokens_per_batch):
                values[members] = values_of(self.model, read, members, rule).double().cpu().numpy()
                self.look()
        values[waiting] = self.form.mean + self.form.deviation * values[waiting]
        (broken,) = np.nonzero(~np.isfinite(values))
        if len(broken):
            raise ScoringError(
                f"sequence {sequence_ids[broken[0]]} is predicted as {values[broken[0]]} ({len(broken):,} of "
                f"{len(values):,} are not finite); the proxy's weights hold NaN or infinity, or overflow in "
                f"{self.dtype}: lower proxy.training.peak_learning_rate, or set its dtype to float32"
            )
        return values, num_scored


def save_regression(model: Regression, form: Form, config: Any, folder: Path) -> None:
    """Write a model: `model.safetensors`, the `config.json` of its body, and `regression.json`."""
    from safetensors.torch import save_model

    save_model(model, str(folder / WEIGHTS))
    config.save_pretrained(folder)
    write_note(folder / FORM, asdict(form))


def load_regression(folder: Path, *, device: str, report: Callable[[str], None]) -> tuple[Regression, Form]:
    """Load a model that `save_regression` wrote, in evaluation mode.

    Raises:
        ModelError: if the folder does not hold one, or the device is not there.
    """
    from safetensors.torch import load_model
    from transformers import AutoModelForCausalLM

    form = read_note(folder / FORM)
    if form is None:
        raise ModelError(f"{folder / FORM} is missing or damaged; delete the folder, and train the proxy again")
    chosen = choose_device(device)
    config = read_config(folder)
    with explained_as(ModelError, f"{folder}: cannot be loaded", "delete it, and train the proxy again"):
        with torch.random.fork_rng(devices=[]):
            causal = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model = Regression(causal)
        load_model(model, folder / WEIGHTS)
        causal.to(chosen).eval()
        settle_attention(causal, report)
    return model.to(chosen).eval(), Form(**form)
