"""`python -m miniplm_assets`: the commands of `cli`."""

import sys

from miniplm_assets.cli import main

sys.exit(main())
