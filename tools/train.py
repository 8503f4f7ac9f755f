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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tools.systems import DEFAULT_RECIPE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.world import World
    from tools.systems.base import Recipe
    from training.loop import Trainer, TrainSummary

HELP = "train a student on a data set by a recipe"


EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped in good order, to be started again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard train`."""
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, help="name of a recipe, or path of a YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data set")
    parser.add_argument("--val", type=Path, help="folder of a held-out data set: every checkpoint takes its loss")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: metrics, curves, checkpoints")
    parser.add_argument("--epochs", type=int, help="passes over the data (default: the recipe's train.epochs)")
    parser.add_argument("--init", type=Path, help="safetensors file of a ViT or VideoMAE to start the encoder from")
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
    try:
        summary = train(
            recipe,
            args.data,
            args.out,
            val=args.val,
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
    data: Path,
    run_dir: Path,
    *,
    val: Path | None = None,
    init: Path | None = None,
    resume: str = "never",
    world: World | None = None,
    report: Callable[[str], None] = print,
    command: str = "",
) -> TrainSummary:
    """Train by a recipe and leave a run folder that explains itself.

    Args:
        recipe: the resolved configuration.
        data: the training data set.
        run_dir: the folder of the run.
        val: a held-out data set, of which every checkpoint takes the loss.
        init: weights for the encoder, see `model.weights`.
        resume: "never", "auto", or the path of a checkpoint.
        world: which of how many ranks this is; the environment says so where it is None.
        report: takes each line meant for the terminal; called on rank 0 only.
        command: what the run was started with, for the record.

    Raises:
        ValueError: If the folder holds a run already and `resume` is "never"; or data set, recipe and checkpoint do
            not fit together.
    """
    from pipeline.world import World
    from training.distributed import process_group, use_device

    world = world or World.from_env()
    device = recipe.train.torch_device(world.local_rank)
    use_device(device)
    with process_group(world, device):
        return _train(
            recipe,
            data,
            run_dir,
            val=val,
            init=init,
            resume=resume,
            world=world,
            device=device,
            report=report,
            command=command,
        )


def _train(
    recipe: Recipe,
    data: Path,
    run_dir: Path,
    *,
    val: Path | None,
    init: Path | None,
    resume: str,
    world: World,
    device: torch.device,
    report: Callable[[str], None],
    command: str,
) -> TrainSummary:
    """`train` within the group of ranks, so that nothing of the run outlives it."""
    import torch

    from pipeline.loader import ShardLoader
    from shards.dataset import ShardDataset
    from shards.format.views import refuse_other_views, view_hash
    from tools.launch import launch_lines, record_run
    from tools.loaders import make_training_loader
    from tools.recipe import as_plain
    from tools.systems import system_of
    from training.loop import Trainer

    dataset = ShardDataset.open(data)
    torch.manual_seed(recipe.train.seed)
    system = system_of(recipe)
    objective = system.make_objective(recipe)
    with contextlib.ExitStack() as stack:
        loader = stack.enter_context(contextlib.closing(make_training_loader(recipe, dataset, device, world)))
        recipe = dataclasses.replace(recipe, train=recipe.train.resolved(loader.num_batches))
        held_out, notes = None, []
        if val is not None:
            held_out_set = ShardDataset.open(val)
            views = {str(data): view_hash(dataset.manifest), str(val): view_hash(held_out_set.manifest)}
            notes.append(f"views    {refuse_other_views(views)}")
            held_out = make_training_loader(recipe, held_out_set, device, world, held_out=True)
            stack.enter_context(contextlib.closing(held_out))
        notes += [] if init is None else _load_weights(system.encoder(objective), init)
        trainer = Trainer(
            objective,
            loader,
            config=recipe.train,
            optim=recipe.optim,
            recipe={**as_plain(recipe), "system": system.name},
            run_dir=run_dir,
            world=world,
            validation=held_out,
            report=report,
            key_of=dataset.key,
        )
        notes += _resume(trainer, resume)
        if trainer.leads:
            assert isinstance(loader.loader, ShardLoader)
            record_run(trainer, recipe, dataset, val, loader=loader.loader.config, command=command)
            for line in (*launch_lines(trainer, dataset, recipe, val), *notes):
                report(line)
        return trainer.run()


def _load_weights(encoder: nn.Module, path: Path) -> list[str]:
    import safetensors.torch
    from safetensors import SafetensorError

    from model.weights import load_encoder

    try:
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); convert the weights to one") from error
    unused = load_encoder(encoder, tensors)
    more = f"; not used: {', '.join(unused[:6])}{' ...' if len(unused) > 6 else ''}" if unused else ""
    return [f"weights  {path}: {len(tensors) - len(unused)} of {len(tensors)} tensors for the encoder{more}"]


def _resume(trainer: Trainer, resume: str) -> list[str]:
    """Go on from a checkpoint; rank 0 chooses which, so that all ranks take the same."""
    from training.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint
    from training.distributed import number_from_rank_zero

    root = trainer.checkpoints
    if resume == "never":
        if list_checkpoints(root):
            raise ValueError(
                f"{trainer.run_dir} holds a run already; go on with --resume auto, or choose another --out"
            )
        return []
    path: Path | None = Path(resume)
    if resume == "auto":
        found = newest_checkpoint(root) if trainer.leads else None
        step = number_from_rank_zero(-1 if found is None else found.step, trainer.world, trainer.device)
        path = None if step < 0 else root / f"step-{step:08d}"
    if path is None:
        return []
    checkpoint = load_checkpoint(path)
    trainer.resume(checkpoint)
    return [f"resume   resuming after step {checkpoint.step}, from {path}"]


if __name__ == "__main__":
    from tools.__main__ import main

    sys.exit(main(["train", *sys.argv[1:]]))
