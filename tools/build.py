"""`reelshard build`: videos and annotations to a data set of shards.

reelshard build --recipe RECIPE --videos VIDEOS --annotations LABELS --split train --out ssv2/train --limit 1000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.words import spell_bytes
from tools.engines import open_engine, read_partition
from tools.signals import exit_status
from tools.systems import DEFAULT_RECIPE

if TYPE_CHECKING:
    from shards.builder import BuildSummary, Partition, SampleKind, Source
    from shards.builder.remote import RemoteFolder
    from tools.systems.base import Recipe

HELP = "turn videos into shards of clips and teacher targets, or of JPEG frames"
RECIPE_NAME = "recipe.yaml"

_DESCRIPTION = """Decode videos, run the frozen teacher over the clips, and pack both into shards.

The recipe says what a sample is: a clip with the teacher's targets, (recipe `frames`) JPEG frames with their times, or
annotated frames with masks and a SAM3's features.

Videos are Something-Something v2 (--annotations is the folder of its JSON files; they are found by themselves in the
folder of videos and in `labels` there), UCF101, MSR-VTT, MSVD or SA-V as they are downloaded (--videos is the folder of
all of it, zips included), a table (--annotations is a .csv or .tsv with a column 'path' and, optionally, 'id', 'label',
'text', 'split'), or a plain folder (no --annotations; subfolders are classes). Which it is follows from the names of
the files; --source says it where they do not.

