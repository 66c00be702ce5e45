"""Whether a model's scores stand by themselves: they depend on neither the batch nor what comes after a token.

transformers builds a "causal language model" of nearly anything: some look at both sides (BERT, ELECTRA), some turn all
positions by another angle once a text is longer than what they learnt (longrope, dynamic rope). Padding at the right,
and batches of sequences of any length, are right for none of them. No list of names: a few random sequences are scored
alone, together, and with more behind them.
"""

import copy
import logging
from contextlib import closing
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment.scoring import Dtype
from miniplm_assets.lm.modes import evaluation_mode
from miniplm_assets.lm.scorer import Scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.lm.torch_scorer import TorchScorer

logger = logging.getLogger(__name__)

SHORT_TOKENS: Final = 17
MIDDLE_TOKENS: Final = 64
# Mean over the tokens that are compared. Rounding is 1e-6 in float32; in bfloat16 a logit of 16 is right to 0.06, and
# random tokens are far from likely. What looks ahead differs by 0.1 and more, once it has learnt anything.
TOLERANCE_NATS: Final[dict[Dtype, float]] = {"float32": 5e-5, "float16": 0.03, "bfloat16": 0.15}

# Of a stand-in for a configuration: whether it looks ahead does not depend on its depth or its vocabulary.
STAND_IN_LAYERS: Final = 2
STAND_IN_VOCABULARY: Final = 512
# As wide as weights that have learnt, so that what looks ahead shows.
STAND_IN_RANGE: Final = 0.1
# Half a gigabyte; the stand-in of a larger model is left to the model itself.
STAND_IN_PARAMETERS: Final = 125_000_000


def require_causal(
    scorer: Scorer, *, named: str, vocab_size: int, end_of_document_id: int, max_sequence_tokens: int, dtype: Dtype
) -> None:
    """Make sure that a score depends on neither its batch nor on later tokens.

    Args:
        scorer: of the model.
        named: what messages call the model.
        vocab_size: the sequences hold the ids 0 .. vocab_size - 1.
        end_of_document_id: the token that stands in none of them.
        max_sequence_tokens: of the longest sequence that will come.
        dtype: that the scorer computes in.

    Raises:
        ModelError: if it does, by how much and on what.
    """
    ids = np.random.default_rng(0).integers(0, vocab_size - 1, size=max_sequence_tokens, dtype=np.int32)
    longest = ids + (ids >= end_of_document_id)
    num_short = min(SHORT_TOKENS, max_sequence_tokens // 2)
    middle, short = longest[:MIDDLE_TOKENS], longest[:num_short]

    def logprobs(*sequences: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        with explained_as(ModelError, f"{named}: cannot score", "take a causal language model of text"):
            scores = scorer.score(sequences, np.arange(len(sequences), dtype=np.int64))
        return np.split(scores.token_logprobs_nats(), np.cumsum(scores.num_scored_tokens)[:-1])

    [alone] = logprobs(short)
    behind, together = logprobs(middle, short)
    [far_behind] = logprobs(longest)
    found = {
        "in a batch with another sequence": together,
        f"with {len(middle) - num_short:,} more behind them": behind[: len(alone)],
        f"with {len(longest) - num_short:,} more behind them": far_behind[: len(alone)],
    }
    for how, others in found.items():
        difference = float(np.abs(others - alone).mean()) if len(alone) else 0.0
        if difference > TOLERANCE_NATS[dtype]:
            raise ModelError(
                f"{named}: the log-probabilities of {num_short} tokens differ by {difference:.2g} nats a token {how}. "
                "A score must not depend on that. Either the model looks at what comes later (as BERT does) and cannot "
                "score, or its positions stretch with the length (rope_type longrope or dynamic): then set "
                "sequences.sequence_length within its original_max_position_embeddings, or scoring.backend to vllm, "
                "which fixes them"
            )


def require_causal_model(model: Any, *, named: str, end_of_document_id: int, max_sequence_tokens: int) -> None:
    """Make sure of the same of a model in memory, in float32.

    Raises:
        ModelError: as `require_causal`.
    """
    rule = TokenRule(end_of_document_id=end_of_document_id, score_after_end_of_document=True)
    with (
        evaluation_mode(model),
        closing(
            TorchScorer(model, rule=rule, tokens_per_batch=max(max_sequence_tokens, 2 * MIDDLE_TOKENS), report=_nobody)
        ) as scorer,
    ):
        require_causal(
            scorer,
            named=named,
            vocab_size=int(model.get_input_embeddings().weight.shape[0]),
            end_of_document_id=end_of_document_id,
            max_sequence_tokens=max_sequence_tokens,
            dtype="float32",
        )


def require_causal_config(config: Any, *, named: str, max_sequence_tokens: int) -> None:
    """Make sure of the same of whatever has a configuration, by a small model of its kind with random weights.

    Where none can be made or run, nothing is said: the model itself is asked before it scores or is trained.

    Args:
        config: of a causal language model; it is not changed.
        named: what messages call the model.
        max_sequence_tokens: of the longest sequence that will come.

    Raises:
        ModelError: as `require_causal`.
    """
    try:
        stand_in = _stand_in(config)
        if stand_in is not None:
            require_causal_model(stand_in, named=named, end_of_document_id=0, max_sequence_tokens=max_sequence_tokens)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - of a hundred kinds some have depths that depend on each other
        logger.debug("%s: no small model of its kind can be tried: %s", named, error)


def _stand_in(config: Any) -> Any | None:
    import torch
    from transformers import AutoModelForCausalLM

    small = copy.deepcopy(config)
    small.num_hidden_layers = min(STAND_IN_LAYERS, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        small.layer_types = config.layer_types[: small.num_hidden_layers]
    small.vocab_size, small.pad_token_id = STAND_IN_VOCABULARY, None
    small.initializer_range = STAND_IN_RANGE
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small)
    if sum(parameter.numel() for parameter in model.parameters()) > STAND_IN_PARAMETERS:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(small)


def _nobody(_line: str) -> None:
    """Hear nothing: a stand-in is of no interest."""
