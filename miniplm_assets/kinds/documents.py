"""`documents`: the texts of each corpus file, read, checked and split."""

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Final

from miniplm_assets.core.facts import SEEN_IN_FILES, counts_in_words
from miniplm_assets.core.identity import first_id
from miniplm_assets.corpus.decontaminator import Decontaminator
from miniplm_assets.corpus.documents import write_documents
from miniplm_assets.corpus.duplicates import KeptDocuments
from miniplm_assets.corpus.hashes import Hashes
from miniplm_assets.corpus.looks import LooksFiles, find_twins, look_at_documents
from miniplm_assets.experiment import Cleaning, DemoSource, DocumentFields, Processing, Source, Splits
from miniplm_assets.experiment.cleaning import EVERY_LANGUAGE
from miniplm_assets.experiment.decontamination import Runs
from miniplm_assets.experiment.settings import Settings, nearest
from miniplm_assets.kinds.protected_ngrams import open_protected, protected_by
from miniplm_assets.lineage.crew import Crew, Task, open_crew
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Blueprint, Check, Kind, Node
from miniplm_assets.lineage.side_by_side import Steps, make_side_by_side
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage import tables
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

# What fits on a page.
MAX_SHOWN: Final = 100
# What one process has read by the time that others would have been of use: they take a second and more to start
# (docs/benchmarks.md, Read). Of languages, or texts that are alike, that is less.
LITTLE_BYTES: Final = 128 << 20
LITTLE_BYTES_TO_LOOK_AT: Final = 8 << 20
DOMAIN_FIELD_IS_FOUND = Check(
    "domain_field_is_found",
    "A failure names files of which no row has corpus.fields.domain_field; it stops the run where no file has it.",
)
EXCLUDED_DOMAINS_ARE_FOUND = Check(
    "excluded_domains_are_found", "A failure names evaluation.excluded_domains that no document is of."
)
NAMED_LANGUAGES_ARE_FOUND = Check(
    "named_languages_are_found",
    "A failure names corpus.cleaning.languages that no document is in; it stops the run where none of them is found.",
)
FEW_ROWS_ARE_REJECTED = Check(
    "few_rows_are_rejected",
    "A failure means that more rows than corpus.max_rejected_share are no documents; rejected.parquet has them.",
    is_blocking=False,
)


class Reading(Settings):
    """How the rows of a corpus file become documents.

    What is rejected, or named and not found, is held against two more settings in every run; no document depends on
    them.

    Attributes:
        source: where the files are. Their content is an input; of the source only the format counts.
        format: of the files.
        fields: which of a row's are read.
        cleaning: which documents are dropped.
        decontamination: which are dropped for words that they share with what models are measured by, if any are.
        processing: where, and how many files at once.
        splits: shares of the documents.
        seed: of the split.
        max_rejected_share: of the rows; more is a warning.
        excluded_domains: that must be there.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"source", "processing"})
    reporting_only: ClassVar[frozenset[str]] = frozenset({"max_rejected_share", "excluded_domains"})

    source: Source
    format: str
    fields: DocumentFields
    splits: Splits
    seed: int
    max_rejected_share: float
    excluded_domains: tuple[str, ...]
    cleaning: Cleaning = Cleaning()
    decontamination: Runs | None = None
    processing: Processing = Processing()


def _nodes(blueprint: Blueprint) -> Iterator[Node[Reading]]:
    corpus = blueprint.experiment.corpus
    removed = corpus.decontamination if corpus.decontamination and corpus.decontamination.removes else None
    yield Node(
        kind=DOCUMENTS,
        inputs={RAW_CORPUS: RAW_CORPUS} | protected_by(removed),
        settings=Reading(
            source=corpus.source,
            format="jsonl" if isinstance(corpus.source, DemoSource) else corpus.source.type,
            fields=corpus.fields,
            splits=corpus.splits,
            seed=blueprint.experiment.seed,
            max_rejected_share=corpus.max_rejected_share,
            excluded_domains=blueprint.experiment.evaluation.excluded_domains,
            cleaning=corpus.cleaning,
            decontamination=removed and removed.runs,
            processing=blueprint.experiment.processing,
        ),
        reads_earlier_pieces=corpus.cleaning.drops_duplicates or bool(removed and removed.runs.against_validation),
    )


def _make(work: Work[Reading]) -> Result:
    """Read, check, clean and split the documents of each corpus file."""
    settings = work.settings
    observed = {shard.name: shard for shard in work.run.snapshot().shards}
    earlier = _Earlier(work)

    def task_of(shard: str, draft: Draft, **more: Any) -> Task:
        return partial(
            write_documents,
            observed[shard],
            source=settings.source,
            fields=settings.fields,
            shares=settings.splits.shares,
            seed=settings.seed,
            shard_fingerprint=draft.recipe.fingerprint,
            folder=draft.path,
            cleaning=settings.cleaning,
            decontaminator=earlier.decontaminator,
            **more,
        )

    def write(shard: str, draft: Draft) -> None:
        earlier.go_to(shard)
        draft.facts = task_of(shard, draft, kept=earlier.kept)(report=work.report)

    def steps_of(shard: str, draft: Draft, num_parts: int) -> Steps:
        if earlier.kept is None and num_parts == 1:
            return Steps(task_of(shard, draft))
        files = LooksFiles(folder=draft.work, cleaning=settings.cleaning, num_parts=num_parts)

        def then() -> Task:
            if earlier.kept is not None:
                earlier.go_to(shard)
                find_twins(files, earlier.kept, first_document_id=first_id(draft.recipe.fingerprint))
            return task_of(shard, draft, looked_at=files)

        look = partial(look_at_documents, observed[shard], source=settings.source, fields=settings.fields, files=files)
        return Steps([partial(look, part=part) for part in range(num_parts)], then)

    def finish(draft: Draft) -> None:
        pieces = work.tally.pieces
        draft.facts[SEEN_IN_FILES] = _seen_in({shard: pieces[shard].facts for shard in work.piece_recipes})

    if (crew := _crew(work)) is None:
        whole = work.make_pieces(write, finish)
    else:
        parts = crew.parts  # of what was missing when it was asked
        whole = make_side_by_side(work, lambda shard, draft: steps_of(shard, draft, parts.get(shard, 1)), crew, finish)
    work.tally.checks.extend(_checks(work, whole))
    return whole


def _checks(work: Work[Reading], whole: Result) -> Iterator[CheckOutcome]:
    """Hold what was read against limits that no document depends on, in every run."""
    settings, store = work.settings, work.pipeline.store
    facts = dict(whole.facts)
    if SEEN_IN_FILES not in facts:  # made before it was noted
        pieces = {shard: store.require(recipe).facts for shard, recipe in work.piece_recipes.items()}
        facts[SEEN_IN_FILES] = _seen_in(pieces)
    yield _domain_field_is_found(settings.fields.domain_field, facts)
    yield _excluded_domains_are_found(settings.excluded_domains, facts)
    yield _named_languages_are_found(settings.cleaning.languages, facts)
    yield _few_rows_are_rejected(settings.max_rejected_share, facts)


def _seen_in(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the checks ask of all corpus files, from the facts of each: nothing that could be added up."""
    with_documents = {shard: facts for shard, facts in files.items() if facts["num_documents"]}
    without_domain = {
        shard: facts["keys"]
        for shard, facts in with_documents.items()
        if facts["num_without_domain"] == facts["num_documents"]
    }
    return {
        "domains": sorted({domain for facts in files.values() for domain in facts["domains"]}),
        "num_with_documents": len(with_documents),
        "num_without_domain": len(without_domain),
        "keys_without_domain": dict(islice(without_domain.items(), MAX_SHOWN)),
        "most_rejected": max(files, key=lambda shard: files[shard]["num_rejected"]),
    }


def _crew(work: Work[Reading]) -> Crew | None:
    """Return who reads the files that are missing; None where this process does."""
    cleaning, removed = work.settings.cleaning, work.settings.decontamination
    if removed is not None and work.node.reads_earlier_pieces:
        return None  # which documents are dropped rests on the texts of all files before
    observed = {shard.name: shard for shard in work.run.snapshot().shards}
    takes_long = bool(cleaning.names_languages or cleaning.alike)
    return open_crew(
        work,
        work.settings.processing,
        num_bytes=lambda shard: observed[shard].num_bytes,
        little_bytes=LITTLE_BYTES_TO_LOOK_AT if takes_long else LITTLE_BYTES,
        is_parted=takes_long,
    )


class _Earlier:
    """What is known of the corpus files before one: as this run found them, or as they are stored.

    Attributes:
        kept: the documents that stay of them, which those of the file itself are added to; None where duplicates stay.
        decontaminator: protects their validation split and the texts of files; None where nothing is dropped.
    """

    def __init__(self, work: Work[Reading]) -> None:
        settings = work.settings
        self._work = work
        self._shards = deque(sorted(work.piece_recipes))
        self.kept = KeptDocuments(settings.cleaning.alike) if settings.cleaning.drops_duplicates else None
        self.decontaminator: Decontaminator | None = None
        if settings.decontamination is not None:
            self.decontaminator = open_protected(work, settings.decontamination)

    def go_to(self, shard: str) -> None:
        """Read what is stored of the corpus files before one, from the last one that was asked for."""
        while self._work.node.reads_earlier_pieces and (earlier := self._shards.popleft()) != shard:
            recipe = self._work.piece_recipes[earlier]
            self._work.run.stop.look()
            stored = self._work.pipeline.store.require(recipe)
            if self.kept is not None:
                self.kept.begin_shard(first_id(recipe.fingerprint))
                self.kept.add(Hashes.read(stored.file(tables.HASHES), self.kept.near))
            if self.decontaminator is not None:
                self.decontaminator.protected.read(stored.file(tables.VALIDATION_NGRAMS))


