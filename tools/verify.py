"""`reelshard verify`: reads every byte of data sets and says what is wrong."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from shards.words import spell_bytes
from tools import verify_sources
from tools.datasets import add_cache_arguments, cache_of

if TYPE_CHECKING:
    from shards.content import ContentReport

HELP = "read every byte of a data set and list what is damaged or missing"

_DESCRIPTION = """Check manifest, sidecars, tars and every payload of data sets against their digests and checksums, and
the plan, the failures and the projection beside them against the manifest.

Every problem is one line that names shard, key, field and offset. The exit status is 1 when there is any.

With --sources also decode a few samples again from their videos and compare: bytes can be as written and yet show other
frames than they say, as in sets that older versions built with decord.

With --content also look into the samples of frames and chats: decode every JPEG, compare numbers of frames and tokens
with what the JSON says, and token ids with the vocabulary."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard verify`."""
    parser.description = _DESCRIPTION
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folder of a data set, or its URL")
    add_cache_arguments(parser)
    parser.add_argument("--threads", type=int, default=4, help="shards read at the same time (default: 4)")
    verify_sources.add_arguments(parser)
    parser.add_argument("--content", action="store_true", help="also decode every JPEG, and compare lengths and tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object per data set")


def run(args: argparse.Namespace) -> int:
    """Verify, and print what was found. What is wrong with one data set does not stop the others."""
    if args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; it has to be at least 1")
    verify_sources.check_arguments(args)
    verdicts = [_verify(path, args) for path in args.datasets]
    return 0 if all(verdicts) else 1


def _verify(path: Path, args: argparse.Namespace) -> bool:
    """Verify one data set and print the result; returns whether it is sound."""
    from shards.content import check_content
    from shards.dataset import ShardDataset
    from shards.format.errors import ShardError
    from shards.store import url_of
    from shards.verify import VerifyReport, verify_dataset
    from tools.progress import track
    from tools.terminal import clean

    sources = content = None
    place = url_of(path) or str(path)
    try:
        dataset = ShardDataset.open(path, cache_of(args))
        total = dataset.num_shards * len(dataset.schema.groups)
        with track(f"verifying {clean(place)}", total=total, unit="shards") as progress:
            report = verify_dataset(path, cache_of(args), threads=args.threads, progress=progress)
        sources = verify_sources.check(dataset, args) if args.sources else None
        if args.content:
            with track(f"looking into {clean(place)}", total=dataset.num_shards, unit="shards") as progress:
                content = check_content(dataset, threads=args.threads, progress=progress)
    except (ShardError, OSError) as error:
        if len(args.datasets) == 1:
            raise
        report = VerifyReport(0, 0, 0, (str(error),))
    is_sound = not report.problems and (sources is None or sources.is_sound)
    is_sound = is_sound and (content is None or not content.problems)
    if args.json:
        more = {} if sources is None else {"sources": asdict(sources)}
        more |= {} if content is None else {"content": asdict(content)}
        print(json.dumps({"dataset": place, **asdict(report), **more}))
        return is_sound
    for problem in report.problems:
        print(clean(problem))
    verdict = f"{len(report.problems)} problem(s)" if report.problems else "every byte is as written"
    size = f"{report.num_samples:,} samples, {report.num_shards:,} shards, {spell_bytes(report.num_bytes)}"
    print(clean(f"{place}: {size}: {verdict}"), file=sys.stderr if report.problems else sys.stdout)
    if sources is not None:
        print(verify_sources.describe(sources, path))
    if content is not None:
        for line in (*content.problems, _spell(content, place)):
            print(clean(line))
    return is_sound


def _spell(content: ContentReport, path: str) -> str:
    """What was found inside of samples, in one line."""
    looked = f"{content.num_samples:,} samples, {content.num_frames:,} frames, {content.num_tokens:,} tokens"
    verdict = f"{len(content.problems)} problem(s)" if content.problems else "all are what they say"
    return f"{path}: looked into {looked}: {verdict}"
