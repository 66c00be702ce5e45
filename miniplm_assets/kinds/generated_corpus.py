"""`<generation>/generated_corpus`: sequences of a corpus, each continued by a teacher; SeqKD learns from them.

As published (arXiv 2410.17215, section 3.1), the teacher continues the first 768 tokens of sequences of 1,024.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Final

import polars as pl

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.flops import scoring_flops
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Decoding, Experiment, Generation
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import num_parameters_of
from miniplm_assets.kinds.engines import (
    MODEL,
    ShardInTheMaking,
    begin_of_sequence_id,
    made_on_devices,
    num_devices_here,
    opened,
    pass_curves,
)
from miniplm_assets.kinds.generated_page import generated_page
from miniplm_assets.kinds.models import model_key
from miniplm_assets.kinds.pre_filter import Amount, amounts_of, num_kept_tokens
from miniplm_assets.kinds.selection import REFINED_CORPUS
from miniplm_assets.kinds.sequences import SEQUENCES, sequences_key
from miniplm_assets.kinds.tokenizer import TOKENIZER, tokenizer_key
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.device_time import DeviceTime
from miniplm_assets.lm.generate_shard import ShardGeneration
from miniplm_assets.lm.generator import GeneratorSettings, block_of
from miniplm_assets.lm.part_threads import PartThreads
from miniplm_assets.lm.scorer import check_model_length
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "generated_corpus.parquet"
# Token ids and the text of a quarter of them, compressed.
BYTES_PER_TOKEN: Final = 3


class Continuing(Settings):
    """How sequences are continued; which, and by whom, the inputs say.

    Attributes:
        prompt_tokens: that are kept of each.
        decoding: how the next token is chosen; with a seed, where it is drawn.
        max_sequence_tokens: how long a sequence gets; the longest that there are, which are an input.
        sequences: the key of the packed sequences, for plans.
        amounts: what selections keep of them, one after the other, for plans.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens", "sequences", "amounts"})

    prompt_tokens: int
    decoding: Decoding
    max_sequence_tokens: int
    sequences: str
    amounts: tuple[Amount, ...]


def _nodes(blueprint: Blueprint) -> Iterator[Node[Continuing]]:
    experiment = blueprint.experiment
    for name, generation in experiment.generations.items():
        tokenizer = experiment.teachers[generation.teacher].tokenizer
        selection = generation.selection
        continued = (
            {SEQUENCES.name: sequences_key(tokenizer)}
            if selection is None
            else {REFINED_CORPUS: key_of(REFINED_CORPUS, selection)}
        )
        yield Node(
            kind=GENERATED_CORPUS,
            names=(name,),
            inputs={
                MODEL: model_key("teacher", generation.teacher),
                TOKENIZER.name: tokenizer_key(tokenizer),
                **continued,
            },
            settings=Continuing(
                prompt_tokens=generation.num_prompt_tokens(experiment.sequences.sequence_length),
                decoding=_decoding(experiment, generation),
                max_sequence_tokens=experiment.sequences.sequence_length + 1,
                sequences=sequences_key(tokenizer),
                amounts=() if selection is None else tuple(amounts_of(experiment, selection)),
            ),
        )


def _decoding(experiment: Experiment, generation: Generation) -> Decoding:
    """Return how a corpus is continued, with the seed that tokens are drawn with; none where nothing is drawn."""
    sampling = generation.sampling
    if sampling.do_sample and sampling.seed is None:
        sampling = sampling.model_copy(update={"seed": experiment.seed})
    return generation.decoding.model_copy(update={"sampling": sampling})


def _make(work: Work[Continuing]) -> Result:
    """Continue the sequences of each corpus file."""
    return made_on_devices(work, work.settings.decoding.scoring, partial(_generate, work))


