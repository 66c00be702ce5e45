"""The code location: what Dagster loads.

``MINIPLM_EXPERIMENT`` names the experiment file, ``MINIPLM_WAREHOUSE`` a warehouse in place of the file's own,
``MINIPLM_KEY_PREFIX`` what the keys of its assets begin with.
"""

import click

from miniplm_assets.code_location import build_definitions
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.kinds.registry import open_chosen

try:
    pipeline = open_chosen()
    defs = build_definitions(pipeline)
except (
    MiniplmError
) as error:  # which the commands of Dagster, all of click, tell without a trace; and the UI as any other
    raise click.ClickException(str(error)) from None