def _domain_field_is_found(field: str | None, facts: Mapping[str, Any]) -> CheckOutcome:
    """Fail where no document of a file has a domain: an error where none of the corpus has, else a warning."""
    seen = facts[SEEN_IN_FILES]
    num_without = seen["num_without_domain"]
    named = "\n".join(f"{shard}: {nearest(str(field), keys)}" for shard, keys in seen["keys_without_domain"].items())
    return CheckOutcome(
        name=DOMAIN_FIELD_IS_FOUND.name,
        passed=not num_without,
        is_warning=num_without < seen["num_with_documents"],
        description=f"no row of these files has corpus.fields.domain_field {field}:\n{named}" if num_without else "",
        facts={"num_files_without": num_without},
    )


def _excluded_domains_are_found(excluded: tuple[str, ...], facts: Mapping[str, Any]) -> CheckOutcome:
    domains = set(facts[SEEN_IN_FILES]["domains"])
    unknown = [domain for domain in excluded if domain not in domains]
    named = "\n".join(f"{domain}: {nearest(domain, sorted(domains)[:MAX_SHOWN])}" for domain in unknown)
    return CheckOutcome(
        name=EXCLUDED_DOMAINS_ARE_FOUND.name,
        passed=not unknown,
        description=f"no document is of these evaluation.excluded_domains:\n{named}" if unknown else "",
        facts={"num_domains": len(domains)},
    )


def _named_languages_are_found(languages: tuple[str, ...], facts: Mapping[str, Any]) -> CheckOutcome:
    named = set(languages) - set(EVERY_LANGUAGE)
    missing = sorted(code for code in named if not facts["documents_per_language"].get(code))
    others = counts_in_words(facts["dropped_per_language"]) if named else ""
    return CheckOutcome(
        name=NAMED_LANGUAGES_ARE_FOUND.name,
        passed=not missing,
        is_warning=len(missing) < len(named),
        description=f"no document is in {', '.join(missing)}; dropped of others: {others}" if missing else "",
        facts={"num_languages_without": len(missing)},
    )


def _few_rows_are_rejected(max_share: float, facts: Mapping[str, Any]) -> CheckOutcome:
    num_rejected = facts["num_rejected"]
    share = num_rejected / max(1, num_rejected + facts["num_documents"])
    reasons = counts_in_words(facts["rejected_per_reason"])
    return CheckOutcome(
        name=FEW_ROWS_ARE_REJECTED.name,
        passed=share <= max_share,
        description=f"{num_rejected:,} rows, {share:.2%} of all, are no documents ({reasons}), most of them in "
        f"{facts[SEEN_IN_FILES]['most_rejected']}; corpus.max_rejected_share is {max_share:.2%}"
        if share > max_share
        else "",
        facts={"rejected_share": share},
    )


DOCUMENTS = Kind(
    name="documents",
    code_version="2",
    section="corpus",
    technologies=frozenset({"parquet"}),
    description="""One row for each document: its text, its domain, and its split, which the text alone decides.

Rows that are no document (not JSON, no text, not UTF-8, empty, too long) lie in `rejected.parquet` beside them, each
with its file, line and reason. So do those that `corpus.cleaning` drops: a duplicate with the id of its twin, others
with their language. And those that `corpus.decontamination` removes; `contaminated_documents` says why.""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    needs_ray=lambda settings: settings.processing.engine == "ray",
    table=tables.DOCUMENTS,
    is_view=True,
    checks=(DOMAIN_FIELD_IS_FOUND, EXCLUDED_DOMAINS_ARE_FOUND, NAMED_LANGUAGES_ARE_FOUND, FEW_ROWS_ARE_REJECTED),
    columns={
        "document_id": "unique over the corpus",
        "shard": "the corpus file",
        "line": "line or row in the file, from 1",
        "domain": "where the text comes from",
        "split": "candidate, reference, validation or teacher; equal texts are in the same one",
        "text": "the whole text",
        "num_bytes": "of the text in UTF-8",
        "language": "its code, where corpus.cleaning.languages asks for it",
    },
)
