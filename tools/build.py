"""`reelshard build`: videos and annotations to a data set of shards.

reelshard build --recipe st_jepa_ssv2 --videos VIDEOS --annotations LABELS --split train --out ssv2/train --limit 1000
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.build import BuildSummary, Teacher

HELP = "turn videos into shards of clips and teacher targets"
DEFAULT_PROJECTION_DIM = 384

_DESCRIPTION = """Decode videos, run the frozen teacher over the clips, and pack both into shards.

Videos are Something-Something v2 (--annotations is the folder of its JSON files), a table (--annotations is a .csv or
.tsv with a column 'path' and, optionally, 'id', 'label', 'text', 'split'), or a plain folder (no --annotations;
subfolders are classes).

A build that was stopped goes on where it was when the same command is run again. A video that cannot be used is a line
in OUT/failures.jsonl with its reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "--recipe", default="st_jepa_ssv2", help="recipe name or YAML file; its view and build sections count"
    )
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos")
    parser.add_argument("--annotations", type=Path, help="folder of SSv2 annotations, or a .csv or .tsv table")
    parser.add_argument("--split", default="train", help="split to build (default: train)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set, made when it is not there")
    parser.add_argument("--limit", type=int, help="build only so many clips, a repeatable random sample")
    parser.add_argument(
        "--teacher", metavar="ID_OR_PATH", help="VideoMAE id or folder; 'none' for clips without targets"
    )
    parser.add_argument("--projection-dim", metavar="DIM", help="width of the targets; 'none' keeps the teacher's own")
    parser.add_argument("--device", default="auto", help="the teacher's device, such as cuda:0 (default: auto)")
    parser.add_argument("--teacher-dtype", default="auto", help="float32, float16 or bfloat16 (default: auto)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Build, and print what was built."""
    from shards.build import build_dataset, open_source
    from tools.progress import track
    from tools.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    source = open_source(args.videos, args.annotations, args.split)
    teacher = load_teacher(args, getattr(recipe.model, "target_dim", DEFAULT_PROJECTION_DIM))
    total = min(args.limit or len(source.items), len(source.items))
    with track("building", total=total, unit="clips") as advance:
        summary = build_dataset(
            source,
            args.out,
            recipe.view,
            recipe.build,
            teacher=teacher,
            split=args.split,
            limit=args.limit,
            progress=advance,
        )
    sys.stdout.write(json.dumps(asdict(summary)) + "\n" if args.json else describe(summary, args.out))
    return 0


def load_teacher(args: argparse.Namespace, target_dim: int) -> Teacher | None:
    """Return the teacher that the arguments ask for, or None."""
    if args.teacher == "none":
        return None
    from transformers.utils import logging

    from model.teacher import DEFAULT_TEACHER, load_videomae_teacher

    logging.disable_progress_bar()
    return load_videomae_teacher(
        args.teacher or DEFAULT_TEACHER,
        projection_dim=_projection_dim(args.projection_dim, target_dim),
        device=args.device,
        dtype=args.teacher_dtype,
    )


def _projection_dim(given: str | None, target_dim: int) -> int | None:
    if given is None:
        return target_dim
    if given == "none":
        return None
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"--projection-dim is {given!r}; give a number of at least 1, or 'none'")
    return int(given)


def describe(summary: BuildSummary, out: Path) -> str:
    """Return the summary as lines for people."""
    lines = [
        f"{out}: {summary.num_samples} of {summary.num_planned} clips in {summary.num_shards} shards, "
        f"{summary.num_bytes / 1e6:,.1f} MB, data set {summary.digest[:12]}",
        f"{summary.num_planned - summary.num_resumed} clips in {summary.seconds:.1f} s "
        f"({summary.clips_per_second:.1f} clips/s), {summary.num_resumed} were there already",
    ]
    stages = ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in asdict(summary.stages).items())
    lines.append(f"seconds in each stage: {stages}")
    if summary.num_failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.failures.items())
        lines.append(f"{summary.num_failed} failed: {reasons}; each one is a line of {out / 'failures.jsonl'}")
    return "\n".join(lines) + "\n"
