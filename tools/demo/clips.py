"""The demo of cached clips, which `reelshard demo` runs unless another system is named: the main job end to end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.recipes import RECIPES

# Recipes beside the demo's own, such as demo_NAME.yaml: their students train on the same shards.
MORE_STUDENTS = sorted(path.stem.removeprefix("demo_") for path in RECIPES.glob("demo_*.yaml"))
HELP = "videos -> shards -> a trained student -> a probe, on videos it makes itself, with a report"

_DESCRIPTION = """Run the main job end to end, in a few minutes on two CPU cores and without any download.

It makes real VP9 videos of moving shapes with annotations in the format of Something-Something v2, a tiny VideoMAE
teacher, training and validation shards; verifies them; reads them back with stock webdataset too; trains a student;
probes it; and writes report.html and report.json into OUT. On one machine all numbers but rates and seconds are the
same each time; another processor rounds differently, and its accuracies may lie some percent away."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard demo`."""
    parser.description = _DESCRIPTION
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder (default: demo_output)")
    parser.add_argument("--recipe", default="demo", help="recipe name or YAML file (default: demo)")
    parser.add_argument("--train-videos", type=int, default=960, help="training videos (default: 960)")
    parser.add_argument("--validation-videos", type=int, default=240, help="validation videos (default: 240)")
    parser.add_argument("--teacher-steps", type=int, default=300, help="steps of the teacher's training (default: 300)")
    parser.add_argument("--teacher-clips", type=int, default=1200, help="clips the teacher learns from (default: 1200)")
    for name in MORE_STUDENTS:
        parser.add_argument(
            f"--{name}-steps", type=int, default=300, help=f"steps of the {name} student (default: 300)"
        )
    parser.add_argument(
        "--codecs",
        type=int,
        default=0,
        metavar="SEEDS",
        help="also train each student with so many seeds on raw shards and on shards stored by codecs, and say whether "
        "what they learn differs (default: 0, which leaves that out)",
    )
    parser.add_argument("--json", action="store_true", help="print report.json at the end instead of a summary")


def run(args: argparse.Namespace) -> int:
    """Run the demo, and print what came out."""
    from tools.demo.motion_teacher import TeacherPlan
    from tools.demo.page import summary
    from tools.demo.run import DemoPlan, run_demo
    from tools.demo.videos import VideoSet
    from tools.recipe import load_recipe

    if any(override.startswith("--teacher.") for override in args.overrides):
        raise ValueError("the demo makes a teacher of its own; leave --teacher.NAME out, or use `reelshard build`")
    plan = DemoPlan(
        videos=VideoSet(num_train=args.train_videos, num_validation=args.validation_videos),
        teacher=TeacherPlan(steps=args.teacher_steps, num_clips=args.teacher_clips),
        more_steps={name: getattr(args, f"{name}_steps") for name in MORE_STUDENTS},
        codec_seeds=args.codecs,
    )
    report = run_demo(load_recipe(args.recipe, args.overrides), plan, args.out)
    print(json.dumps(report) if args.json else summary(report, args.out))
    return 0
