"""`python -m tools` is `reelshard`."""

import sys

from tools.cli import main

sys.exit(main())
