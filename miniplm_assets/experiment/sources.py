"""Where the raw text comes from, and which of its fields are read."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from miniplm_assets.experiment.settings import Settings

CommitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a full commit hash: a branch would move")]


class DemoSource(Settings):
    """Real text that every machine with Python has, made from the running interpreter's own library."""

    type: Literal["demo"]
    num_shards: int = Field(4, ge=1, description="corpus files to write")
    megabytes: float = Field(8.0, gt=0, description="size of the whole corpus, in 10^6 bytes of text")
    noise_share: float = Field(0.33, ge=0, lt=1, description="share of the bytes that are noise")
    boilerplate_share: float = Field(0.07, ge=0, lt=1, description="share of the bytes that are repeated boilerplate")


class JsonlSource(Settings):
    """JSON objects, one a line; .gz and .zst are decompressed."""

    type: Literal["jsonl"]
    path: str = Field(description="a file, a folder or a glob pattern; local or any fsspec URL")


class ParquetSource(Settings):
    """Parquet files, one document in each row."""

    type: Literal["parquet"]
    path: str = Field(description="a file, a folder or a glob pattern; local or any fsspec URL")


class TextSource(Settings):
    """A folder of text files, one document in each file; each sub-folder is a shard and a domain."""

    type: Literal["text"]
    path: str = Field(description="a folder; local or any fsspec URL")
    pattern: str = Field("*.txt", description="which files of a folder are documents")


class HuggingFaceSource(Settings):
    """Files of a data set on the Hugging Face hub, at a pinned revision."""

    type: Literal["huggingface"]
    id: str = Field(description="for example monology/pile-uncopyrighted")
    revision: CommitHash
    files: str = Field(description="glob pattern of its .jsonl, .jsonl.gz, .jsonl.zst or .parquet files")


Source = Annotated[
    DemoSource | JsonlSource | ParquetSource | TextSource | HuggingFaceSource, Field(discriminator="type")
]


class DocumentFields(Settings):
    """Which fields of a row are read. A dot goes into nested fields: meta.pile_set_name."""

    text_field: str = Field("text", description="the text of a document")
    domain_field: str | None = Field(None, description="absent: the name of the file's folder is the domain")
    max_document_bytes: int = Field(
        10_000_000, ge=1, description="longer documents are rejected: no page or book is longer, broken dumps are"
    )


class EvaluationText(Settings):
    """Text beside the corpus that students are measured on. Its content counts, not its place."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str = Field(description="a local file or folder: .jsonl (.gz, .zst), .parquet, or .txt, a document in each")
    fields: DocumentFields = DocumentFields()
