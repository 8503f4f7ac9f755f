"""`reelshard index`: makes tars that were written elsewhere readable as a data set, without rewriting them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.format.manifest import Manifest

HELP = "give tars made elsewhere (stock webdataset shards) their sidecars and a manifest"

_DESCRIPTION = """Scan every .tar of a folder strictly, and write a sidecar beside each and a manifest.

The tars stay as they are. A damaged tar is an error that names file and offset, never a shorter data set. In a folder
that has a manifest already, missing sidecars are made again. Tars SPLIT.GROUP-00000-of-00002.tar beside
SPLIT-00000-of-00002.tar, with the same keys and other members, become a field group.

FOLDER may be a URL: of a folder in an object store (s3, gs, az), where sidecars and manifest are put beside the tars
too, or of tars on a plain HTTP server, with braces for several ('http://HOST/SET/{00000..00099}.tar'). --out then takes
sidecars and manifest. Each tar is fetched, read and dropped.

What was stopped goes on where it was when the same command is run again: tars that were read are not read again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard index`."""
    parser.description = _DESCRIPTION
    parser.add_argument("folder", metavar="FOLDER", help="folder with the .tar files, or a URL")
    parser.add_argument("--out", type=Path, metavar="LOCAL", help="of a URL: folder for sidecars and manifest")
    parser.add_argument(
        "--split", help="name of the split, kept in the manifest (default: as the tars are named, or train)"
    )
    parser.add_argument("--threads", type=int, default=4, help="tars read at the same time (default: 4)")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(args: argparse.Namespace) -> int:
    """Index, and print what was found."""
    from shards.store import url_of
    from tools.terminal import clean

    url = url_of(args.folder)
    if url is None and args.out is not None:
        raise ValueError("--out is for tars behind URLs: sidecars lie beside the tars, in the same folder")
    manifest = _index_folder(args) if url is None else _index_url(url, args)
    if args.json:
        print(json.dumps(manifest.to_json()))
        return 0
    fields = ", ".join(field.name for field in manifest.schema)
    size = f"{manifest.num_samples:,} samples with {fields} in {len(manifest.shards):,} shards"
    groups = f" and as many of {', '.join(manifest.groups)}" if manifest.groups else ""
    print(clean(f"{args.folder}: {size}{groups}, data set {manifest.digest[:12]}"))
    return 0


def _index_folder(args: argparse.Namespace) -> Manifest:
    from shards.adopt import index_directory
    from tools.progress import track

    folder = Path(args.folder)
    total = sum(path.stat().st_size for path in folder.glob("*.tar"))
    with track("indexing", total=total, unit="bytes") as progress:
        return index_directory(folder, split=args.split, threads=args.threads, progress=progress)


def _index_url(url: str, args: argparse.Namespace) -> Manifest:
    from shards.index_store import index_store, names_and_sizes
    from shards.store import open_store
    from shards.store.urls import is_object_store
    from tools.chat_tars import expand
    from tools.progress import track

    if args.out is None:
        raise ValueError(f"{url} is elsewhere: give --out FOLDER, a local folder for sidecars and the manifest")
    place, names = url, None
    if url.endswith(".tar"):
        tars = [name.rpartition("/") for name in expand(url)]
        if len(folders := {folder for folder, _, _ in tars}) > 1:
            raise ValueError(f"the tars of a data set are in one folder, {url} names {len(folders)}")
        place, names = folders.pop(), [name for _, _, name in tars]
    store = open_store(place)
    sizes = names_and_sizes(store, names)
    options = {"split": args.split, "threads": args.threads, "can_write": is_object_store(place)}
    with track("indexing", total=sum(sizes.values()), unit="bytes") as progress:
        return index_store(store, sizes, args.out, **options, progress=progress)
