"""What a kind of asset is, and a node of the graph: one asset of some kind, before anything is known of the corpus.

A kind is one file of `kinds/`: which nodes an experiment has of it, the settings that they read, how a result is made,
what its columns, checks and costs are. What is hashed is what is read: the settings of a node give its fingerprint
(`Settings.identity`), and `make` is given the same settings and nothing else of the experiment file.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.lineage.page import Page
from miniplm_assets.lm.device_speed import ModelPass
from miniplm_assets.storage.sql_project import SqlProject

if TYPE_CHECKING:  # both work on nodes
    from miniplm_assets.lineage.sizes import Sizes
    from miniplm_assets.lineage.work import Work
    from miniplm_assets.storage.store import Result

S = TypeVar("S", bound=Settings)
Section = Literal[
    "corpus", "text", "tokenizer", "teacher", "reference", "selection", "generation", "tasks", "student", "reports"
]

EVERY_SHARD: Final = ("*",)
# A table that is all Parquet files of a result.
ALL_FILES: Final = "*.parquet"


@dataclass(frozen=True)
class Check:
    """An asset check, declared before anything runs.

    Attributes:
        name: unique within the asset.
        description: what a failure means.
        is_blocking: whether it stops what comes after; else it warns.
        is_of_columns: whether it looks at columns alone, such as that one is never empty: one of many, shown as one.
    """

    name: str
    description: str
    is_blocking: bool = True
    is_of_columns: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What making an asset's missing results would take; None where unknown, or where there is no such cost.

    Attributes:
        num_tokens: tokens that would go through a model: trained on, or scored.
        flops: floating-point operations of that.
        num_bytes: on the disk.
        passes: all that goes through models, held-out losses along the way too; none where unknown.
        spared_flops: floating-point operations that a setting spares it.
        spared_by: that setting.
    """

    num_tokens: int | None = None
    flops: int | None = None
    num_bytes: int | None = None
    passes: tuple[ModelPass, ...] = ()
    spared_flops: int | None = None
    spared_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[S]):
    """What all assets of one kind have in common.

    Attributes:
        name: the last part of their keys, the name of their table in the catalog and in the SQL.
        code_version: raised whenever `make` would give another result for the same input.
        section: what the experiment file names them after; their group in the UI is `<section>_<name>`.
        name_columns: what its assets are told apart by, where that is more than the name of the section.
        technologies: shown as icons in the UI.
        description: in Markdown; the first line is the summary.
        sql: what makes it, where that is a text to read.
        nodes: the assets of this kind that an experiment has.
        make: makes the result of one asset, unless it is stored.
        pieces: whether there is a stored result for each corpus file or each seed, which the asset's own lists.
        columns: descriptions of the columns of its table.
        column_sources: gives, for a column, the (role of an input, column) pairs that it is computed from.
        checks: its asset checks.
        needs_ray: whether it asks for Ray: for a model, or for its corpus files.
        num_devices: of this machine that a model is trained or run on for it; 0 where none is, or elsewhere.
        table: which files of a result are its table, as a glob pattern; None where it has no table.
        is_view: whether the catalog shows its table from where it is stored; for large ones. Else it is copied in.
        copied_files: of a node with a folder, the files of that folder that are copied.
        cost: what making some pieces of an asset would take: those that are named, or all of it.
        spent_flops: what making a result took before any student was trained, from its facts and the parameters of its
            input `model`, if it has one; None of what took nothing worth telling, or a student's own training.
        problems: says what only a heavy library sees of settings that cannot be made, before anything is.
        outlook: says what a result will be able to tell, before it is paid for.
        page: what its page says of a result; all its facts where absent.
        verify: derives a stored result again by other means and says what differs.
    """

    name: str
    code_version: str
    section: Section
    technologies: frozenset[str]
    description: str
    nodes: "Callable[[Blueprint], Iterable[Node[S]]]"
    make: "Callable[[Work[S]], Result]"
    sql: str = ""
    name_columns: tuple[str, ...] = ()
    pieces: Literal["shard", "seed"] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    column_sources: Callable[[], Mapping[str, Iterable[tuple[str, str]]]] = dict
    checks: tuple[Check, ...] = ()
    needs_ray: Callable[[S], bool] = lambda _settings: False
    num_devices: Callable[[S], int] = lambda _settings: 0
    table: str | None = None
    is_view: bool = False
    copied_files: Callable[[Path], list[Path]] | None = None
    cost: "Callable[[Node[S], Sizes, Collection[str] | None], Cost] | None" = None
    spent_flops: Callable[[Mapping[str, Any], int | None], int | None] | None = None
    problems: "Callable[[Node[S], Sizes], Iterator[str]] | None" = None
    outlook: "Callable[[Node[S], Sizes], Iterator[str]] | None" = None
    page: "Callable[[Work[S], Result], Page] | None" = None
    verify: "Callable[[Work[S]], Iterator[str]] | None" = None

    def table_of(self, result: "Result") -> "Table":
        """Return what a result's manifest says of its table: not of the other files beside it."""
        files = result.described(self.table or "")
        columns = next((file.columns for file in files), {})
        return Table(columns=columns, num_rows=sum(file.num_rows or 0 for file in files))


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table of a result.

    Attributes:
        columns: the type of each column, by name; none where it has no table.
        num_rows: in all of its files.
    """

    columns: Mapping[str, str]
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Node(Generic[S]):
    """One asset.

    Attributes:
        kind: what it is.
        settings: all that it reads of the experiment file.
        names: what the experiment file calls it; none for an asset that there is only one of.
        inputs: the key of each input, by the role that it plays.
        shards: patterns of the corpus files that it reads, where its inputs are by shard.
        reads_earlier_pieces: whether what is made of a corpus file depends on what was made of those whose names come
            before its own.
        seeds: of an asset with a result for each seed.
        folder: a local folder whose content goes into it.
        files: glob patterns of the files of the folder that do; none where its kind says which.
        gates: keys of assets whose checks must pass first, and which are no part of its result.
        owners: who answers for it.
        rank: place of its kind in the registry: of what is ready, the lowest is made first.
    """

    kind: Kind[S]
    settings: S
    names: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    shards: tuple[str, ...] = EVERY_SHARD
    reads_earlier_pieces: bool = False
    seeds: tuple[int, ...] = ()
    folder: Path | None = None
    files: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    rank: int = 0

    @property
    def key(self) -> str:
        """Its asset key, the parts joined by "/"; see `key_of`."""
        return key_of(self.kind.name, *self.names)

    @property
    def group(self) -> str:
        """The box that the UI draws it in: the thing that the experiment file names."""
        return "_".join([self.kind.section, *self.names[:1]])

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of all assets that come before it: inputs and gates."""
        return tuple(dict.fromkeys([*self.inputs.values(), *self.gates]))


@dataclass(frozen=True)
class Blueprint:
    """What the nodes of an experiment follow from.

    Attributes:
        experiment: the file.
        sql: dbt_like_sql.
        nodes: those of the kinds that stand before in the registry.
    """

    experiment: Experiment
    sql: SqlProject
    nodes: "tuple[Node[Any], ...]" = ()
