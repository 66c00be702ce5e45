"""The fingerprint from JSON that is spelled by hand. What moves it is told in test_store and test_identity."""

import hashlib
import math
from pathlib import Path

import pytest

from miniplm_assets.core.recipe import Recipe, canonical_json, fingerprint_of, key_of

SPELLED = (
    '{"code_version":"2","inputs":{"model":"ab","sequences":"cd"},"kind":"teacher_scores",'
    '"settings":{"dtype":"float32","名":0.1},"shard":"a b.jsonl"}'
)
RECIPE = Recipe(
    kind="teacher_scores",
    names=("large",),
    code_version="2",
    settings={"名": 0.1, "dtype": "float32"},
    inputs={"sequences": "cd", "model": "ab"},
    shard="a b.jsonl",
)


def test_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": {"d": "ö", "c": '"'}}) == (
        '{"a":{"c":"\\"","d":"ö"},"b":[1,2.5,null,true]}'
    )
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"a": number})
    for value in (Path("a"), {1, 2}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            canonical_json(value)


def test_a_fingerprint_is_half_of_a_sha256() -> None:
    # of the empty object, as sha256sum prints it
    assert fingerprint_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"[:32]
    assert RECIPE.fingerprint == hashlib.sha256(SPELLED.encode()).hexdigest()[:32]
    assert fingerprint_of("数据") == hashlib.sha256(b'"\xe6\x95\xb0\xe6\x8d\xae"').hexdigest()[:32]


def test_a_key_ends_with_the_kind() -> None:
    assert key_of("comparison") == "comparison"
    assert key_of("refined_sequences", "half", "llama") == "half/llama/refined_sequences"
    assert RECIPE.key == "large/teacher_scores"


def test_messages_name_the_shard_where_there_is_one() -> None:
    assert RECIPE.describe() == "large/teacher_scores (shard a b.jsonl)"
    assert Recipe(kind="comparison", code_version="1").describe() == "comparison"
