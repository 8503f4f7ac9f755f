"""`reelshard drop-field`: take away what `reelshard add-field` has added."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "take a field group out of a data set"
_DESCRIPTION = """Remove the tars of a field group, what lies beside them, and its line in the manifest; the
samples and all other fields stay as they are. What an add-field left that was stopped half-way is removed too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument("data", type=Path, metavar="SET", help="folder of the data set")
    parser.add_argument("--name", required=True, help="name of the group")


def run(args: argparse.Namespace) -> int:
    """Drop the group."""
    from shards.drop_group import drop_group
    from tools.terminal import clean

    freed = drop_group(args.data, args.name)
    print(clean(f"{args.data}: the field group {args.name!r} is gone, {freed / 1e6:,.1f} MB are free"))
    return 0
