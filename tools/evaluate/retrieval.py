"""Text-video retrieval in one command, from download folders to R@K.

reelshard evaluate retrieval --msrvtt MSRVTT --msvd MSVD --checkpoint runs/first
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.evaluate.common import Bench, add_encoder_arguments, add_result_arguments, add_seed_argument, publish
from tools.evaluate.sets import (
    Wanted,
    add_captions,
    add_work_arguments,
    built,
    failures_of,
    refuse_no_clip,
    text_encoder_of,
)

if TYPE_CHECKING:
    from evaluation.result import Result
    from evaluation.retrieval_head import RetrievalConfig

HELP = "text-video retrieval on MSR-VTT (1k-A) and MSVD, from their download folders"
TEXT = "openai/clip-vit-base-patch32"
TITLES = {"msrvtt": "MSR-VTT 1k-A", "msvd": "MSVD test"}
NUMBERS = ("r1", "r5", "r10", "median_rank", "mean_rank")

_DESCRIPTION = """Measure how well captions find videos and videos find captions by a frozen encoder's features.

Clips are built in the encoder's view, captions are embedded once by a frozen CLIP, and a projection head learns on
MSR-VTT's training videos to bring both together. It is measured on the 1,000 test videos of MSR-VTT (1k-A) and on the
test videos of MSVD, where every caption is a query; beside it the same encoder with fresh weights.

The data sets stay in --work and are found again by the next evaluation with the same view; what was stopped goes on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name="retrieval")
    parser.add_argument("--msrvtt", type=Path, required=True, metavar="DIR", help="download folder of MSR-VTT")
    parser.add_argument("--msvd", type=Path, metavar="DIR", help="download folder of MSVD")
    parser.add_argument("--protocol", default="9k", help="training videos of MSR-VTT: 9k (default) or 7k")
    parser.add_argument(
        "--text", default=TEXT, metavar="ID_OR_PATH", help=f"the frozen CLIP that embeds captions (default {TEXT})"
    )
    parser.add_argument("--steps", type=int, default=2000, help="of the head's training (default 2000)")
    add_encoder_arguments(parser)
    add_work_arguments(parser)
    add_seed_argument(parser)
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Build what is missing, train the head, measure, and print."""
    from evaluation.retrieval import CAPTIONS
    from evaluation.retrieval_head import RetrievalConfig

    config = RetrievalConfig(steps=args.steps, seed=args.seed)
    refuse_no_clip(args.text)
    embed = partial(add_captions, field=CAPTIONS, text=args.text, device=args.device)
    with built(args, wanted(args), embed) as bench:
        found = _measure(bench, config)
        for role, results in found.items():
            lines = [*_table(TITLES[role], results), f"  {bench.views}"]
            named = argparse.Namespace(**{**vars(args), "name": f"{args.name}_{role}"})
            publish(named, bench.world, results, title=f"Text-video retrieval: {TITLES[role]}", lines=lines)
    return 0


def wanted(args: argparse.Namespace) -> dict[str, Wanted]:
    """The data sets that there are downloads for: `train`, `msrvtt`, and perhaps `msvd`."""
    from shards.builder import load_msrvtt, load_msvd

    found = {
        "train": Wanted(
            name=f"msrvtt-{args.protocol}-train",
            split="train",
            open=partial(load_msrvtt, args.msrvtt, "train", args.protocol),
        ),
        "msrvtt": Wanted(name="msrvtt-1ka-test", split="test", open=partial(load_msrvtt, args.msrvtt, "test")),
    }
    if args.msvd is not None:
        found["msvd"] = Wanted(name="msvd-test", split="test", open=partial(load_msvd, args.msvd, "test"))
    return found


def _measure(bench: Bench, config: RetrievalConfig) -> dict[str, dict[str, Result]]:
    """Results by role, and by whether the encoder is the trained one."""
    from evaluation.retrieval import CAPTIONS, retrieve
    from tools.progress import track

    text = text_encoder_of(bench.datasets["train"], CAPTIONS)
    about = {
        "text_encoder": text.get("id"),
        "text_weights": text.get("weights_sha256"),
        "num_videos_left_out": failures_of(bench.datasets),
    }
    found: dict[str, dict[str, Result]] = {role: {} for role in bench.datasets if role != "train"}
    total = 2 * sum(len(dataset) for dataset in bench.datasets.values()) // bench.world.size
    with track("encoding", total=total, unit="clips") as advance:
        for name, encoder in {"trained": bench.encoder, "untrained": bench.encoder.untrained(config.seed)}.items():
            with bench.splits(("clip", CAPTIONS), advance=advance) as data:
                for role, result in retrieve(encoder, data, config, bench.world).items():
                    found[role][name] = dataclasses.replace(result, protocol={**result.protocol, **about})
    return found


def _table(title: str, results: Mapping[str, Result]) -> list[str]:
    """A result as lines for the terminal."""
    protocol = results["trained"].protocol
    lines = [
        f"{title}: {protocol['num_captions']:,} captions of {protocol['num_videos']:,} videos, "
        f"by {protocol['encoder']}; 95 % intervals in brackets"
    ]
    head = "".join(f"{name:>24}" for name in ("R@1", "R@5", "R@10", "median rank", "mean rank"))
    for way, what in (("t2v", "text to video"), ("v2t", "video to text")):
        lines.append(f"  {what:<14}{head}")
        for name, result in results.items():
            lines.append(f"    {name:<12}{''.join(_cell(result, f'{way}_{number}') for number in NUMBERS)}")
    return [*lines, f"  by chance, text to video R@1 is {results['trained'].metrics['chance']:.1%}"]


def _cell(result: Result, name: str) -> str:
    value, (low, high) = result.metrics[name], result.intervals[name]
    if name.endswith("rank"):
        return f"{f'{value:,.1f} [{low:,.1f}, {high:,.1f}]':>24}"
    return f"{f'{value:.1%} [{low:.1%}, {high:.1%}]':>24}"
