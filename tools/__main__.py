"""`reelshard` and `python -m tools` begin here: a signal has its answer before anything else is imported."""

import os
import sys

try:
    from tools.signals import answer_signals
except KeyboardInterrupt:  # within the few milliseconds that this import takes
    os.write(2, b"reelshard: interrupted\n")
    os._exit(130)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line in this process; None takes the arguments that the process was given."""
    answer_signals()
    from tools.quota import limit_threads

    limit_threads(os.environ)
    from tools.cli import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
