"""`<reference>/<tokenizer>/retokenised_sequences`: what is selected from, as a reference of another tokenizer reads it.

A selection has the sequences of its teacher's tokenizer: the teacher's scores are the dear ones, and all its selections
and objectives share them. A reference of another tokenizer reads the same text, and is asked for the same bytes.
"""

from collections.abc import Collection, Iterator
from typing import Any, Final

from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.passages import MAX_CHANGED_SHARE
from miniplm_assets.corpus.retokenised import require_every_byte, write_retokenised_sequences
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Experiment, Scored, Scoring
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.sequences import BYTES_PER_TOKEN, SEQUENCES, sequences_key
from miniplm_assets.kinds.tokenizer import TOKENIZER, tokenizer_key, tokenizer_problems
from miniplm_assets.lineage.kind import Blueprint, Check, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.scorer import Scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.lm.text_scores import TextScorer
from miniplm_assets.storage import tables
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

NAME: Final = "retokenised_sequences"
# The role of the tokenizer that the sequences are cut by.
SELECTING: Final = "selecting_tokenizer"
BOTH_SPELL_THE_TEXT = Check(
    "both_tokenizers_spell_the_text",
    "A failure means that the tokens of many sequences, of the one tokenizer or the other, spell other bytes than the "
    "text has: one of the two writes some characters another way. Their log-probabilities are then of unlike texts.",
    is_blocking=False,
)


class Reading(Settings):
    """What of a sequence a model is asked for."""

    score_after_end_of_document: bool = False


def retokenised(experiment: Experiment) -> dict[tuple[str, str], Scored]:
    """Return the references that read sequences of another tokenizer, by their name and that tokenizer's."""
    found = {}
    for name, selection in experiment.selections.items():
        tokenizer = experiment.selection_tokenizer(name)
        if experiment.is_retokenised(name, "reference") and tokenizer is not None:
            reference = selection.models["reference"]
            found[reference, tokenizer] = experiment.references[reference]
    return found


def _nodes(blueprint: Blueprint) -> Iterator[Node[Reading]]:
    for (reference, tokenizer), scored in retokenised(blueprint.experiment).items():
        yield Node(
            kind=RETOKENISED_SEQUENCES,
            names=(reference, tokenizer),
            inputs={
                SEQUENCES.name: sequences_key(tokenizer),
                SELECTING: tokenizer_key(tokenizer),
                TOKENIZER.name: tokenizer_key(scored.tokenizer),
            },
            settings=Reading(score_after_end_of_document=scored.scoring.score_after_end_of_document),
        )


def _make(work: Work[Reading]) -> Result:
    """Tokenise the sequences of each corpus file for the reference."""
    sequences = work.input_pieces(SEQUENCES.name)
    selecting, reading = (_every_byte(work, role) for role in (SELECTING, TOKENIZER.name))

    def write(shard: str, draft: Draft) -> None:
        draft.facts = write_retokenised_sequences(
            sequences[shard].file(tables.SEQUENCES),
            shard=shard,
            selecting=selecting,
            reading=reading,
            scores_after_end=work.settings.score_after_end_of_document,
            folder=draft.path,
            report=work.report,
        )

    def finish(draft: Draft) -> None:
        num_changed, num_sequences = draft.facts["num_changed_sequences"], draft.facts["num_sequences"]
        is_spelt = num_changed <= MAX_CHANGED_SHARE * num_sequences
        draft.checks.append(
            CheckOutcome(
                name=BOTH_SPELL_THE_TEXT.name,
                passed=is_spelt,
                description=""
                if is_spelt
                else f"the tokens of {num_changed:,} of {num_sequences:,} sequences spell other bytes; take tokenizers "
                "that do not normalise",
                facts={"num_changed_sequences": num_changed},
            )
        )

    return work.make_pieces(write, finish)


def _every_byte(work: Work[Reading], role: str) -> PackingTokenizer:
    """Return a tokenizer that spells every byte of a text.

    Raises:
        ModelError: if it does not.
    """
    named = work.node.inputs[role]
    tokenizer = load_tokenizer(work.input(role).verified_folder(), origin=named)
    require_every_byte(tokenizer, named)
    return tokenizer


def text_scorer(work: Work[Any], scorer: Scorer, scoring: Scoring, max_tokens: int) -> TextScorer | None:
    """Return what scores sequences of another tokenizer, where an asset's are that; else None.

    Args:
        work: the asset; its input `tokenizer` is the model's.
        scorer: of the model.
        scoring: of the model.
        max_tokens: that it reads at once.
    """
    if work.input_node(SEQUENCES.name).kind.name != NAME:
        return None
    rule = TokenRule(
        end_of_document_id=load_tokenizer(work.input(TOKENIZER.name).verified_folder()).end_of_document_id,
        score_after_end_of_document=scoring.score_after_end_of_document,
    )
    return TextScorer(scorer, rule=rule, max_tokens=max_tokens)


def _cost(node: Node[Reading], sizes: Sizes, shards: Collection[str] | None) -> Cost:
    tokens = sizes.tokens_per_split(node.key, shards)
    return Cost(num_bytes=None if tokens is None else sum(tokens.values()) * BYTES_PER_TOKEN)


def _problems(node: Node[Reading], sizes: Sizes) -> Iterator[str]:
    """Say why tokenizers that are here already cannot be used, if they cannot."""
    for role in (SELECTING, TOKENIZER.name):
        yield from tokenizer_problems(node, sizes, role, require_every_byte)


RETOKENISED_SEQUENCES = Kind(
    name=NAME,
    code_version="1",
    section="reference",
    name_columns=("reference", "tokenizer"),
    technologies=frozenset({"parquet"}),
    description="""One row for each candidate and validation sequence, in the tokens of a reference of another one.

The text of a sequence is parted where the tokens begin that the teacher is asked for. What stands before is read by the
reference too, and not asked for; what follows is asked for, and so both are asked for the same bytes.""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    table=tables.SEQUENCES,
    is_view=True,
    checks=(BOTH_SPELL_THE_TEXT,),
    cost=_cost,
    problems=_problems,
    columns={
        "sequence_id": "of the sequence, as it is selected",
        "shard": "the corpus file",
        "domain": "of the sequence",
        "split": "candidate or validation",
        "num_tokens": "of the reference's, end-of-document tokens included",
        "num_bytes": "of its texts in UTF-8",
        "token_ids": "the reference's tokens",
        tables.CONTEXT_PLACES: "places of tokens that are read, and not asked for",
        "num_scored_tokens": "how many tokens of the sequence, as it is selected, are asked for",
        "num_scored_bytes": "the bytes of text that both models are asked for",
    },
)
