"""What a selection would keep with another keep fraction, token budget or quota: from its stored scores, in seconds.

Nothing is scored again. The cutoff, and what each domain then keeps, come from the SQL of the assets themselves.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import polars as pl

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment.settings import nearest
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES
from miniplm_assets.kinds.parameters import WORDS_OF_UNIT
from miniplm_assets.kinds.rankings import DOMAIN_PLACES
from miniplm_assets.kinds.registry import PROJECT
from miniplm_assets.kinds.selection import DOMAIN_SHIFT
from miniplm_assets.lineage.outcome import last_made
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.sql_run import run_model

# Of a cutoff and of a domain, what is told of both selections.
OF_ALL: Final = ("num_kept", "num_kept_tokens", "cutoff_difference", "rank_by")
OF_DOMAIN: Final = ("num_kept", "num_kept_tokens", "share_of_kept_tokens")


def what_if(
    pipeline: Pipeline,
    name: str,
    *,
    keep_fraction: float | None = None,
    token_budget: int | None = None,
    within_domains: bool = False,
) -> dict[str, Any]:
    """Return what a selection would keep, beside what it keeps as it stands.

    Args:
        pipeline: the experiment.
        name: of the selection.
        keep_fraction: share of the candidates to keep.
        token_budget: instead, tokens to keep.
        within_domains: whether each domain keeps the same share, as it does where the selection says so.

    Returns:
        `now` and `then`: sequences, tokens and cutoff; `overlap`: sequences that both keep, by those that either does;
        `domains`: a row for each with both; `caution`: where it is of an earlier state of the corpus, that.

    Raises:
        ExperimentError: if there is no such selection, or the amount is none.
        MissingResultError: if its cutoff is not stored yet; the message says what to run.
    """
    if (keep_fraction is None) == (token_budget is None):
        raise ExperimentError("either a keep fraction or a token budget says how much would be kept; give one of them")
    if keep_fraction is not None and not 0 < keep_fraction <= 1:
        raise ExperimentError(f"the keep fraction is {keep_fraction}; expected more than 0 and at most 1")
    if token_budget is not None and token_budget < 1:
        raise ExperimentError(f"the token budget is {token_budget}; expected 1 or more")
    key = key_of(CUTOFF, name)
    if key not in pipeline.graph:
        names = [node.names[0] for node in pipeline.graph.values() if node.kind.name == CUTOFF]
        raise ExperimentError(f"the experiment has no selection '{name}'; {nearest(name, names)}")
    fingerprints, caution = last_made(pipeline, key, called="what it would keep")

    def files_of(key: str) -> list[Path]:
        return pipeline.store.require(fingerprints.recipe(key)).matching("*.parquet")

    node = pipeline.graph[key]
    ranking = pipeline.graph[node.inputs[DIFFERENCES]]
    parameters = {**node.settings.model_dump(), "keep_fraction": keep_fraction, "token_budget": token_budget}
    # The ranking within domains rests on how many are kept: that before it does not.
    if ranking.kind.name == DOMAIN_PLACES:
        ranking, within_domains = pipeline.graph[ranking.inputs[DIFFERENCES]], True
    steps = [CUTOFF, DOMAIN_SHIFT]
    if within_domains:
        steps, parameters["rank_by"] = [DOMAIN_PLACES, *steps], "share_above_quota"
    inputs = {DIFFERENCES: files_of(ranking.key)}
    sql = load_sql_project(PROJECT / "dbt_like_sql")
    with TemporaryDirectory(prefix="what-if-") as folder:
        for table in steps:
            target = Path(folder) / table
            target.mkdir()
            run_model(sql, table, inputs=inputs, parameters=parameters, target=target)
            inputs[DIFFERENCES if table == DOMAIN_PLACES else table] = sorted(target.glob("*.parquet"))
        then, domains_then = (_read(inputs[table]) for table in (CUTOFF, DOMAIN_SHIFT))
    now, domains_now = (_read(files_of(key_of(table, name))) for table in (CUTOFF, DOMAIN_SHIFT))
    domains = [
        {
            "domain": row["domain"],
            "num_candidates": row["num_candidates"],
            "num_candidate_tokens": row["num_candidate_tokens"],
            "now": {name: before[name] for name in OF_DOMAIN},
            "then": {name: row[name] for name in OF_DOMAIN},
        }
        for row, before in zip(domains_then, domains_now, strict=True)
    ]
    # Both keep the best of each domain, by the same ranking: what the one keeps less of, the other keeps too.
    num_both = sum(min(domain["now"]["num_kept"], domain["then"]["num_kept"]) for domain in domains)
    return {
        "selection": name,
        "keep_fraction": keep_fraction,
        "token_budget": token_budget,
        "within_domains": within_domains,
        "num_candidates": now[0]["num_candidates"],
        "num_candidate_tokens": now[0]["num_candidate_tokens"],
        "now": {name: now[0][name] for name in OF_ALL},
        "then": {name: then[0][name] for name in OF_ALL},
        "num_kept_by_both": num_both,
        "overlap": num_both / (now[0]["num_kept"] + then[0]["num_kept"] - num_both),
        "domains": domains,
        "caution": caution,
    }


def in_words(told: dict[str, Any]) -> str:
    """Return what `what_if` says as text for a terminal."""
    asked = (
        f"keep_fraction {told['keep_fraction']:g}"
        if told["keep_fraction"]
        else f"token_budget {told['token_budget']:,}"
    )
    lines = [told["caution"]] if told["caution"] else []
    num_tokens = told["num_candidate_tokens"]
    for title, kept in ((f"{told['selection']} as it stands", told["now"]), (f"with {asked}", told["then"])):
        lines.append(
            f"{title} keeps {kept['num_kept']:,} of {told['num_candidates']:,} sequences, "
            f"{kept['num_kept_tokens']:,} of {num_tokens:,} tokens; cutoff {kept['cutoff_difference']:.4g} "
            f"({WORDS_OF_UNIT[kept['rank_by']]})"
        )
    lines[-1] += ", each domain the same share" if told["within_domains"] else ""
    lines.append(f"{told['overlap']:.1%} of the sequences that either keeps are kept by both")
    lines.append(f"\n{'domain':24} {'tokens':>15} {'of all now':>11} {'then':>7} {'of it kept now':>15} {'then':>7}")
    for domain in told["domains"]:
        now, then, tokens = domain["now"], domain["then"], domain["num_candidate_tokens"]
        lines.append(
            f"{domain['domain'][:24]:24} {tokens:>15,} {now['share_of_kept_tokens']:>11.1%} "
            f"{then['share_of_kept_tokens']:>7.1%} {now['num_kept_tokens'] / tokens:>15.1%} "
            f"{then['num_kept_tokens'] / tokens:>7.1%}"
        )
    return "\n".join(lines)


def _read(paths: list[Path]) -> list[dict[str, Any]]:
    return pl.concat(pl.read_parquet(path, glob=False) for path in paths).to_dicts()
