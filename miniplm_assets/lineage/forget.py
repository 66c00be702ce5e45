"""Doing a result again: it is set aside, and so is what rests on it, until it is known whether that still holds.

A fingerprint says what a result is made of, not what came out; who distrusts what came out (a machine that computed
wrongly) has it made once more, under the same fingerprint.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.kind import EVERY_SHARD
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.manifest import Manifest
from miniplm_assets.storage.set_aside import Aside, Ground, ground_of
from miniplm_assets.storage.store import Result, Store


@dataclass(frozen=True)
class Forgotten:
    """What was set aside.

    Attributes:
        again: what the next run makes anew.
        waiting: the manifests of what rests on that.
    """

    again: list[Recipe]
    waiting: list[Manifest]


def forget(
    pipeline: Pipeline,
    fingerprints: Fingerprints,
    key: str,
    pieces: Collection[str] = (),
    *,
    made_by: str | None = None,
) -> Forgotten:
    """Set results of an asset aside, so that the next run makes them anew, and what rests on them with them.

    The caller has the warehouse for himself; see `leases.unused`.

    Args:
        pipeline: the experiment.
        fingerprints: of its results, on the state of the corpus that is meant.
        key: of the asset.
        pieces: names of corpus files, or seeds; all of it where there are none.
        made_by: a run whose results stay: they are anew already.

    Raises:
        MiniplmError: if there is no such asset or piece, or nothing of it is stored.
    """
    store = pipeline.store
    stored = [(recipe, store.find(recipe)) for recipe in _recipes(fingerprints, key, pieces)]
    again = [(recipe, one) for recipe, one in stored if one is not None and not _is_by(one, made_by)]
    aside = {one.manifest.fingerprint: one for one in store.aside.all()}
    waiting_already = [recipe for recipe, one in stored if one is None and recipe.fingerprint in aside]
    if not again and not waiting_already:
        if any(one is not None for _, one in stored):
            return Forgotten([], [])
        raise MiniplmError(f"nothing is stored of {key}{_named(pieces)}: it is made by the next run in any case")
    grounds = [ground_of(one.manifest) for _, one in again]
    grounds += [ground_of(aside[recipe.fingerprint].manifest) for recipe in waiting_already]
    waiting = _set_dependents_aside(store, fingerprints, grounds, aside.values())
    for recipe in waiting_already:
        store.aside.note(replace(aside[recipe.fingerprint], rests_on=None))
    store.hide(one for _, one in again)
    for _, one in again:
        store.set_aside(one, None)
    return Forgotten([*(recipe for recipe, _ in again), *waiting_already], waiting)


def _recipes(fingerprints: Fingerprints, key: str, pieces: Collection[str]) -> list[Recipe]:
    node = fingerprints.graph.get(key)
    if node is None or key == RAW_CORPUS:
        if key == RAW_CORPUS:
            raise MiniplmError(f"{RAW_CORPUS} is looked at by every run: there is nothing to forget")
        near = get_close_matches(key, fingerprints.graph, n=3)
        raise MiniplmError(f"there is no asset {key}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    if node.kind.pieces is None:
        if pieces:
            raise MiniplmError(f"{key} is one result, not one for each corpus file or seed: name it alone")
        return [fingerprints.recipe(key)]
    recipes = fingerprints.pieces(key)
    unknown = [piece for piece in pieces if piece not in recipes]
    if unknown:
        raise MiniplmError(f"{key} has no {node.kind.pieces} {', '.join(unknown)}; there are {', '.join(recipes)}")
    return [recipes[piece] for piece in pieces or recipes]


def _named(pieces: Collection[str]) -> str:
    return f" ({', '.join(pieces)})" if pieces else ""


def _is_by(result: Result, run: str | None) -> bool:
    return run is not None and result.manifest.made_by.get("run") == run


def _set_dependents_aside(
    store: Store, fingerprints: Fingerprints, grounds: list[Ground], aside: Collection[Aside]
) -> list[Manifest]:
    """Set aside what rests on some results, at whatever distance; what is farthest from them first.

    Of other experiments too: it is read off the manifests of the warehouse.
    """
    stored = list(store.results(on_problem=_raise))
    inputs = {one.manifest.fingerprint: _inputs(one.manifest) for one in stored}
    inputs |= {one.manifest.fingerprint: _inputs(one.manifest) for one in aside}
    affected = _affected({ground.fingerprint for ground in grounds}, inputs | _shares_of_files(fingerprints))
    for one in aside:
        if one.manifest.fingerprint in affected and one.rests_on is not None:
            store.aside.note(replace(one, rests_on=[*one.rests_on, *grounds]))
    waiting = [one for one in stored if one.manifest.fingerprint in affected]
    store.hide(waiting)
    for result in sorted(waiting, key=lambda one: affected[one.manifest.fingerprint], reverse=True):
        store.set_aside(result, grounds)
    return [one.manifest for one in waiting]


def _inputs(manifest: Manifest) -> set[str]:
    return set(manifest.ingredients.get("inputs", {}).values())


def _shares_of_files(fingerprints: Fingerprints) -> dict[str, set[str]]:
    """Return what stands for some corpus files of an asset where another reads no more of it: nothing is stored so."""
    shares = {}
    for node in fingerprints.graph.values():
        if node.shards == EVERY_SHARD or node.kind.pieces is not None:
            continue
        for role, needed in node.inputs.items():
            if fingerprints.graph[needed].kind.pieces == "shard":
                pieces = fingerprints.pieces(needed)
                files = fingerprints.matching_shards(node)
                shares[fingerprints.recipe(node.key).inputs[role]] = {pieces[file].fingerprint for file in files}
    return shares


def _affected(start: Collection[str], inputs: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Return what rests on some results, with its distance from them; without themselves."""
    distances = dict.fromkeys(start, 0)
    for distance in range(1, len(inputs) + 1):
        last = {fingerprint for fingerprint, there in distances.items() if there == distance - 1}
        found = [one for one, those in inputs.items() if one not in distances and last & set(those)]
        if not found:
            break
        distances |= dict.fromkeys(found, distance)
    return {one: distance for one, distance in distances.items() if one not in set(start)}


def _raise(problem: Any) -> None:
    raise MiniplmError(f"{problem}: what rests on a result is read off the manifests, so that none may be damaged")


def in_words(forgotten: Forgotten) -> str:
    """Say what is made anew, and what waits for that."""
    if not forgotten.again:
        return "nothing was set aside: this run has made it anew already"
    lines = [f"{recipe.describe()}: set aside; the next run makes it anew" for recipe in forgotten.again]
    by_key: dict[str, int] = {}
    for manifest in forgotten.waiting:
        by_key[manifest.key] = by_key.get(manifest.key, 0) + 1
    if by_key:
        named = ", ".join(f"{key}{f' ({number})' if number > 1 else ''}" for key, number in sorted(by_key.items()))
        lines.append(
            f"{len(forgotten.waiting):,} results rest on that, and wait: each comes back as it was if the new bytes "
            f"are the same as before, and is made anew if they are not: {named}"
        )
    lines.append("Nothing is deleted before the new one is whole: till then it is set aside, out of sight.")
    return "\n".join(lines)
