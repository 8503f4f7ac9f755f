"""`reelshard add-field`: further fields for a data set, in tars of their own beside its samples."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.engines import open_engine
from tools.signals import exit_status

if TYPE_CHECKING:
    from model.teacher import TeacherConfig
    from model.teachers import AnyTeacher
    from shards.builder import BuildSummary
    from shards.dataset import ShardDataset
    from shards.format.schema import Field

HELP = "add the targets of a further teacher, a table or a Zarr cache to a data set"
TEACHER_BATCH = {"clip": 16, "text": 256, "frames": 4}  # rows in one call; it shapes the bits

_DESCRIPTION = """Add a field group to SET: a further series of tars with the same keys in the same order.

--teacher sees what is stored: a VideoMAE of any size the clips, a CLIP the captions ('text' in the samples' JSON, or
all of 'captions', one a row), a SAM3 the JPEG frames. No video is decoded again. --table is a .csv or .tsv with a
column 'key', 'video_id' or 'id' that names the samples by key, or else by the id of their video; each other column
becomes a field. --zarr is a cache as `reelshard zarr` knows it.

What was stopped goes on where it was when the same command is run again. `reelshard drop-field` takes a group away."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument("data", type=Path, metavar="SET", help="folder of the data set")
    parser.add_argument(
        "--name", required=True, help="name of the group; also of the field, but a table's are called as its columns"
    )
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--teacher", metavar="ID_OR_PATH", help="id on the Hub, or folder made by save_pretrained")
    origin.add_argument("--table", type=Path, metavar="FILE", help="a .csv or .tsv file in UTF-8, with a header")
    origin.add_argument("--zarr", type=Path, metavar="CACHE", help="folder with targets.zarr and meta.jsonl")
    parser.add_argument(
        "--missing",
        metavar="VALUE",
        help="what stands for a sample without a row, for an empty cell of numbers, or for a sample that the teacher "
        "fails on (default: refuse these)",
    )
    parser.add_argument(
        "--projection-dim", type=int, metavar="DIM", help="project the tokens of a VideoMAE to DIM values"
    )
    parser.add_argument("--teacher-dtype", default="auto", help="auto (default), float32, float16 or bfloat16")
    parser.add_argument("--device", default="auto", help="the teacher's device, such as cuda:0 (default: auto)")
    parser.add_argument("--devices", help="several devices, such as cuda:0,cuda:1: one teacher and process for each")
    parser.add_argument("--workers", type=int, help="readers at work at once (default: one per CPU)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Add the group, and print what was added."""
    from shards.dataset import ShardDataset

    dataset = ShardDataset.open(args.data)
    try:
        summary = _add(args, dataset)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"reelshard: {str(stop) or 'stopped; run the same command again to go on'}\n")
        return exit_status(stop)
    sys.stdout.write(json.dumps(asdict(summary)) + "\n" if args.json else _describe(args, summary))
    return 0


def _add(args: argparse.Namespace, dataset: ShardDataset) -> BuildSummary:
    if args.teacher is not None:
        return _add_teacher(args, dataset)
    for name, default in (("projection_dim", None), ("teacher_dtype", "auto"), ("devices", None), ("engine", "local")):
        if getattr(args, name) != default:
            raise ValueError(f"--{name.replace('_', '-')} is for a teacher; leave it out")
    from shards.builder.add_group import add_table
    from shards.exchange.zarr import add_zarr
    from tools.progress import track

    notes: list[str] = []
    with track(f"adding {args.name}", total=len(dataset), unit="samples") as advance:
        if args.table is not None:
            summary = add_table(
                dataset, args.name, args.table, missing=args.missing, progress=advance, say=notes.append
            )
        elif args.missing is not None:
            raise ValueError("--missing is for a table or a teacher: a cache has to hold every sample")
        else:
            summary = add_zarr(dataset, args.name, args.zarr, progress=advance, say=notes.append)
    for note in notes:
        sys.stderr.write(f"reelshard: {note}\n")
    return summary


def _add_teacher(args: argparse.Namespace, dataset: ShardDataset) -> BuildSummary:
    from model.teacher import TeacherConfig
    from model.teachers import teacher_sees
    from shards.builder import BuildConfig
    from shards.builder.add_group import add_teacher_group, refuse_taken
    from shards.builder.samples.stored_frames import side_of_frames
    from tools.progress import track

    missing = None if args.missing is None else _number(args.missing)
    teacher = TeacherConfig(id=args.teacher, projection_dim=args.projection_dim, dtype=args.teacher_dtype)
    refuse_taken(dataset, args.name, [args.name])
    sees = teacher_sees(teacher)
    side = side_of_frames(dataset) if sees == "frames" else None
    config = BuildConfig(teacher_batch=TEACHER_BATCH[sees], workers=args.workers, time_limit_seconds=None)
    with (
        open_engine(args, partial(make_teacher, config=teacher, side=side)) as engine,
        track(f"adding {args.name}", total=len(dataset), unit="samples") as advance,
    ):
        return add_teacher_group(dataset, args.name, engine, config, missing=missing, progress=advance)


def make_teacher(device: str, *, config: TeacherConfig, side: int | None) -> AnyTeacher:
    """Load the teacher on a device."""
    from model.teachers import load_teacher

    return load_teacher(config, device, side)


def _shape(field: Field) -> str:
    """What a sample holds of a field, in words."""
    if not field.is_npy:
        return "text"
    first = ["rows"] if field.is_rows else []
    lengths = [*first, *map(str, field.row_shape if field.is_rows else field.fixed_shape)]
    return f"{field.dtype} [{', '.join(lengths)}]"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--missing is {text!r}; for a teacher give a number, such as 0 or nan") from None


def _describe(args: argparse.Namespace, summary: BuildSummary) -> str:
    """The summary as lines for people."""
    from shards.dataset import ShardDataset
    from tools.terminal import clean

    added = ShardDataset.open(args.data).schema.of_group(args.name)
    fields = ", ".join(f"{field.name} {_shape(field)}" for field in added)
    lines = [
        f"{args.data}: {fields} for {summary.num_planned} samples in {summary.num_shards} shards, "
        f"{summary.num_bytes / 1e6:,.1f} MB, {summary.num_resumed} samples were there already, "
        f"data set {(summary.digest or '')[:12]}"
    ]
    if summary.num_failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.failures.items())
        where = args.data / f"failures.{args.name}.jsonl"
        lines.append(f"{summary.num_failed} hold {args.missing} instead: {reasons}; each one is a line of {where}")
    return "".join(f"{clean(line)}\n" for line in lines)
