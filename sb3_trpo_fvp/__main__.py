"""``python -m sb3_trpo_fvp``: the ``sb3-trpo-fvp`` command."""

import sys

from sb3_trpo_fvp.cli import main

sys.exit(main())
