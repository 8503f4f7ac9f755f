"""`reelshard demo [--system NAME]`: a system end to end, on what it makes itself; a module a system.

Each module of `SYSTEMS` has `HELP`, `add_arguments(parser)` and `run(args) -> int`, as every command has them. Without
`--system` it is the first one's.
"""

from __future__ import annotations

import argparse

from tools.demo import clips

HELP = clips.HELP
SYSTEMS = {
    "clips": "tools.demo.clips",
    "fvlm": "tools.demo.fvlm",
    "sam3_video": "tools.demo.sam3",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the first system's demo, and the choice of another's, which takes its own."""
    clips.add_arguments(parser)
    parser.add_argument(
        "--system",
        choices=SYSTEMS,
        default=next(iter(SYSTEMS)),
        help=f"whose demo (default: %(default)s; of {', '.join(SYSTEMS)}); `--system NAME --help` explains each",
    )


def run(args: argparse.Namespace) -> int:
    """Run the first system's demo."""
    return clips.run(args)
