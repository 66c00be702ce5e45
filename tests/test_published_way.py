"""The same input, the published way and this project's: the same scores, the same counts, the same sequences kept.

The published way (thu-coai/MiniPLM at ac2302f) is written anew, from what its scripts are said to do: a padded batch,
whole logits, in float32; the cross-entropy of each token but those whose input token ends a document; its mean over a
sequence; reference less teacher, by position; a descending sort, the first int(ratio x n) of it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from miniplm_assets.core.ranking import kept_sequences
from miniplm_assets.lm.torch_scorer import score_with_model
from tests.scoring_oracle import END_OF_DOCUMENT, scrambled_sequences, tiny_model

RATIO = 0.5


def published_losses(model: Any, sequences: list[NDArray[np.int32]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean loss of each sequence, in nats a token, and how many tokens that is of."""
    longest = max(map(len, sequences)) - 1
    inputs = torch.full((len(sequences), longest), END_OF_DOCUMENT)  # which pads, too
    labels, mask = inputs.clone(), torch.zeros(len(sequences), longest)
    for row, sequence in enumerate(sequences):
        tokens = torch.from_numpy(sequence.astype(np.int64))
        inputs[row, : len(tokens) - 1], labels[row, : len(tokens) - 1] = tokens[:-1], tokens[1:]
        mask[row, : len(tokens) - 1] = 1
    mask[inputs == END_OF_DOCUMENT] = 0
    with torch.no_grad():
        logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits.float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    num_scored = mask.sum(1)
    return (losses * mask).sum(1) / num_scored, num_scored


def test_scores_and_selection_are_those_of_the_published_way(tmp_path: Path) -> None:
    models = {
        "teacher": tiny_model("qwen2", tmp_path / "teacher", num_hidden_layers=2),
        "reference": tiny_model("qwen2", tmp_path / "reference", num_hidden_layers=1, initializer_range=0.05),
    }
    sequences = [
        sequence
        for sequence in scrambled_sequences(1_003, longest=129, num=64)
        if (sequence[:-1] != END_OF_DOCUMENT).any()  # of the others, the published mean divides by nothing
    ]
    ids = np.arange(len(sequences))
    losses, frames = {}, {}
    for who, model in models.items():
        losses[who], counts = published_losses(model, sequences)
        scores = score_with_model(
            model,
            sequences,
            end_of_document_id=END_OF_DOCUMENT,
            score_after_end_of_document=False,
            tokens_per_batch=500,
        )
        assert scores.num_scored_tokens.tolist() == counts.int().tolist()
        ours = -scores.logprob_nats / scores.num_scored_tokens
        assert np.abs(ours - losses[who].double().numpy()).max() <= 1e-5
        frames[f"{who}_scores"] = pl.DataFrame(
            {
                "sequence_id": ids,
                "logprob_nats": scores.logprob_nats,
                "num_scored_tokens": scores.num_scored_tokens,
            }
        ).sample(fraction=1, shuffle=True, seed=len(frames))  # rows are paired by their key
    order = torch.sort(losses["reference"] - losses["teacher"], descending=True).indices
    published = set(order[: int(RATIO * len(sequences))].tolist())
    candidates = pl.DataFrame({"sequence_id": ids, "domain": "web", "num_tokens": [len(one) for one in sequences]})
    kept = kept_sequences(candidates, **frames, rank_by="nats_per_token", keep_fraction=RATIO)
    assert kept == published and 20 < len(kept) < len(sequences)
