"""Train a student: `reelshard train`.

reelshard train --recipe RECIPE --data ssv2/train --out runs/first --train.steps 2000
torchrun --no-python --nproc-per-node 8 reelshard train --recipe RECIPE --data ssv2/train --out runs/first --resume auto
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tools.datasets import add_data_argument, parse_paths
from tools.systems import DEFAULT_RECIPE

if TYPE_CHECKING:
    from tools.job import Job
    from training.loop import TrainSummary

HELP = "train a student on a data set by a recipe"


EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped in good order, to be started again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard train`."""
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, help="name of a recipe, or path of a YAML file")
    add_data_argument(parser)
    parser.add_argument(
        "--val",
        metavar="[NAME=]PATH",
        help="folder of a held-out data set, of the source NAME of a mix: every checkpoint takes its loss",
    )
    parser.add_argument(
        "--evaluate",
        metavar="NAME",
        action="append",
        default=[],
        help="what every checkpoint measures besides, as `reelshard evaluate NAME` does: on the data, and on --val; "
        "train.best_metric may then be NAME_METRIC, such as probe_top1",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: metrics, curves, checkpoints")
    parser.add_argument("--epochs", type=int, help="passes over the data (default: the recipe's train.epochs)")
    parser.add_argument(
        "--init", type=Path, help="safetensors file of a ViT or VideoMAE to start the encoder from; or another run"
    )
    parser.add_argument(
        "--student",
        metavar="FOLDER_ID_OR_RUN",
        help="the student that a run begins with, for systems that take one (model.student)",
    )
    parser.add_argument(
        "--resume",
        default="never",
        help="auto: go on from the newest whole checkpoint in --out, if there is one; or the path of a checkpoint",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read a batch of each source, score it and go backward once, print shapes, what is trained and what is "
        "frozen, and the losses; write nothing",
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="write a trace of N steps, with every operation and kernel, to OUT/trace.json.gz",
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
    from tools.job import Job
    from tools.recipe import load_recipe

    if args.profile < 0:
        raise ValueError(f"--profile is {args.profile}; give a number of steps to trace")
    epochs = [] if args.epochs is None else [f"--train.epochs={args.epochs}"]
    student = [] if args.student is None else [f"--model.student={args.student}"]
    recipe = load_recipe(args.recipe, [*args.overrides, *student, *epochs])
    world = World.from_env()
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s rank {world.rank} %(threadName)s %(levelname)s: %(message)s"
    )
    if world.rank == 0:
        for chooser in ("pipeline.loader", "training.attention"):  # which reader `auto` chose, and why; which kernel
            logging.getLogger(chooser).setLevel(logging.INFO)
    report = functools.partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    job = Job(
        recipe=recipe,
        data=parse_paths(args.data),
        run_dir=args.out,
        val={} if args.val is None else parse_paths([args.val]),
        evaluate=tuple(args.evaluate),
        init=args.init,
        resume=args.resume,
        world=world,
        report=report,
        command=shlex.join(sys.argv),
        profile=args.profile,
    )
    try:
        if args.dry_run:
            show_first_step(job)
            return 0
        summary = train(job)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    if args.json and world.rank == 0:
        print(json.dumps({**dataclasses.asdict(summary), "checkpoint": str(summary.checkpoint)}))
    return args.requeue_code if summary.stopped else 0


def train(job: Job) -> TrainSummary:
    """Do a job, and leave a run folder that explains itself.

    Raises:
        ValueError: The folder holds a run already and is not to be resumed; or data set, recipe and checkpoint do not
            fit together.
    """
    from tools.job import opened
    from tools.launch import launch_lines, record_run

    with opened(job) as prepared:
        if prepared.trainer.leads:
            record_run(prepared)
            for line in launch_lines(prepared):
                job.report(line)
        return prepared.trainer.run()


def show_first_step(job: Job) -> None:
    """Say what a job's first step would be; nothing is written.

    Raises:
        ValueError: As for `train`.
        FloatingPointError: A loss or a gradient is not finite.
    """
    from tools.job import opened
    from tools.launch import launch_lines
    from training.dry_run import dry_run

    with opened(job) as prepared:
        for line in itertools.chain(launch_lines(prepared), dry_run(prepared.trainer)):
            if prepared.trainer.leads:
                job.report(line)


if __name__ == "__main__":  # as `torchrun -m tools.train`, which scripts of before say
    from tools.__main__ import main

    sys.exit(main(["train", *sys.argv[1:]]))
