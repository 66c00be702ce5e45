"""`<tokenizer>/sequences`: the documents of each corpus file, tokenised and packed."""

from collections.abc import Collection, Iterator
from functools import cache, partial
from typing import ClassVar, Final

from miniplm_assets.core.facts import counts_in_words
from miniplm_assets.core.recipe import key_of
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.experiment import Processing, Sequences
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.tokenizer import TOKENIZER, tokenizer_key
from miniplm_assets.lineage.crew import Task, open_crew
from miniplm_assets.lineage.kind import Blueprint, Check, Cost, Kind, Node
from miniplm_assets.lineage.side_by_side import Steps, make_side_by_side
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage import tables
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

# As measured on the demo: token ids, spans and text, compressed.
BYTES_PER_TOKEN = 4
# Some seconds of a core: others would come too late to be of use.
LITTLE_BYTES: Final = 32 << 20

EVERY_DOCUMENT_IS_PACKED = Check(
    "every_document_is_packed",
    "A failure means that documents of the corpus are in no sequence, and not among the rejected ones either.",
)
NO_DOCUMENT_IS_REJECTED = Check(
    "no_document_is_rejected",
    "A failure means that this tokenizer cannot encode some documents; rejected.parquet has them.",
    is_blocking=False,
)


class Packing(Sequences):
    """How documents are packed, and where.

    Attributes:
        processing: where, and how many corpus files at once.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"processing"})

    processing: Processing = Processing()

    @property
    def sequences(self) -> Sequences:
        """How documents are packed."""
        return Sequences(sequence_length=self.sequence_length, trim_to_sentence_end=self.trim_to_sentence_end)


def _nodes(blueprint: Blueprint) -> Iterator[Node[Packing]]:
    for name in blueprint.experiment.tokenizers:
        yield Node(
            kind=SEQUENCES,
            names=(name,),
            inputs={DOCUMENTS.name: DOCUMENTS.name, TOKENIZER.name: tokenizer_key(name)},
            settings=Packing(**dict(blueprint.experiment.sequences), processing=blueprint.experiment.processing),
        )


def _make(work: Work[Packing]) -> Result:
    """Tokenise and pack the documents of each corpus file."""
    documents = cache(lambda: work.input_pieces(DOCUMENTS.name))  # where nothing is missing, nobody reads them
    tokenizer = work.input(TOKENIZER.name)

    def task_of(shard: str, draft: Draft) -> Task:
        return partial(
            write_sequences,
            documents()[shard].file(tables.DOCUMENTS),
            shard=shard,
            tokenizer_folder=tokenizer.verified_folder(),
            sequences=work.settings.sequences,
            shard_fingerprint=draft.recipe.fingerprint,
            folder=draft.path,
        )

    def write(shard: str, draft: Draft) -> None:
        draft.facts = task_of(shard, draft)(report=work.report)

    def finish(draft: Draft) -> None:
        num_read = sum(result.facts["num_documents"] for result in documents().values())
        num_packed, num_rejected = draft.facts["num_documents"], draft.facts["num_rejected"]
        max_tokens = draft.facts["num_sequences"] * (work.settings.sequence_length + 1)
        draft.facts["fill_share"] = draft.facts["num_tokens"] / max_tokens if max_tokens else 0.0
        draft.checks.append(
            CheckOutcome(
                name=EVERY_DOCUMENT_IS_PACKED.name,
                passed=num_packed + num_rejected == num_read,
                facts={"num_documents_read": num_read, "num_documents_packed": num_packed},
            )
        )
        reasons = counts_in_words(draft.facts["rejected_per_reason"])
        draft.checks.append(
            CheckOutcome(
                name=NO_DOCUMENT_IS_REJECTED.name,
                passed=not num_rejected,
                description=f"{num_rejected:,} documents are in no sequence ({reasons})" if num_rejected else "",
                facts={"num_rejected": num_rejected},
            )
        )

    crew = open_crew(
        work,
        work.settings.processing,
        num_bytes=lambda shard: int(documents()[shard].facts["num_bytes"]),
        little_bytes=LITTLE_BYTES,
    )
    if crew is None:
        return work.make_pieces(write, finish)
    return make_side_by_side(work, lambda shard, draft: Steps(task_of(shard, draft)), crew, finish)


def _cost(node: Node[Packing], sizes: Sizes, shards: Collection[str] | None) -> Cost:
    tokens = sizes.tokens_per_split(node.key, shards)
    return Cost(num_bytes=None if tokens is None else sum(tokens.values()) * BYTES_PER_TOKEN)


SEQUENCES = Kind(
    name="sequences",
    code_version="2",
    section="tokenizer",
    technologies=frozenset({"parquet"}),
    description="""One row for each sequence: the tokens that a model is given at once; what is scored and selected.

Documents of one domain and split are joined with the end-of-document token and cut at the last sentence end that fits;
what is cut off begins the next sequence, so that nothing is lost. Documents that the tokenizer cannot encode lie in
`rejected.parquet` beside them, each with its reason.""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    needs_ray=lambda settings: settings.processing.engine == "ray",
    table=tables.SEQUENCES,
    is_view=True,
    checks=(EVERY_DOCUMENT_IS_PACKED, NO_DOCUMENT_IS_REJECTED),
    cost=_cost,
    columns={
        "sequence_id": "unique over the corpus and over tokenizers; stable while the file is unchanged",
        "shard": "the corpus file",
        "domain": "the domain of all its documents",
        "split": "the split of all its documents",
        "num_tokens": "length in tokens, end-of-document tokens included",
        "num_bytes": "of its texts in UTF-8",
        "token_ids": "the tokens",
        "spans": "its documents, with the characters of each that it holds",
        "texts": "the text of each span",
    },
)


def sequences_key(tokenizer: str) -> str:
    """Return the key of the sequences that a tokenizer packs."""
    return key_of(SEQUENCES.name, tokenizer)


def packed_by(tokenizer: str) -> dict[str, str]:
    """Return what a model reads, as inputs of a node: the sequences that a tokenizer packs, and the tokenizer."""
    return {SEQUENCES.name: sequences_key(tokenizer), TOKENIZER.name: tokenizer_key(tokenizer)}
