"""`reelshard zarr`: targets out to a Zarr cache, or in from one."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.datasets import add_cache_arguments, cache_of

HELP = "export targets to a Zarr cache (targets.zarr, meta.jsonl), or import them from one"
_DESCRIPTION = """
`export` writes the targets of DATASET to CACHE: the array targets.zarr/targets and meta.jsonl. `import` adds the
targets in CACHE to DATASET, which was built with --teacher none, as a further series of tars beside the clips, which
are not touched; `reelshard add-field --zarr` is the same under a name of your own. A cache of another view or another
geometry is refused; the teacher's provenance goes along both ways.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = _DESCRIPTION
    parser.add_argument("direction", choices=("export", "import"))
    parser.add_argument("data", type=Path, metavar="DATASET", help="folder of the data set; of export, or its URL")
    parser.add_argument("zarr", type=Path, metavar="CACHE", help="folder of the Zarr cache")
    add_cache_arguments(parser)
    parser.add_argument("--group", default="zarr", help="import: name of the new series of tars (default: zarr)")
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=3, help="export: version of the Zarr format (default: 3)"
    )


def run(args: argparse.Namespace) -> int:
    """Export or import."""
    from shards.dataset import ShardDataset
    from shards.exchange.zarr import export_targets, import_targets
    from tools.progress import track
    from tools.terminal import clean

    dataset = ShardDataset.open(args.data, cache_of(args))
    notes: list[str] = []
    with track(f"{args.direction}ing targets", total=len(dataset), unit="samples") as progress:
        if args.direction == "export":
            export_targets(dataset, args.zarr, zarr_format=args.zarr_format, progress=progress)
        else:
            manifest = import_targets(args.zarr, dataset, group=args.group, progress=progress, say=notes.append)
            dataset = ShardDataset(args.data, manifest)
    done = f"{len(dataset):,} targets {dataset.schema['target'].shape} {'in' if args.direction == 'import' else 'out'}"
    print(clean("; ".join([done, *notes])))
    return 0
