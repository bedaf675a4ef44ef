"""`python -m longshore.cli` is `longshore`."""

import sys

from . import main

sys.exit(main())
