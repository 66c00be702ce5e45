"""Croissant 1.0: what a data set holds, in JSON-LD that machines read (https://docs.mlcommons.org/croissant)."""

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from miniplm_assets.core.errors import PublishingError
from miniplm_assets.publishing.dataset_card import DATA, PublishedCorpus

CROISSANT: Final = "croissant.json"
PARQUET: Final = "application/x-parquet"
RECORDS: Final = "sequences"
_FILES: Final = "parquet-files"
_TERMS: Final = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
# As the specification has it: readers warn of any other.
CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}


def croissant(corpus: PublishedCorpus, schema: pa.Schema) -> dict[str, Any]:
    """Return the description of a refined corpus as a JSON value.

    Args:
        corpus: its files lie below the description, under their names.
        schema: that all of them have.

    Raises:
        PublishingError: if a column is of a type that has no name in Croissant.
    """
    known = {
        "license": corpus.license_id,
        "url": None if corpus.repository is None else f"https://huggingface.co/datasets/{corpus.repository}",
    }
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": corpus.name,
        "description": f"{corpus.summary} Fingerprint {corpus.provenance.fingerprint}.",
        "version": "1.0.0",
        "datePublished": corpus.provenance.created_at,
        "keywords": list(corpus.tags),
        **{name: value for name, value in known.items() if value is not None},
        "distribution": [*_files(corpus), _file_set()],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORDS,
                "name": RECORDS,
                "description": "One record for each kept sequence.",
                "key": {"@id": f"{RECORDS}/sequence_id"},
                "field": [_column(field, corpus.columns.get(field.name, "")) for field in schema],
            }
        ],
    }


def _files(corpus: PublishedCorpus) -> Iterator[dict[str, Any]]:
    for file in corpus.provenance.files:
        yield {
            "@type": "cr:FileObject",
            "@id": file.name,
            "name": file.name,
            "contentUrl": file.name,
            "contentSize": f"{file.num_bytes} B",
            "encodingFormat": PARQUET,
            "sha256": file.sha256,
        }


def _file_set() -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": _FILES,
        "name": _FILES,
        "description": "All of the files: one for each corpus file.",
        "encodingFormat": PARQUET,
        "includes": f"{DATA}/*.parquet",
    }


def _column(field: pa.Field, description: str) -> dict[str, Any]:
    is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    inner = field.type.value_type if is_list else field.type
    entry: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{RECORDS}/{field.name}",
        "name": field.name,
        "description": description,
        **({"repeated": True} if is_list else {}),
    }
    if pa.types.is_struct(inner):
        return entry | {"subField": [_part(field.name, part) for part in inner]}
    return entry | {"dataType": _type_of(inner, field.name), "source": _source(field.name)}


def _part(column: str, part: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{RECORDS}/{column}/{part.name}",
        "name": part.name,
        "dataType": _type_of(part.type, f"{column}.{part.name}"),
        "source": _source(column) | {"transform": {"jsonPath": part.name}},
    }


def _source(column: str) -> dict[str, Any]:
    return {"fileSet": {"@id": _FILES}, "extract": {"column": column}}


def _type_of(found: pa.DataType, column: str) -> str:
    if pa.types.is_boolean(found):
        return "sc:Boolean"
    if pa.types.is_integer(found):
        return "sc:Integer"
    if pa.types.is_floating(found):
        return "sc:Float"
    if pa.types.is_string(found) or pa.types.is_large_string(found):
        return "sc:Text"
    raise PublishingError(
        f"column {column} is of type {found}, which has no name in Croissant; expected a number, a text, a boolean, or "
        "a list or structure of those"
    )
