"""The checks of an asset, as the UI lists them: what speaks of the method first, all that look at columns as one."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import dagster as dg

from miniplm_assets.assets.pages import facts_shown
from miniplm_assets.lineage.kind import Check, Kind
from miniplm_assets.storage.manifest import CheckOutcome

# The UI lists them by name: this one is to be the last.
COLUMNS_ARE_AS_DESCRIBED: Final = "values_of_columns_are_as_described"


def check_specs(kind: Kind[Any], key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the checks of the assets of a kind, before anything runs."""
    specs = [
        dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.is_blocking)
        for check in kind.checks
        if not check.is_of_columns
    ]
    of_columns = [check for check in kind.checks if check.is_of_columns]
    if of_columns:
        is_blocking = any(check.is_blocking for check in of_columns)
        description = " ".join(check.description for check in of_columns)
        specs.append(
            dg.AssetCheckSpec(COLUMNS_ARE_AS_DESCRIBED, asset=key, description=description, blocking=is_blocking)
        )
    return specs


def check_results(kind: Kind[Any], outcomes: Sequence[CheckOutcome]) -> list[dg.AssetCheckResult]:
    """Return how the checks of an asset ended."""
    checks = {check.name: check for check in kind.checks}
    results = [_result(checks[one.name], one) for one in outcomes if not checks[one.name].is_of_columns]
    of_columns = [(checks[one.name], one) for one in outcomes if checks[one.name].is_of_columns]
    return [*results, *_together(of_columns)]


def _result(check: Check, outcome: CheckOutcome) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=outcome.passed,
        severity=_severity(check, outcome),
        description=outcome.description or None,
        metadata=facts_shown(outcome.facts),
    )


def _together(outcomes: Sequence[tuple[Check, CheckOutcome]]) -> Iterator[dg.AssetCheckResult]:
    """Give one result for all of them, with what is wrong, if something is."""
    if not outcomes:
        return
    failed = [(check, outcome) for check, outcome in outcomes if not outcome.passed]
    severities = [_severity(check, outcome) for check, outcome in failed]
    is_error = dg.AssetCheckSeverity.ERROR in severities or not failed
    metadata: dict[str, Any] = {}
    for check, outcome in failed:
        metadata |= {f"{check.name}: {name}": fact for name, fact in facts_shown(outcome.facts).items()}
    said = " ".join(f"{check.name}: {outcome.description}" for check, outcome in failed)
    yield dg.AssetCheckResult(
        check_name=COLUMNS_ARE_AS_DESCRIBED,
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=said or f"All of {len(outcomes)} hold: {', '.join(check.name for check, _ in outcomes)}.",
        metadata=metadata,
    )


def _severity(check: Check, outcome: CheckOutcome) -> dg.AssetCheckSeverity:
    is_error = check.is_blocking and not outcome.is_warning
    return dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN
