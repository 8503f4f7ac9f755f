"""`reelshard bench`: how fast batches come, against the ceilings of the machine and against what people use today."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.bench.about import command, machine
from tools.bench.link import latency, link_rates
from tools.bench.step import add_arguments as add_step_arguments

if TYPE_CHECKING:
    from shards.dataset import ShardDataset

BATCH_SIZE = 32
NUM_BUILD_CLIPS = 384  # enough that starting processes and syncing one shard do not count

HELP = "measure the loader against the machine's ceilings and against other loaders; or building, or training"
DESCRIPTION = """
Measures clips per second of batches from DATASET, everything in one run and in turn: the loader, a bare loop that
copies the same bytes with the same threads, and other loaders, each at the best of a few settings. Every batch of the
first epoch is checked as it arrives, then one in four. Ratios hold on a shared machine, absolute rates only on a quiet
one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = DESCRIPTION
    parser.add_argument("data", type=Path, nargs="?", metavar="DATASET", help="the data set; made with --synthesize")
    parser.add_argument("--recipe", help="measure how fast DATASET is read as this recipe's system reads it, no others")
    parser.add_argument("--source", default="", metavar="NAME", help="with --recipe: as this source of a mix")
    parser.add_argument("--build", action="store_true", help="measure the builder instead, on videos made for it")
    parser.add_argument("--teacher", metavar="ID_OR_PATH", help="with --build: also this VideoMAE and builds with it")
    parser.add_argument("--device", help="of --train, or the teacher's of --build: such as cuda:0 (default: auto)")
    parser.add_argument(
        "--synthesize", type=int, metavar="N", help="make DATASET with N samples of the reference geometry"
    )
    parser.add_argument("--mask", type=float, default=None, metavar="RATIO", help="tube mask ratio, such as 0.75")
    parser.add_argument(
        "--copies", action="store_true", help="measure the copy alone, in each way that this CPU has, and nothing else"
    )
    parser.add_argument(
        "--codecs", action="store_true", help="measure DATASET's samples stored by each codec, and nothing else"
    )
    parser.add_argument(
        "--remote",
        nargs="?",
        const="serve",
        metavar="URL",
        help="measure the same data set at URL, through an empty cache and a full one, beside bare obstore and DATASET "
        "here; without URL from an HTTP server that is started on this machine",
    )
    parser.add_argument(
        "--link",
        type=link_rates,
        default=(),
        metavar="MB/S,...",
        help="with --remote without URL: the server gives so much a second to all connections together; measured at "
        "each of several rates (default: what the machine can do)",
    )
    parser.add_argument(
        "--latency", type=latency, metavar="MS", help="with --remote without URL: milliseconds before each answer"
    )
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each measurement")
    parser.add_argument("--threads", type=_numbers, default=(1, 2, 4), metavar="N,...", help="thread counts to try")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="samples per batch of a rank (default: 32)")
    parser.add_argument(
        "--against", type=_names, default=(), metavar="NAME,...", help="webdataset,dali,mosaicml,litdata,memmap"
    )
    parser.add_argument(
        "--verify", type=_settings, default=(), metavar="NAME,...", help="also with these: never,sample,first,always"
    )
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="N loader processes at once on one data set")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contender and round (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn (default: 3)")
    parser.add_argument(
        "--limits", action="store_true", help="also: interpreter time, state, start with a million samples"
    )
    add_step_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a bar chart")


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",") if part)
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"positive whole numbers joined by commas, got {text!r}")
    return numbers


