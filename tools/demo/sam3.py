"""`reelshard demo --system sam3_video`: a small SAM3 and its memory end to end, on videos it makes itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "videos -> shards -> a small SAM3 -> a memory of eight frames -> what it is worth, with a report"

_DESCRIPTION = """Run the SAM3 system end to end, in a few minutes on two CPU cores and without any download.

It makes MP4 videos with annotations as SA-V has them, a tiny SAM3 teacher and a student; builds and verifies data sets;
trains the student in both image stages and then its memory; and measures that on held-out videos with the right memory,
with none, and with another video's. Of shapes that look alike, those are annotated that moved in the eight annotated
frames before: the last frame alone does not say which. Ends with an error where the memory is of no use."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard demo --system sam3_video`."""
    from tools.demo.sam3_plan import Sam3Plan

    plan = Sam3Plan()
    parser.description = _DESCRIPTION
    parser.add_argument("--out", type=Path, default=Path("demo_output_sam3"), help="folder (default: %(default)s)")
    for name, about in (
        ("num_alone", "training videos without look-alikes, for the image stages"),
        ("num_train", "training videos with look-alikes, for the memory"),
        ("num_held_out", "held-out videos, at least 64"),
        ("image_steps", "steps of the second image stage"),
        ("memory_steps", "steps of each run of the memory stage"),
        ("num_seeds", "runs of the memory stage with the two embeddings, and as many without"),
    ):
        option, default = f"--{name.replace('_', '-')}", getattr(plan, name)
        parser.add_argument(option, type=int, default=default, help=f"{about} (default: {default})")
    parser.add_argument("--json", action="store_true", help="print report.json at the end instead of a summary")


def run(args: argparse.Namespace) -> int:
    """Run the demo, and print what came out; 1 where something did not come out as it has to."""
    from tools.demo.sam3_page import summary
    from tools.demo.sam3_plan import Sam3Plan
    from tools.demo.sam3_run import run_sam3_demo

    if args.overrides:
        raise ValueError(f"{args.overrides[0]} has no effect: this demo sets its recipes itself")
    names = ("num_alone", "num_train", "num_held_out", "image_steps", "memory_steps", "num_seeds")
    report = run_sam3_demo(Sam3Plan(**{name: getattr(args, name) for name in names}), args.out)
    print(json.dumps(report) if args.json else summary(report, args.out))
    if report["problems"]:
        raise ValueError("; ".join(report["problems"]))
    return 0
