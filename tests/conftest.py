"""Settings of every test process."""

import os

# Two test processes share two cores: one torch thread each, in the programs they start as well. Read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
