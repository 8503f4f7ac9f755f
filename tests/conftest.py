"""Settings of every test process."""

import os
import signal

# Two test processes share two cores: one torch thread each, in the programs they start as well. Read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the programs they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
