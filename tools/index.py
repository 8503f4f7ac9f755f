"""`reelshard index`: makes tars that were written elsewhere readable as a data set, without rewriting them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "give tars made elsewhere (stock webdataset shards) their sidecars and a manifest"

_DESCRIPTION = """Scan every .tar of a folder strictly, and write a sidecar beside each and a manifest.

The tars stay as they are. A damaged tar is an error that names file and offset, never a shorter data set. In a folder
that has a manifest already, missing sidecars are made again. Tars SPLIT.GROUP-00000-of-00002.tar beside
SPLIT-00000-of-00002.tar, with the same keys and other members, become a field group.

What was stopped goes on where it was when the same command is run again: tars that were read are not read again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard index`."""
    parser.description = _DESCRIPTION
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the .tar files")
    parser.add_argument(
        "--split", help="name of the split, kept in the manifest (default: as the tars are named, or train)"
    )
    parser.add_argument("--threads", type=int, default=4, help="tars read at the same time (default: 4)")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(args: argparse.Namespace) -> int:
    """Index, and print what was found."""
    from shards.adopt import index_directory
    from tools.progress import track
    from tools.terminal import clean

    total = sum(path.stat().st_size for path in args.folder.glob("*.tar"))
    with track("indexing", total=total, unit="bytes") as progress:
        manifest = index_directory(args.folder, split=args.split, threads=args.threads, progress=progress)
    if args.json:
        print(json.dumps(manifest.to_json()))
        return 0
    fields = ", ".join(field.name for field in manifest.schema)
    size = f"{manifest.num_samples:,} samples with {fields} in {len(manifest.shards):,} shards"
    groups = f" and as many of {', '.join(manifest.groups)}" if manifest.groups else ""
    print(clean(f"{args.folder}: {size}{groups}, data set {manifest.digest[:12]}"))
    return 0
