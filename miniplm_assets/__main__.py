"""`python -m miniplm_assets`: the commands of `cli`."""

import gc
import sys

from miniplm_assets.cli import main

# The plan imports torch, whose many objects all stay: looking through them for garbage takes half a second.
gc.disable()
sys.exit(main())
