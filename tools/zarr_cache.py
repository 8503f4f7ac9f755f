"""`reelshard zarr`: targets out to a Zarr cache, or in from one."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "export targets to a Zarr cache (targets.zarr, meta.jsonl), or import them from one"
_DESCRIPTION = """
`export` writes the targets of DATASET to CACHE. `import` adds the targets in CACHE to DATASET, which was built with
--teacher none, as a further series of tars beside the clips, which are not touched.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = _DESCRIPTION
    parser.add_argument("direction", choices=("export", "import"))
    parser.add_argument("data", type=Path, metavar="DATASET", help="folder of the data set")
    parser.add_argument("cache", type=Path, metavar="CACHE", help="folder of the Zarr cache")
    parser.add_argument("--group", default="zarr", help="import: name of the new series of tars (default: zarr)")


def run(args: argparse.Namespace) -> int:
    """Export or import."""
    from shards.dataset import ShardDataset
    from shards.zarr_cache import export_targets, import_targets
    from tools.progress import track

    dataset = ShardDataset.open(args.data)
    with track(f"{args.direction}ing targets", total=len(dataset), unit="samples") as progress:
        if args.direction == "export":
            export_targets(dataset, args.cache, report=progress.at)
        else:
            manifest = import_targets(args.cache, dataset, group=args.group, report=progress.at)
            dataset = ShardDataset(args.data, manifest)
    print(f"{len(dataset):,} targets {dataset.schema['target'].shape} {'in' if args.direction == 'import' else 'out'}")
    return 0