def _generate(work: Work[Continuing]) -> Result:
    settings, decoding = work.settings, work.settings.decoding
    tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())
    sequences_of = _sequences_of(work)
    settings_of_model = GeneratorSettings(
        model_folder=work.input(MODEL).verified_folder(),
        named=work.node.inputs[MODEL],
        decoding=decoding,
        end_of_document_id=tokenizer.end_of_document_id,
        begin_of_sequence_id=begin_of_sequence_id(work, MODEL, decoding.scoring),
        vocab_size=tokenizer.vocab_size,
        max_sequence_tokens=settings.max_sequence_tokens,
    )
    with opened(work, settings_of_model, settings_of_model.open_generator) as generator, pass_curves(work) as curves:
        device_time = DeviceTime(generator.num_devices)

        def begin(shard: str, draft: Draft) -> ShardInTheMaking:
            continued = ShardGeneration(
                sequences_of(shard),
                shard=shard,
                prompt_tokens=settings.prompt_tokens,
                generator=generator,
                decode=tokenizer.decode,
                end_of_document_id=tokenizer.end_of_document_id,
                device_time=device_time,
                sequences_per_part=decoding.sequences_per_part,
                sequences_per_block=block_of(decoding),
                work=draft.work,
                target=draft.path / TABLE,
                report=work.report,
            )
            return ShardInTheMaking(continued, draft, decoding.tensor_parallel_size, curves)

        with PartThreads(generator.num_devices) as threads:
            return work.make_in_parts(begin, threads)


def _sequences_of(work: Work[Continuing]) -> Callable[[str], pl.LazyFrame]:
    """Return what gives the sequences of a corpus file that are continued."""
    if REFINED_CORPUS in work.node.inputs:
        refined = pl.scan_parquet(work.input_tables(REFINED_CORPUS), glob=False)
        return lambda shard: refined.filter(pl.col("shard") == shard)
    packed = work.input_pieces(SEQUENCES.name)
    return lambda shard: pl.scan_parquet(packed[shard].file(SEQUENCES.table or ""), glob=False).filter(
        pl.col("split") == CANDIDATE
    )


def _cost(node: Node[Continuing], sizes: Sizes, shards: Collection[str] | None) -> Cost:
    """Return what continuing takes: a pass over every token, read or written, since what was read is remembered.

    No seconds follow from it: a token that is written takes many times as long as one that is read.
    """
    settings = node.settings
    everything = sizes.tokens_per_split(settings.sequences)
    wanted = sizes.tokens_per_split(settings.sequences, shards)
    if everything is None or wanted is None:
        return Cost()
    share = num_kept_tokens(everything[CANDIDATE], settings.amounts) / max(1, everything[CANDIDATE])
    num_tokens = round(share * wanted[CANDIDATE])
    num_parameters = num_parameters_of(sizes.input_node(node, MODEL), sizes)
    return Cost(
        num_tokens=num_tokens,
        flops=None if num_parameters is None else scoring_flops(num_parameters, num_tokens),
        num_bytes=num_tokens * BYTES_PER_TOKEN,
    )


def _spent_flops(facts: Mapping[str, Any], num_parameters: int | None) -> int | None:
    return None if num_parameters is None else scoring_flops(num_parameters, facts["num_tokens"])


def _problems(node: Node[Continuing], sizes: Sizes) -> Iterator[str]:
    """Say why a teacher that is here already cannot write sequences of the full length, if it cannot."""
    model = sizes.input_node(node, MODEL)
    folder = None if hasattr(model.settings, "architecture") else sizes.folder_of(model)
    if folder is None:  # one that is trained here says so itself, one that is fetched as soon as it is there
        return
    try:
        check_model_length(folder, node.settings.max_sequence_tokens, node.inputs[MODEL])
    except ModelError as error:
        yield str(error)


GENERATED_CORPUS = Kind(
    name="generated_corpus",
    code_version="1",
    section="generation",
    technologies=frozenset({"pytorch", "parquet"}),
    needs_ray=lambda settings: settings.decoding.engine == "ray",
    num_devices=lambda settings: num_devices_here(settings.decoding),
    description="""One row for each sequence that a teacher has continued: its first tokens, and what the teacher wrote.

The teacher goes on to the end of the document or to the full length of a sequence. A sequence with no more tokens than
a prompt is a prompt as a whole; one whose prompt ends a document stays as it is.""",
    nodes=_nodes,
    make=_make,
    page=generated_page,
    pieces="shard",
    table=TABLE,
    is_view=True,
    cost=_cost,
    spent_flops=_spent_flops,
    problems=_problems,
    columns={
        "sequence_id": "of the sequence whose beginning it is",
        "shard": "the corpus file",
        "domain": "of the sequence",
        "num_tokens": "length in tokens",
        "num_prompt_tokens": "the first tokens, which are the sequence's own",
        "is_ended": "whether the teacher ended the document; else it wrote to the full length, or nothing",
        "token_ids": "the tokens",
        "continuation": "the text of what the teacher wrote",
    },
)
