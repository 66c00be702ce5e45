"""`python -m miniplm_assets`: the commands of `cli`."""

import gc
import io
import sys

from miniplm_assets.cli import main

# A terminal that knows no UTF-8 shows what it can of names and of the lines around a table.
for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # None where the caller has closed it
        stream.reconfigure(errors="replace")
# The plan imports torch, whose many objects all stay: looking through them for garbage takes half a second.
gc.disable()
sys.exit(main())
