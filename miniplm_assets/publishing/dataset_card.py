"""The card of a refined corpus, by the hub's own card classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from miniplm_assets.publishing.licence import licence_section
from miniplm_assets.publishing.markdown import MAX_SHOWN_DOMAINS, plain, table
from miniplm_assets.publishing.provenance import Published, made_section, method_section

DATA: Final = "data"
# What the hub has names for: fewer rows than the number, and the name.
SIZES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
LARGEST: Final = "n>1T"


@dataclass(frozen=True, kw_only=True)
class PublishedCorpus(Published):
    """A refined corpus as its card shows it.

    Attributes:
        columns: what each column holds, by name.
        domain_shift: domain, share_of_candidate_tokens, share_of_kept_tokens of each domain.
    """

    columns: Mapping[str, str]
    domain_shift: Sequence[Mapping[str, Any]]

    @property
    def num_rows(self) -> int:
        """Sequences in all files."""
        return sum(file.num_rows or 0 for file in self.provenance.files)


def published_files(names: Sequence[str]) -> dict[str, str]:
    """Return the names of a data set's files by those of the stored ones: as the hub has them, and safe in any URL.

    A file's own name may hold anything: `datasets` would take one with "test" in it for another split.
    """
    return {
        name: str(PurePosixPath(DATA) / f"train-{place:05d}-of-{len(names):05d}.parquet")
        for place, name in enumerate(names)
    }


def dataset_card(corpus: PublishedCorpus) -> str:
    """Return the README.md of a refined corpus's repository."""
    from huggingface_hub import DatasetCard, DatasetCardData

    metadata = DatasetCardData(
        pretty_name=corpus.name,
        license=corpus.license_id,
        tags=list(corpus.tags),
        task_categories=["text-generation"],
        size_categories=[size_category(corpus.num_rows)],
        source_datasets=None if corpus.corpus_id is None else [f"extended|{corpus.corpus_id}"],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": f"{DATA}/*.parquet"}]},
        ],
    )
    columns = [(f"`{name}`", plain(words)) for name, words in corpus.columns.items()]
    shares = [
        (plain(row["domain"]), _share(row["share_of_candidate_tokens"]), _share(row["share_of_kept_tokens"]))
        for row in corpus.domain_shift[:MAX_SHOWN_DOMAINS]
    ]
    num_left = len(corpus.domain_shift) - len(shares)
    more = f"\n\n{num_left:,} more, of which less was kept, are not shown." if num_left else ""
    sections = [
        f"# {plain(corpus.name)}\n\n{corpus.summary}",
        _usage(corpus),
        f"## Columns\n\n{table(['column', 'what it holds'], columns)}",
        f"## Domains\n\n{table(['domain', 'of the candidate tokens', 'of the kept tokens'], shares)}{more}",
        made_section(corpus.made),
        *([method_section()] if corpus.is_by_difference else []),
        licence_section(corpus.license_id),
        corpus.provenance.to_markdown(),
    ]
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def size_category(num_rows: int) -> str:
    """Return the hub's name for a number of rows."""
    return next((name for below, name in SIZES if num_rows < below), LARGEST)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _usage(corpus: PublishedCorpus) -> str:
    return f"""## Use

```python
from datasets import load_dataset

sequences = load_dataset("{corpus.repository or "path/to/this/folder"}", split="train")
print("".join(sequences[0]["texts"]))
```

A row is a sequence as it was scored and kept: `token_ids` is what a student is given, `texts` the text of each
document, or part of one, in it. There is a file for each corpus file."""