A build that was stopped goes on where it was when the same command is run again. A video that cannot be used is a line
in OUT/failures.jsonl with its reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "--recipe", default=DEFAULT_RECIPE, help="recipe name or YAML file; its view, build and teacher sections count"
    )
    parser.add_argument(
        "--videos", type=Path, help="folder of videos, or of a download (default: that of --annotations)"
    )
    parser.add_argument(
        "--annotations", type=Path, help="folder of SSv2 annotations, a .csv or .tsv table, or a file of chats"
    )
    parser.add_argument(
        "--tars", metavar="LIST", help="of chats: tars of others, paths or URLs, such as 'webvid/{00000..00099}.tar'"
    )
    parser.add_argument("--source", help="ucf101, msrvtt, msvd, sav, ssv2, table or folder (default: what is there)")
    parser.add_argument("--fold", type=int, help="of UCF101: 1 (default), 2 or 3")
    parser.add_argument("--protocol", help="of MSR-VTT: 9k (default) or 7k; the test split is 1k-A of both")
    parser.add_argument("--masklets", help="of SA-V's training set: manual (default), auto or both")
    parser.add_argument("--split", default="train", help="split to build (default: train)")
    parser.add_argument(
        "--out", required=True, help="folder of the data set, or s3://BUCKET/PREFIX, gs://..., az://..."
    )
    parser.add_argument("--scratch", type=Path, help="local folder for shards on their way to object storage")
    parser.add_argument("--limit", type=int, help="build only so many clips")
    parser.add_argument(
        "--limit-order",
        choices=("random", "source"),
        default="random",
        help="what --limit takes: a repeatable random sample (default), or the first clips in the source's own order",
    )
    parser.add_argument(
        "--teacher",
        metavar="ID_OR_PATH",
        help="VideoMAE or SAM3, as the recipe has it: id or folder; 'none' for no targets (default: the recipe's)",
    )
    parser.add_argument(
        "--projection-dim",
        metavar="DIM",
        help="width of the targets; 'none' keeps the teacher's own (default: the recipe's)",
    )
    parser.add_argument("--device", default="auto", help="the teacher's device, such as cuda:0 (default: auto)")
    parser.add_argument("--teacher-dtype", help="auto, float32, float16 or bfloat16 (default: the recipe's)")
    parser.add_argument("--workers", type=int, help="decoders at work at once (default: one per CPU)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    parser.add_argument("--devices", help="several devices, such as cuda:0,cuda:1: one teacher and process for each")
    parser.add_argument(
        "--partition",
        nargs="?",
        const="auto",
        metavar="I/N",
        help="build only every N-th shard from the I-th on; "
        "without a value, or as auto/N, the place in a Slurm array, a Kubernetes indexed job or torchrun",
    )
    parser.add_argument(
        "--finalize", action="store_true", help="check that all partitions are there, write the manifest"
    )
    parser.add_argument(
        "--max-failures",
        metavar="N",
        help="stop when more videos fail: a count, a share such as 0.01, or null for never (default: the recipe's)",
    )
    parser.add_argument("--retry-failures", action="store_true", help="try failed videos again")
    parser.add_argument("--preflight", action="store_true", help="look at videos and disk space, build nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Build, and print what was built."""
    from shards.builder.remote import RemoteFolder, is_remote
    from shards.format.parse import check_name
    from tools.recipe import load_recipe
    from tools.systems import system_of

    check_name(args.split, "--split")
    recipe = load_recipe(args.recipe, [*args.overrides, *_shorthands(args)])
    system = system_of(recipe)
    system.check_build(recipe, look=False)
    partition = read_partition(args.partition)
    source = _open_source(args, recipe)
    for note in source.notes:
        sys.stderr.write(f"reelshard: {note}\n")
    name, remote = args.out, None
    if is_remote(name):
        remote = RemoteFolder(name, args.scratch or _scratch(name, partition))
    args.out = remote.scratch if remote else Path(name)
    try:
        if remote:
            remote.pull()
        _preflight(args, recipe, source)
        if args.preflight:
            return 0
        system.check_build(recipe, look=not args.finalize)
        summary = _build(args, recipe, source, partition, remote)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"reelshard: {str(stop) or 'stopped; run the same command again to go on'}\n")
        return exit_status(stop)
    unit = _unit(system.sample_kind(recipe))
    sys.stdout.write(json.dumps(asdict(summary)) + "\n" if args.json else describe(summary, name, unit))
    return 0


def _open_source(args: argparse.Namespace, recipe: Recipe) -> Source:
    """The items of a build, as the command line names them; a source that it names is that one, whatever the system."""
    from shards.builder import open_source
    from tools.systems import system_of

    system = system_of(recipe)
    named = {"source": args.source, "fold": args.fold, "protocol": args.protocol, "masklets": args.masklets}
    is_named = any(value is not None for value in named.values())
    if args.tars is not None:
        if args.videos or args.annotations:
            raise ValueError("--tars hold the videos and what is said of them: leave --videos and --annotations out")
        if is_named:
            raise ValueError("--tars hold chats: leave --source, --fold, --protocol and --masklets out")
        return system.open_tars(recipe, args.tars, args.scratch or _scratch(args.tars, None))
    if args.videos is None and args.annotations is None:
        raise ValueError("nothing to build from: give --videos, the folder of videos, or --annotations, or --tars")
    videos = args.videos or args.annotations.parent
    if is_named:
        return open_source(videos, args.annotations, args.split, **named)
    return system.open_source(recipe, videos, args.annotations, args.split)


def _shorthands(args: argparse.Namespace) -> list[str]:
    """The command's own flags for values of the recipe, as overrides of it."""
    given = {
        "build.workers": args.workers,
        "build.max_failures": args.max_failures,
        "teacher.id": args.teacher,
        "teacher.projection_dim": _projection_dim(args.projection_dim),
        "teacher.dtype": args.teacher_dtype,
    }
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def _projection_dim(given: str | None) -> str | None:
    if given == "none":
        return "null"
    if given is not None and (not given.isdecimal() or int(given) < 1):
        raise ValueError(f"--projection-dim is {given!r}; give a number of at least 1, or 'none'")
    return given


def _scratch(url: str, partition: Partition | None) -> Path:
    """Return a folder on this machine's temporary disk that the same command finds again."""
    digest = hashlib.sha256(f"{url} {partition}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"reelshard-{digest}"


def _preflight(args: argparse.Namespace, recipe: Recipe, source: Source) -> None:
    """Look at the videos before the first build starts a teacher, where it would stop at failures later."""
    from shards.builder.plan import make_plan
    from shards.builder.readiness import check_readiness, look_ahead, sample_bytes
    from shards.format.beside import PLAN_NAME
    from tools.systems import system_of

    begun = args.finalize or (args.out / PLAN_NAME).exists()
    if not args.preflight and (begun or recipe.build.max_failures is None):
        return
    plan = make_plan(source, system_of(recipe).sample_kind(recipe), recipe.build, **_which(args))
    found = look_ahead(plan, args.out, sample_bytes(plan.schema) + system_of(recipe).target_bytes(recipe))
    sys.stderr.write(f"preflight: {found.describe()}\n")
    check_readiness(found, plan)


def _which(args: argparse.Namespace) -> dict[str, Any]:
    """Which clips the plan takes."""
    if args.limit is None and args.limit_order != "random":
        raise ValueError(f"--limit-order {args.limit_order} has no meaning without --limit")
    return {"split": args.split, "limit": args.limit, "limit_order": args.limit_order}


def _build(
    args: argparse.Namespace, recipe: Recipe, source: Source, partition: Partition | None, remote: RemoteFolder | None
) -> BuildSummary:
    from shards.builder import build_dataset, finalize_dataset
    from shards.builder.samples.base import items_per_shard
    from tools.progress import track
    from tools.systems import system_of

    which, kind = _which(args), system_of(recipe).sample_kind(recipe)
    if args.finalize:
        summary = finalize_dataset(source, args.out, config=recipe.build, kind=kind, **which)
    else:
        total = min(args.limit or len(source.items), len(source.items))
        if partition is not None:
            each = items_per_shard(kind, recipe.build.samples_per_shard)
            total = min(total, len(partition.shards(-(-total // each))) * each)
        deliver = remote.push_shard if remote else None
        with (
            open_engine(args, partial(system_of(recipe).make_teacher, recipe), deliver) as engine,
            track("building", total=total, unit=_unit(kind)) as advance,
        ):
            summary = build_dataset(
                source,
                args.out,
                config=recipe.build,
                kind=kind,
                engine=engine,
                partition=partition,
                retry_failures=args.retry_failures,
                progress=advance,
                **which,
            )
    _save_recipe(recipe, args.out)
    if remote:
        remote.push_manifest()
    return summary


def _save_recipe(recipe: Recipe, out: Path) -> None:
    """Keep the recipe with its output, without what does not shape it: any machine leaves the same file."""
    from tools.recipe import save_resolved
    from tools.systems import system_of

    build = replace(recipe.build, workers=None, max_failures=None, time_limit_seconds=None)
    save_resolved(system_of(recipe).as_kept(replace(recipe, build=build)), out / RECIPE_NAME)


def _unit(kind: SampleKind) -> str:
    """What samples are called in words."""
    from shards.builder import ClipKind

    return "clips" if isinstance(kind, ClipKind) else "samples"


def describe(summary: BuildSummary, out: str, unit: str = "clips") -> str:
    """Return the summary as lines for people."""
    name = f"data set {summary.digest[:12]}" if summary.digest else "one partition; --finalize completes the data set"
    made = f"{summary.num_samples} of {summary.num_planned} {unit}"
    if summary.samples_per_item > 1:
        videos = f"{summary.num_planned - summary.num_failed} of {summary.num_planned} videos"
        made, unit = f"{summary.num_samples} {unit}, {summary.samples_per_item} of each of {videos},", "videos"
    lines = [
        f"{out}: {made} in {summary.num_shards} shards, {spell_bytes(summary.num_bytes)}, {name}",
        f"{summary.num_planned - summary.num_resumed} {unit} in {summary.seconds:.1f} s "
        f"({summary.clips_per_second:.1f} {unit}/s), {summary.num_resumed} were there already",
    ]
    stages = ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in asdict(summary.stages).items())
    lines.append(f"seconds in each stage: {stages}")
    lines += [f"{name} as its codec stores it: {fidelity}" for name, fidelity in summary.fidelity.items()]
    if summary.num_failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.failures.items())
        where = f"{out}/failures.jsonl"
        if not summary.digest and not Path(where).is_file():
            where = f"{out}/.build/*.failures.jsonl, and of failures.jsonl once --finalize has written it"
        lines.append(f"{summary.num_failed} failed: {reasons}; each one is a line of {where}")
    return "\n".join(lines) + "\n"