def _names(text: str) -> tuple[str, ...]:
    from tools.bench.peers import PEERS

    names = tuple(part for part in text.split(",") if part)
    if unknown := set(names) - set(PEERS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is not one of {', '.join(PEERS)}")
    return names


def _settings(text: str) -> tuple[str, ...]:
    from typing import get_args

    from pipeline.config import Verify

    names, allowed = tuple(part for part in text.split(",") if part), get_args(Verify)
    if unknown := set(names) - set(allowed):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is not one of {', '.join(allowed)}")
    return names


def run(args: argparse.Namespace) -> int:
    """Measure and report."""
    from tools.bench import codecs, copies
    from tools.bench.report import draw, print_report

    logging.getLogger().setLevel(logging.WARNING)
    other = _other_measurement(args)
    if other is not None:
        return other(args)
    dataset = _open(args)
    if args.copies:
        return copies.run(args, dataset, machine())
    if args.codecs:
        return codecs.run(args, dataset, machine())
    if args.remote is not None:
        from tools.bench.remote import run_remote

        return run_remote(args)
    if len(dataset) < args.batch_size * args.ranks:
        raise ValueError(f"{len(dataset)} samples do not fill one batch of {args.batch_size} on {args.ranks} ranks")
    results = measure(args)
    results |= {"machine": machine(), "mask_ratio": args.mask}
    results["command"] = command(args)
    print_report(results, dataset)
    if args.json:
        from shards.format.publish import publish_json

        publish_json(args.json, results)
    if args.png:
        draw(results, args.png)
    return 0


def _open(args: argparse.Namespace) -> ShardDataset:
    """The data set that is measured, made where that is asked for.

    Raises:
        ValueError: there is none, or it is not one whose tubes are measured.
    """
    from shards.dataset import ShardDataset
    from tools.bench.synthesize import synthesize
    from tools.progress import track

    if args.data is None:
        raise ValueError("bench needs a DATASET, or --build to measure the builder")
    if args.synthesize is not None and not (args.data / "dataset.json").exists():
        with track("synthesizing", total=args.synthesize, unit="samples") as advance:
            synthesize(args.data, args.synthesize, progress=advance)
    dataset = ShardDataset.open(args.data)
    if dataset.mirror is not None:
        raise ValueError(f"bench measures a local DATASET; give `reelshard bench COPY --remote {dataset.place}`")
    for name in ("clip", "target"):
        if dataset.schema[name].layout != "tubes":
            raise ValueError(
                f"bench needs clip and target in the tubes layout; {name} is {dataset.schema[name].layout}"
            )
        if dataset.schema[name].codec is not None:
            raise ValueError(f"{name} is stored by a codec: give a set that is not, and --codecs to compare codecs")
    return dataset


def _other_measurement(args: argparse.Namespace) -> Callable[[argparse.Namespace], int] | None:
    """What is measured in the place of the loader, by the flags.

    Raises:
        ValueError: they do not belong together.
    """
    if (args.link or args.latency is not None) and args.remote != "serve":
        raise ValueError("--link and --latency are kept by the server of --remote without URL, and by no other")
    if args.train is not None:
        return run_step
    if args.batch_sizes or args.variants or args.peak_tflops or args.peak_gb_per_second:
        raise ValueError("--batch-sizes, --variants and --peak-... have a meaning with --train RECIPE only")
    if (args.teacher or args.device) and not (args.build and args.teacher):
        raise ValueError("--teacher and --device measure builds with a teacher: give `--build --teacher ID_OR_PATH`")
    if args.build:
        return run_build
    if args.recipe is not None and args.data is not None:
        return run_system
    if args.source or getattr(args, "overrides", []):
        raise ValueError("values of a recipe and --source have a meaning with --recipe NAME only")
    return None


def run_system(args: argparse.Namespace) -> int:
    """Measure how fast a system's reads are served, and report."""
    from shards.format.publish import publish_json
    from tools.bench.system import measure_reads, report
    from tools.recipe import load_recipe

    defaults = {"ranks": 1, "batch_size": BATCH_SIZE}  # the recipe has a batch size of its own
    for name in ("mask", "synthesize", "against", "verify", "limits", "png", "ranks", "batch_size"):
        if getattr(args, name) not in (None, (), False, defaults.get(name)):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} has no meaning with --recipe, which measures how its own system reads")
    for override in args.overrides:
        if override.startswith(("--train.", "--optim.")):
            raise ValueError(f"{override} has no effect on reading; --train RECIPE measures training")
    recipe = load_recipe(args.recipe, args.overrides)
    rates, draw = measure_reads(
        recipe,
        args.data,
        args.source,
        readers=("pread", "direct") if args.cold else ("mmap", "pread"),
        threads=args.threads,
        seconds=args.seconds,
        rounds=args.rounds,
        cold=args.cold,
    )
    results = report(recipe, rates, draw, machine())
    if args.json:
        publish_json(args.json, results)
    return 0


