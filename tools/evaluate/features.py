"""`reelshard evaluate features`: the frozen features of a data set, kept beside it or as arrays.

reelshard evaluate features ssv2/train --checkpoint runs/first --name first
torchrun --no-python --nproc-per-node 8 reelshard evaluate features ssv2/train --checkpoint runs/first --arrays features
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.datasets import add_cache_arguments, cache_of

if TYPE_CHECKING:
    from shards.dataset import ShardDataset
    from tools.evaluate.stored import TeacherRequest

HELP = "keep frozen features, as a field group or as arrays"
CLIPS_AT_ONCE = 16  # in one call of the encoder; it shapes the bits

_DESCRIPTION = """Encode every clip of SET once and keep its features in f16: the mean of the tokens, or all of them
with --tokens. --name adds them as a field group, on one device or on several (--devices), and `evaluate probe
--features NAME` reads it. --arrays writes an .npy file a shard, shared out over the ranks of `torchrun`. What was
stopped goes on when the same command is run again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from tools.evaluate.common import add_encoder_arguments

    parser.description = _DESCRIPTION
    parser.add_argument("data", type=Path, metavar="SET", help="folder of the data set; with --arrays, or its URL")
    add_cache_arguments(parser)
    add_encoder_arguments(parser, reading=False)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--name", help="of the field group to be")
    where.add_argument("--arrays", type=Path, metavar="DIR", help="folder for the arrays and features.json")
    parser.add_argument("--tokens", action="store_true", help="keep all tokens, not their mean")
    parser.add_argument("--layer", type=int, metavar="N", help="of the encoder (default: the last)")
    parser.add_argument("--devices", help="for --name: several devices, such as cuda:0,cuda:1: one process for each")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from shards.dataset import ShardDataset
    from tools.evaluate.stored import TeacherRequest

    dataset = ShardDataset.open(args.data, cache_of(args))
    request = TeacherRequest(args.checkpoint, args.dtype, args.layer, not args.tokens, tuple(args.overrides))
    summary = _add_group(args, dataset, request) if args.name else _write_arrays(args, dataset, request)
    if summary:
        line = f"{summary['where']}: {summary['num_samples']} samples, {summary['num_bytes'] / 1e6:,.1f} MB"
        print(json.dumps(summary) if args.json else line)
    return 0


def _add_group(args: argparse.Namespace, dataset: ShardDataset, request: TeacherRequest) -> dict[str, Any]:
    """Add the features as any teacher's targets are added: resumable, by as many processes as there are devices."""
    from pipeline.world import World
    from shards.builder import BuildConfig
    from shards.builder.add_group import add_teacher_group, refuse_taken
    from shards.dataset import ShardDataset as Opened
    from tools.encoders import recipe_behind
    from tools.engines import open_engine
    from tools.evaluate.stored import make_encoder_teacher
    from tools.progress import track
    from tools.signals import exit_status

    if World.from_env().size > 1:
        raise ValueError("--name adds a field group from one process: leave torchrun out and give --devices")
    refuse_taken(dataset, args.name, [args.name])
    recipe_behind(request.checkpoint, request.overrides)  # what is no checkpoint is said before processes start
    args.engine = "local"
    config = BuildConfig(teacher_batch=CLIPS_AT_ONCE, time_limit_seconds=None)
    try:
        with (
            open_engine(args, partial(make_encoder_teacher, request=request)) as engine,
            track(f"adding {args.name}", total=len(dataset), unit="clips") as advance,
        ):
            _refuse_other_view(engine.facts(), dataset)
            summary = add_teacher_group(dataset, args.name, engine, config, progress=advance)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"reelshard: {str(stop) or 'stopped; run the same command again to go on'}\n")
        raise SystemExit(exit_status(stop)) from None
    where = f"{args.data}, field {args.name}"
    digest = Opened.open(args.data).digest
    return {
        "where": where,
        "num_samples": summary.num_planned,
        "num_bytes": summary.num_bytes,
        "num_resumed": summary.num_resumed,
        "digest": digest,
    }


def _refuse_other_view(facts: object, dataset: ShardDataset) -> None:
    from shards.format.views import refuse_other_views, single_view_hash

    provenance = getattr(facts, "provenance", {})
    if provenance.get("view_hash"):
        views = {dataset.place: single_view_hash(dataset.manifest)}
        refuse_other_views({**views, f"the data of {provenance['id']}": provenance["view_hash"]})


def _write_arrays(args: argparse.Namespace, dataset: ShardDataset, request: TeacherRequest) -> dict[str, Any] | None:
    """Write the arrays by all ranks; rank 0 sums up."""
    from pipeline.world import World
    from tools.evaluate.arrays import write_arrays
    from tools.evaluate.common import choose_device
    from tools.progress import track
    from training.distributed import process_group, use_device

    if args.devices:
        raise ValueError("--devices is for --name; arrays are shared out over the ranks of torchrun")
    world = World.from_env()
    device = choose_device(args.device, world)
    use_device(device)
    with process_group(world, device):
        teacher = request.make(str(device))
        _refuse_other_view(teacher, dataset)
        with track("encoding", total=len(dataset), unit="clips") as advance:
            return write_arrays(args.arrays, dataset, teacher, world, at_once=CLIPS_AT_ONCE, advance=advance)
