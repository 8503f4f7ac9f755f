"""`reelshard verify --sources`: decodes a few samples again from the videos that a data set was built from."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from tools.terminal import clean

if TYPE_CHECKING:
    from shards.builder.recheck import SourceReport
    from shards.dataset import ShardDataset

DEFAULT_SAMPLES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that belong to sources."""
    parser.add_argument("--sources", type=Path, metavar="VIDEOS", help="folder of the videos it was built from")
    parser.add_argument("--annotations", type=Path, help="as given to the build; finds videos that have other names")
    parser.add_argument(
        "--samples",
        type=_count_or_share,
        default=DEFAULT_SAMPLES,
        metavar="N",
        help=f"samples to decode again: a count, or a share such as 0.01 (default: {DEFAULT_SAMPLES})",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is read.

    Raises:
        ValueError: there is no such folder.
    """
    if args.sources and not args.sources.is_dir():
        raise ValueError(f"there is no folder of videos at {args.sources}; --sources is the one that was built from")


def check(dataset: ShardDataset, args: argparse.Namespace) -> SourceReport:
    """Decode a few samples again from the videos in `args.sources`."""
    from shards.builder import open_source
    from shards.builder.recheck import check_sources
    from shards.builder.sources.locate import VideoFinder
    from tools.progress import track

    samples = args.samples * len(dataset) if args.samples < 1 else args.samples
    count = min(len(dataset), math.ceil(samples))
    source = open_source(args.sources, args.annotations, dataset.manifest.split)
    finder = VideoFinder(source.root, source.items)
    with track(f"decoding samples of {dataset.place} again", total=count, unit="samples") as progress:
        return check_sources(dataset, finder, count, threads=args.threads, progress=progress)


def describe(report: SourceReport, path: Path) -> str:
    """What was found as lines for people: each sample that is not right, then the whole."""
    lines = [*report.wrong, *report.changed, *report.missing, f"{path}: {report.describe()}"]
    return "\n".join(map(clean, lines))


def _count_or_share(text: str) -> float:
    """Read a count from 1 on, or a share below 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a count nor a share such as 0.01")
    return value