def run_step(args: argparse.Namespace) -> int:
    """Measure how fast a system trains, and report."""
    from tools.bench.step import run

    defaults = {"ranks": 1, "batch_size": BATCH_SIZE}
    others = ("recipe", "build", "teacher", "mask", "cold", "against", "verify", "limits", "png", "ranks", "batch_size")
    for name in others:
        if getattr(args, name) not in (None, (), False, defaults.get(name)):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} has no meaning with --train, which takes the recipe's values and --batch-sizes")
    return run(args, machine())


def run_build(args: argparse.Namespace) -> int:
    """Measure the builder and report."""
    from rich.console import Console
    from rich.table import Table

    from model.teacher import TeacherConfig
    from shards.format.publish import publish_json
    from tools.bench.build import measure_build
    from tools.bench.teacher_rate import measure_teacher
    from tools.systems.clips import load_teacher

    title, teacher = f"reelshard bench --build on {machine()}", None
    if args.teacher:
        device = args.device or "auto"
        teacher = load_teacher(TeacherConfig(id=args.teacher), device)
    rates = measure_build(num_clips=NUM_BUILD_CLIPS, workers=args.threads, rounds=args.rounds)
    if teacher is not None:
        facts = teacher.provenance
        title += f"; teacher {facts['id']}, {facts['dtype']}, on {facts['device']}"
        most_clips = 4 * NUM_BUILD_CLIPS
        rates += measure_teacher(teacher, workers=args.threads, rounds=args.rounds, most_clips=most_clips)
    columns = ["stage", "workers", "clips/s", "CPU, ms per clip", *(["teacher waits"] if teacher is not None else [])]
    table = Table(*columns, title=title)
    for rate in rates:
        waits = [] if rate.decode_wait_share is None else [f"{rate.decode_wait_share:.0%}"]
        table.add_row(rate.what, str(rate.workers), f"{rate.per_second:.1f}", f"{rate.cpu_milliseconds:.1f}", *waits)
    Console().print(table)
    if args.json:
        publish_json(args.json, [asdict(rate) for rate in rates])
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All numbers, as JSON."""
    from shards.dataset import ShardDataset
    from tools.bench.contenders import Case
    from tools.bench.limits import measure_limits
    from tools.bench.rounds import measure_contenders, measure_ranks
    from tools.bench.storage import best_read_rate

    dataset = ShardDataset.open(args.data)
    contenders, skipped = measure_contenders(args)
    measured = {name: asdict(result) | {"rate": result.rate} for name, result in contenders}
    copy = next(name for name in measured if name.startswith("copy"))
    results: dict[str, Any] = {"copy_clips_per_second": measured.pop(copy)["rate"], "contenders": measured}
    results["skipped"] = skipped
    if args.cold:
        paths = [dataset.tar_path(shard) for shard in range(dataset.num_shards)]
        results["storage_bytes_per_second"], results["storage_way"] = best_read_rate(paths)
    if args.ranks > 1:
        results["ranks"] = [asdict(result) | {"rate": result.rate} for result in measure_ranks(args)]
    if args.limits:
        results["limits"] = measure_limits(Case(mask_ratio=args.mask, batch_size=args.batch_size))
    return results
