"""`reelshard merge`: several data sets as one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.datasets import add_cache_arguments, cache_of
from tools.reshard import add_cut_arguments, parse_size, write

HELP = "make one data set of several that have the same fields"

_DESCRIPTION = """Copy the samples of several data sets into a new one, one set behind the other. Every payload is
compared with its checksum as it is read, and the sets are not touched.

Classes are united by name, and the labels in the samples' JSON follow. Sets of other fields, views or teachers are
refused. A sample that is in two sets with the same bytes is kept once; other samples that meet under one key get -2, -3
behind it, which is said. What was stopped goes on where it was when the same command is run again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "data", type=Path, nargs="+", metavar="SET", help="folders or URLs of the data sets, two at least"
    )
    add_cache_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DST", help="folder of the new data set")
    add_cut_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Merge, and print what came of it."""
    from shards.dataset import ShardDataset
    from shards.exchange.merge import plan_merge
    from shards.exchange.reshard import Cut
    from tools.terminal import clean

    cut = Cut(samples_per_shard=args.samples_per_shard, shard_bytes=parse_size(args.shard_size))
    cache = cache_of(args)
    datasets = [ShardDataset.open(path, cache) for path in args.data]
    rewrite = plan_merge(datasets, cut, say=lambda line: print(clean(f"reelshard: {line}"), file=sys.stderr))
    return write(rewrite, args.out, "merging")
