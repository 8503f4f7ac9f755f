"""`reelshard import`: stock tars converted into a data set of pages, with tubes where asked."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.reshard import add_cut_arguments, parse_size, split_names, write

HELP = "convert stock tars (webdataset shards), here or behind URLs, into a data set"

_DESCRIPTION = """Convert the tars that TARS names, with braces for several ('URL/{00000..00099}.tar'), into a data set.

Arrays in .npy of one shape are aligned to pages; with --layout tubes, clips u8 [T, H, W, 3] and targets of as many
tokens are cut into tubes. Arrays that differ in their first length become rows, numbered members (0.jpg, 1.jpg, ...)
packed pieces, all else bytes. Nothing is unpickled and no command is run. Unlike `reelshard index`, which leaves tars
as they are, this copies.

Tars behind URLs (http, s3, gs, az) are fetched into SET.tars first, which is removed at the end. What was stopped goes
on where it was when the same command is run again."""
FETCHERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument("tars", metavar="TARS", help="paths or URLs of tars, with braces for several")
    parser.add_argument("--out", type=Path, required=True, metavar="SET", help="folder of the new data set")
    parser.add_argument("--split", default="train", help="name of the split (default: train)")
    parser.add_argument("--fields", metavar="A,B", help="members to take, such as jpg,json (default: all)")
    parser.add_argument(
        "--layout", choices=("plain", "tubes"), default="plain", help="tubes: cut clips and targets (default: plain)"
    )
    parser.add_argument("--tubelet", type=int, default=2, help="frames of a tubelet (default: 2)")
    parser.add_argument("--patch", type=int, default=16, help="pixels of a patch's side (default: 16)")
    add_cut_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Convert, and print what came of it."""
    from shards.exchange.foreign_fields import Tubes
    from shards.exchange.foreign_samples import plan_import
    from shards.store.urls import without_secrets
    from tools.chat_tars import expand
    from tools.terminal import clean

    names = expand(args.tars)
    scratch = args.out.with_name(f"{args.out.name}.tars")
    tars = local_tars(names, scratch)
    rewrite = plan_import(
        tars,
        source=without_secrets(args.tars) if "://" in args.tars else args.tars,
        split=args.split,
        keep=split_names(args.fields, "--fields") if args.fields is not None else (),
        tubes=Tubes(tubelet=args.tubelet, patch=args.patch) if args.layout == "tubes" else None,
        samples_per_shard=args.samples_per_shard,
        shard_bytes=parse_size(args.shard_size),
        say=lambda line: print(clean(f"reelshard: {line}"), file=sys.stderr),
    )
    status = write(rewrite, args.out, "importing")
    if scratch.is_dir() and any("://" in name for name in names):
        shutil.rmtree(scratch)
    return status


def local_tars(names: Sequence[str], scratch: Path) -> list[Path]:
    """The tars as files; those behind URLs are fetched, each once.

    Raises:
        ValueError: paths and URLs are mixed.
        MissingDataError: one is not there.
    """
    from shards.format.errors import MissingDataError
    from shards.threads import thread_pool
    from tools.fetch import fetch_tar
    from tools.progress import track

    remote = [name for name in names if "://" in name]
    if remote and len(remote) < len(names):
        raise ValueError(f"{names[0]!r} and others are paths and URLs; give one or the other")
    if not remote:
        for name in names:
            if not Path(name).is_file():
                raise MissingDataError(f"there is no tar {name}; braces stand for several, such as {{00000..00099}}")
        return [Path(name) for name in names]
    with thread_pool(FETCHERS) as pool, track("fetching", total=len(names), unit="tars") as progress:
        fetched = []
        for path in pool.map(lambda name: fetch_tar(name, scratch), names):
            fetched.append(path)
            progress(1)
        return fetched
