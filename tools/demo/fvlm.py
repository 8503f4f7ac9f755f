"""The demo of the foveated VLM: `reelshard demo --system fvlm`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = (
    "videos and questions about them -> chats -> a foveated VLM in two stages -> what its answers cost, with a report"
)

_DESCRIPTION = """Run the foveated VLM end to end, in a few minutes on two CPU cores and without any download.

It makes VP9 videos of different lengths with captions and questions about them, one of them about a small mark in one
place; a byte-level tokenizer, a tiny DINOv2 and a tiny Llama as transformers saves them; builds and verifies the sets;
trains stage 1, and stage 2 from it, with several seeds; measures what held-out answers cost by each look at the frames,
with the frames of another video and with text alone; and writes report.html and report.json into OUT. Where the
answers do not come from the frames, it says so in one line and ends with an error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard demo --system fvlm`."""
    parser.description = _DESCRIPTION
    out = Path("demo_output_fvlm")
    parser.add_argument("--out", type=Path, default=out, help=f"folder (default: {out})")
    for name, default, what in (
        ("train-videos", 700, "videos that are trained on"),
        ("held-out-videos", 360, "videos that are asked about, a question each"),
        ("stage1-steps", 200, "steps of stage 1, on captions"),
        ("stage2-steps", 700, "steps of stage 2, on questions"),
        ("seeds", 3, "how often both stages are trained"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--json", action="store_true", help="print report.json at the end instead of a summary")


def run(args: argparse.Namespace) -> int:
    """Run the demo, print what came out, and end with an error where it is not what it should be.

    Raises:
        ValueError: the first check that failed, and how many did.
    """
    from tools.demo.fvlm_page import summary
    from tools.demo.fvlm_plan import FoveatedPlan
    from tools.demo.fvlm_run import run_demo

    plan = FoveatedPlan(
        num_train=args.train_videos,
        num_held_out=args.held_out_videos,
        steps=(args.stage1_steps, args.stage2_steps),
        num_seeds=args.seeds,
    )
    report = run_demo(plan, args.out, args.overrides)
    print(json.dumps(report) if args.json else summary(report, args.out), flush=True)
    failed = [check for check in report["checks"] if not check["passed"]]
    if failed:
        first = failed[0]
        raise ValueError(
            f"{len(failed)} of the {len(report['checks'])} things that this demo has to show are not so; the first is "
            f"{first['what']!r}, found is {first['found']}; {args.out / 'report.html'} has all of them"
        )
    return 0
