"""`reelshard copy`: a data set from any place to any other."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

HELP = "copy a data set between folders and object stores, compared on the way"

_DESCRIPTION = """Copy a data set with all its field groups. SRC is a folder, or a URL (s3://, gs://, az://, https://);
DST a folder, or the URL of an object store. Every tar is compared with its digest, and its sidecar follows it; the
manifest comes last. What was stopped goes on with the same command, and finished tars are not copied again.

reelshard copy ssv2/train s3://bucket/ssv2/train
reelshard copy https://data.example.com/ssv2/train ssv2/train"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard copy`."""
    parser.description = _DESCRIPTION
    parser.add_argument("source", metavar="SRC", help="folder or URL of a data set")
    parser.add_argument("target", metavar="DST", help="folder or URL to copy it to")
    parser.add_argument("--threads", type=int, default=4, help="tars at the same time (default: 4)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="folder for tars on their way between two stores")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Copy, and say what was copied."""
    from shards.store import open_store
    from shards.store.contents import read_manifest
    from shards.store.copy import copy_dataset
    from shards.words import spell_bytes
    from tools.progress import track
    from tools.terminal import clean

    if args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; it has to be at least 1")
    source, target = open_store(args.source), open_store(args.target)
    if source.url == target.url:
        raise ValueError(f"{clean(source.url)} is given as source and as target")
    total = read_manifest(source).num_bytes
    with track(f"copying {clean(source.url)}", total=total, unit="bytes") as progress:
        copied = copy_dataset(source, target, scratch=args.scratch, threads=args.threads, progress=progress)
    if args.json:
        print(json.dumps(asdict(copied)))
    else:
        rest = f", {copied.num_present:,} were there" if copied.num_present else ""
        what = f"{copied.num_shards - copied.num_present:,} of {copied.num_shards:,} tars copied{rest}"
        print(clean(f"{target.url}: {what}, {spell_bytes(copied.num_bytes)}, digest {copied.digest[:12]}"))
    return 0
