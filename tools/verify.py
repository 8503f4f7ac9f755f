"""`reelshard verify`: reads every byte of data sets and says what is wrong."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.build.recheck import SourceReport
    from shards.dataset import ShardDataset

HELP = "read every byte of a data set and list what is damaged or missing"
DEFAULT_SAMPLES = 64

_DESCRIPTION = """Check manifest, sidecars, tars and every payload of data sets against their digests and checksums.

Every problem is one line that names shard, key, field and offset. The exit status is 1 when there is any.

With --sources also decode a few samples again from their videos and compare: bytes can be as written and yet show other
frames than they say, as in sets that older versions built with decord."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard verify`."""
    parser.description = _DESCRIPTION
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folder of a data set")
    parser.add_argument("--threads", type=int, default=4, help="shards read at the same time (default: 4)")
    parser.add_argument("--sources", type=Path, metavar="VIDEOS", help="folder of the videos it was built from")
    parser.add_argument("--annotations", type=Path, help="as given to the build; finds videos that have other names")
    parser.add_argument(
        "--samples",
        type=_count_or_share,
        default=DEFAULT_SAMPLES,
        metavar="N",
        help=f"samples to decode again: a count, or a share such as 0.01 (default: {DEFAULT_SAMPLES})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per data set")


def _count_or_share(text: str) -> float:
    """Read a count from 1 on, or a share below 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a count nor a share such as 0.01")
    return value


def run(args: argparse.Namespace) -> int:
    """Verify, and print what was found."""
    from shards.dataset import ShardDataset
    from shards.verify import verify_dataset
    from tools.progress import track

    if args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; it has to be at least 1")
    if args.sources and not args.sources.is_dir():
        raise ValueError(
            f"there is no folder of videos at {args.sources}; give the one that was built from as --sources"
        )
    status = 0
    for path in args.datasets:
        dataset = ShardDataset.open(path)
        total = dataset.num_shards * len(dataset.schema.groups)
        with track(f"verifying {path}", total=total, unit="shards") as progress:
            report = verify_dataset(path, threads=args.threads, progress=progress.at)
        sources = _check_sources(dataset, args) if args.sources else None
        status = 1 if report.problems or (sources and not sources.is_sound) else status
        if args.json:
            more = {} if sources is None else {"sources": asdict(sources)}
            print(json.dumps({"dataset": str(path), **asdict(report), **more}))
            continue
        for problem in report.problems:
            print(problem)
        verdict = f"{len(report.problems)} problem(s)" if report.problems else "every byte is as written"
        size = f"{report.num_samples:,} samples, {report.num_shards:,} shards, {report.num_bytes / 1e6:,.1f} MB"
        print(f"{path}: {size}: {verdict}", file=sys.stderr if report.problems else sys.stdout)
        if sources is not None:
            print("\n".join([*sources.wrong, *sources.changed, *sources.missing, f"{path}: {sources.describe()}"]))
    return status


def _check_sources(dataset: ShardDataset, args: argparse.Namespace) -> SourceReport:
    """Decode a few samples again from the videos in `args.sources`."""
    from shards.build import open_source
    from shards.build.locate import VideoFinder
    from shards.build.recheck import check_sources
    from tools.progress import track

    samples = args.samples * len(dataset) if args.samples < 1 else args.samples
    count = min(len(dataset), math.ceil(samples))
    source = open_source(args.sources, args.annotations, dataset.manifest.split)
    finder = VideoFinder(args.sources, source.items)
    with track(f"decoding samples of {dataset.directory} again", total=count, unit="samples") as progress:
        return check_sources(dataset, finder, count, threads=args.threads, progress=progress.at)
