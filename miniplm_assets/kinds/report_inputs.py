"""The inputs of the report: whatever was made before it, each by its key."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import polars as pl

from miniplm_assets.evaluation.report.blocks import Picture, Source, Table
from miniplm_assets.evaluation.report.charts import stored_picture
from miniplm_assets.evaluation.report.numbers import MAX_ROWS, any_table
from miniplm_assets.evaluation.report.provenance import Made, Spoken
from miniplm_assets.lineage.kind import ALL_FILES, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

# Settings that say how something was computed, wherever they stand among those of an asset.
COMPUTED_AS: Final = ("backend", "dtype")
# Of an asset that the report knows nothing of.
MAX_PICTURES: Final = 4
# What took less, of all of one kind together, is not worth telling.
MIN_SECONDS: Final = 3.0


class Inputs:
    """What is stored of every asset before the report.

    Args:
        work: the report.

    Attributes:
        assets: each by its key, inputs before what needs them.
    """

    def __init__(self, work: Work[Any]) -> None:
        self._work = work
        self.assets: Mapping[str, Node[Any]] = {key: work.input_node(key) for key in work.node.inputs}

    def __contains__(self, key: str) -> bool:
        """Say whether there is such an asset before the report."""
        return key in self.assets

    def kind(self, key: str) -> str:
        """Return the name of an asset's kind."""
        return self.assets[key].kind.name

    def section(self, key: str) -> str:
        """Return what the experiment file names an asset after."""
        return self.assets[key].kind.section

    def facts(self, key: str) -> Mapping[str, Any]:
        """Return what an asset reports of itself."""
        return self._work.input(key).facts

    def source(self, key: str) -> Source:
        """Return the name of an asset's result."""
        return Source(key, self._work.fingerprints.recipe(key).fingerprint)

    def table(self, key: str, pattern: str = ALL_FILES) -> pl.DataFrame:
        """Return a table of a whole asset."""
        return pl.concat(pl.read_parquet(path, glob=False) for path in self._work.input(key).matching(pattern))

    def tables(self, key: str, *, beside: Collection[str] = (), is_folded: bool = True) -> list[Table]:
        """Return the small tables of an asset as they are stored; those of its seeds as one.

        Args:
            key: of the asset.
            beside: files that are left out.
            is_folded: whether they are unfolded by the reader alone.
        """
        kind = self.assets[key].kind
        if kind.table is None or kind.pieces == "shard":
            return []
        files: dict[str, list[pl.DataFrame]] = {}
        for seed, result in self._results(key).items():
            for file in result.described(kind.table):
                if file.name in beside or file.num_rows is None or file.num_rows > MAX_ROWS:
                    continue
                frame = pl.read_parquet(result.file(file.name), glob=False)
                files.setdefault(file.name, []).append(
                    frame.select(pl.lit(int(seed)).alias("seed"), pl.all()) if seed else frame
                )
        return [self._shown(key, kind, name, pl.concat(frames), is_folded) for name, frames in files.items()]

    def pictures(self, key: str) -> list[Picture]:
        """Return the pictures of an asset as they are stored; of one in pieces, none."""
        if self.assets[key].kind.pieces is not None:
            return []
        result = self._work.input(key)
        return [
            Picture(
                caption=f"{key}: {name.removesuffix('.png').replace('_', ' ')}",
                svg=stored_picture(result.file(name).read_bytes(), title=name),
                sources=[self.source(key)],
            )
            for name in [file.name for file in result.described("*.png")][:MAX_PICTURES]
        ]

    def accuracies(self, key: str) -> dict[str, float]:
        """Return what a student scores on each task by the metric to look at first, the mean over its seeds."""
        table = self.assets[key].kind.table or ""
        files = [path for result in self._results(key).values() for path in result.matching(table)]
        rows = pl.concat(pl.read_parquet(path, glob=False) for path in files).filter("is_primary")
        return dict(rows.group_by("task").agg(pl.col("value").mean()).iter_rows())

    def _shown(self, key: str, kind: Kind[Any], name: str, frame: pl.DataFrame, is_folded: bool) -> Table:
        summary = " ".join(kind.description.partition("\n\n")[0].split())
        what = name.removesuffix(".parquet").replace("_", " ")
        thing = f"{self.assets[key].names[0]}: " if self.assets[key].names else ""
        return any_table(
            frame,
            caption=f"{thing}{what}",
            note=summary if summary.endswith(".") else f"{summary}.",
            about=kind.columns,
            sources=[self.source(key)],
            left_out=[column for column in frame.columns if column.endswith("_id")],
            is_folded=is_folded,
        )

    def _results(self, key: str) -> Mapping[str, Result]:
        """Return what is stored of an asset: of each of its pieces, or of the whole, which has no name."""
        if self.assets[key].kind.pieces is None:
            return {"": self._work.input(key)}
        return self._work.input_pieces(key)

    def found(self, key: str) -> list[str]:
        """Return what the checks of an asset found, in words."""
        return [f"{check.description}." for check in self._work.input(key).manifest.checks if check.description]

    def checks(self) -> list[Spoken]:
        """Return how the checks ended that are stored with a result."""
        return [
            Spoken(
                asset=key,
                check=outcome.name,
                passed=outcome.passed,
                stops=check.is_blocking and not outcome.is_warning,
                found=outcome.description,
                means=check.description,
            )
            for key in self.assets
            for outcome in self._work.input(key).manifest.checks
            for check in self.assets[key].kind.checks
            if check.name == outcome.name
        ]

    def made(self) -> list[Made]:
        """Return how each result came about."""
        return [self._made(key) for key in self.assets]

    def seconds(self) -> dict[str, float]:
        """Return what everything took to compute, by what the experiment file names it after."""
        taken: dict[str, float] = {}
        for key in self.assets:
            section = self.section(key)
            taken[section] = taken.get(section, 0.0) + sum(one.manifest.seconds for one in self._results(key).values())
        return {section: seconds for section, seconds in taken.items() if seconds >= MIN_SECONDS}

    def _made(self, key: str) -> Made:
        node, results = self.assets[key], list(self._results(key).values())
        settings = node.settings.model_dump(mode="json")
        versions: dict[str, set[str]] = {}
        for result in results:
            for package, version in result.manifest.versions.items():
                versions.setdefault(package, set()).add(version)
        seed = settings.get("seed")
        return Made(
            source=self.source(key),
            code_version=node.kind.code_version,
            created_at=max(result.manifest.created_at for result in results),
            seconds=sum(result.manifest.seconds for result in results),
            num_bytes=sum(result.manifest.num_bytes for result in results),
            num_pieces=None if node.kind.pieces is None else len(results),
            devices=tuple(sorted({str(one.facts["device"]) for one in results if "device" in one.facts})),
            computed_as=", ".join(dict.fromkeys(_computed_as(settings))),
            seeds=node.seeds or ((seed,) if isinstance(seed, int) else ()),
            versions={package: tuple(sorted(found)) for package, found in versions.items()},
        )


def _computed_as(settings: Any) -> Iterator[str]:
    match settings:
        case dict():
            for name, value in settings.items():
                if name in COMPUTED_AS and isinstance(value, str):
                    yield value
                else:
                    yield from _computed_as(value)
        case list():
            for value in settings:
                yield from _computed_as(value)
