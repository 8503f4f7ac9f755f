"""Train a student: `reelshard train`.

reelshard train --recipe RECIPE --data ssv2/train --out runs/first --train.steps 2000
torchrun --no-python --nproc-per-node 8 reelshard train --recipe RECIPE --data ssv2/train --out runs/first --resume auto
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tools.datasets import add_data_argument, parse_paths, refuse_other_mix
from tools.systems import DEFAULT_RECIPE

if TYPE_CHECKING:
    from pipeline.world import World
    from tools.systems.base import Recipe
    from training.loop import TrainSummary

HELP = "train a student on a data set by a recipe"


EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped in good order, to be started again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard train`."""
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, help="name of a recipe, or path of a YAML file")
    add_data_argument(parser, help_text="folder of the training data set")
    parser.add_argument(
        "--val",
        metavar="[NAME=]PATH",
        help="folder of a held-out data set, of the source NAME of a mix: every checkpoint takes its loss",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: metrics, curves, checkpoints")
    parser.add_argument("--epochs", type=int, help="passes over the data (default: the recipe's train.epochs)")
    parser.add_argument(
        "--init", type=Path, help="safetensors file of a ViT or VideoMAE to start the encoder from; or another run"
    )
    parser.add_argument(
        "--resume",
        default="never",
        help="auto: go on from the newest whole checkpoint in --out, if there is one; or the path of a checkpoint",
    )
    parser.add_argument(
        "--requeue-code",
        type=int,
        default=EXIT_REQUEUE,
        help="exit status after SIGTERM, when a checkpoint was saved and --resume auto goes on from it (default 75)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a summary as one line of JSON, and the rest to stderr"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pipeline.world import World
    from tools.recipe import load_recipe

    epochs = [] if args.epochs is None else [f"--train.epochs={args.epochs}"]
    recipe = load_recipe(args.recipe, [*args.overrides, *epochs])
    world = World.from_env()
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s rank {world.rank} %(threadName)s %(levelname)s: %(message)s"
    )
    if world.rank == 0:
        logging.getLogger("pipeline.loader").setLevel(logging.INFO)  # which reader `auto` chose, and why
    report = functools.partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    paths = parse_paths(args.data)
    refuse_other_mix(recipe.data, paths)
    try:
        summary = train(
            recipe,
            paths,
            args.out,
            val=None if args.val is None else parse_paths([args.val]),
            init=args.init,
            resume=args.resume,
            world=world,
            report=report,
            command=shlex.join(sys.argv),
        )
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    if args.json and world.rank == 0:
        print(json.dumps({**dataclasses.asdict(summary), "checkpoint": str(summary.checkpoint)}))
    return args.requeue_code if summary.stopped else 0


def train(
    recipe: Recipe,
    data: Path | Mapping[str, Path],
    run_dir: Path,
    *,
    val: Path | Mapping[str, Path] | None = None,
    init: Path | None = None,
    resume: str = "never",
    world: World | None = None,
    report: Callable[[str], None] = print,
    command: str = "",
) -> TrainSummary:
    """Train by a recipe and leave a run folder that explains itself.

    Args:
        recipe: the resolved configuration.
        data: the training data set, or those of a mix by source.
        run_dir: the folder of the run.
        val: a held-out data set, of which every checkpoint takes the loss; of a mix, with its source.
        init: weights for the encoder, see `model.weights`; or another run's folder or checkpoint.
        resume: "never", "auto", or the path of a checkpoint.
        world: which of how many ranks this is; the environment says so where it is None.
        report: takes each line meant for the terminal; called on rank 0 only.
        command: what the run was started with, for the record.

    Raises:
        ValueError: If the folder holds a run already and `resume` is "never"; or data set, recipe and checkpoint do
            not fit together.
    """
    from pipeline.world import World
    from tools.job import Job, prepare, resume_from
    from tools.launch import launch_lines, record_run
    from training.distributed import process_group, use_device

    world = world or World.from_env()
    device = recipe.train.torch_device(world.local_rank)
    use_device(device)
    job = Job(
        recipe=recipe,
        data=_by_source(data),
        run_dir=run_dir,
        val=_by_source(val or {}),
        init=init,
        world=world,
        device=device,
        report=report,
    )
    with process_group(world, device), contextlib.ExitStack() as stack:
        prepared = prepare(job, stack)
        trainer = prepared.trainer
        notes = [*prepared.notes, *resume_from(trainer, resume)]
        if trainer.leads:
            record_run(prepared, command=command)
            for line in (*launch_lines(prepared), *notes):
                report(line)
        return trainer.run()


def _by_source(data: Path | Mapping[str, Path]) -> Mapping[str, Path]:
    return {"": data} if isinstance(data, Path) else data


if __name__ == "__main__":
    from tools.__main__ import main

    sys.exit(main(["train", *sys.argv[1:]]))
