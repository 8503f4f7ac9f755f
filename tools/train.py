"""Train a student: `reelshard train`, or `torchrun -m tools.train` with the same arguments.

reelshard train --recipe st_jepa_ssv2 --data ssv2/train --out runs/st_jepa --train.steps 2000
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from pipeline.world import World
    from shards.dataset import ShardDataset
    from tools.recipe import Recipe
    from training.loop import Trainer, TrainSummary

HELP = "train a student on a data set by a recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard train`."""
    parser.add_argument("--recipe", default="st_jepa_ssv2", help="name of a recipe, or path of a YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: metrics, curves, checkpoints")
    parser.add_argument(
        "--resume",
        default="never",
        help="auto: go on from the newest whole checkpoint in --out, if there is one; or the path of a checkpoint",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a summary as one line of JSON, and the rest to stderr"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from tools.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    report = functools.partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    command = shlex.join(sys.argv)
    try:
        summary = train(recipe, args.data, args.out, resume=args.resume, report=report, command=command)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    if args.json:
        print(json.dumps({**dataclasses.asdict(summary), "checkpoint": str(summary.checkpoint)}))
    return 0


def train(
    recipe: Recipe,
    data: Path,
    run_dir: Path,
    *,
    resume: str = "never",
    report: Callable[[str], None] = print,
    command: str = "",
) -> TrainSummary:
    """Train by a recipe and leave a run folder that explains itself.

    Args:
        recipe: the resolved configuration.
        data: the training data set.
        run_dir: the folder of the run.
        resume: "never", "auto", or the path of a checkpoint.
        report: takes each line meant for the terminal.
        command: what the run was started with, for the record.

    Raises:
        ValueError: If the folder holds a run already and `resume` is "never"; or data set, recipe and checkpoint do
            not fit together.
    """
    import torch

    from pipeline.world import World
    from shards.dataset import ShardDataset
    from tools.recipe import save_resolved
    from tools.systems import make_objective, make_training_loader
    from training.loop import Trainer

    world = World.from_env()
    if world.size > 1:
        raise ValueError(f"WORLD_SIZE is {world.size}; training runs in one process so far, start it without torchrun")
    dataset = ShardDataset.open(data)
    device = recipe.train.torch_device(world.local_rank)
    torch.manual_seed(recipe.train.seed)
    loader = make_training_loader(recipe, dataset, device, world)
    trainer = Trainer(
        make_objective(recipe.model),
        loader,
        config=recipe.train,
        optim=recipe.optim,
        recipe=as_json(recipe),
        run_dir=run_dir,
        report=report,
    )
    try:
        _resume(trainer, run_dir, resume, report)
        run_dir.mkdir(parents=True, exist_ok=True)
        save_resolved(recipe, run_dir / "recipe.yaml")
        _describe(run_dir, dataset, device, command)
        _announce(trainer, dataset, recipe, world, report)
        return trainer.run()
    finally:
        loader.close()


def as_json(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain JSON values, the form that checkpoints keep."""
    record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return record


def _resume(trainer: Trainer, run_dir: Path, resume: str, report: Callable[[str], None]) -> None:
    from training.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint

    root = run_dir / "checkpoints"
    if resume == "never":
        if list_checkpoints(root):
            raise ValueError(f"{run_dir} holds a run already; go on with --resume auto, or choose another --out")
        return
    checkpoint = newest_checkpoint(root) if resume == "auto" else load_checkpoint(Path(resume))
    if checkpoint is not None:
        trainer.resume(checkpoint)
        report(f"resuming after step {checkpoint.step}")


def _describe(run_dir: Path, dataset: ShardDataset, device: torch.device, command: str) -> None:
    """Write `run.json`: what was run, on which data, with which versions."""
    import torch

    from shards.publish import publish_json

    record = {
        "command": command,
        "dataset": {"path": str(dataset.directory), "digest": dataset.digest, "num_samples": len(dataset)},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    publish_json(run_dir / "run.json", record)


def _announce(
    trainer: Trainer, dataset: ShardDataset, recipe: Recipe, world: World, report: Callable[[str], None]
) -> None:
    num_parameters = sum(p.numel() for p in trainer.objective.parameters())
    batch, data = recipe.data.global_batch_size, recipe.data
    epochs = recipe.train.steps / len(trainer.loader)
    report(f"data     {dataset.directory} ({dataset.manifest.split}): {len(dataset):,} samples, {dataset.digest[:12]}")
    report(f"loader   batch {batch} on {world.size} rank(s), reader {data.reader}, {data.threads} threads")
    report(f"student  {num_parameters:,} parameters on {trainer.device}, predictor included")
    report(f"run      {recipe.train.steps:,} steps = {epochs:.1f} epochs, into {trainer.run_dir}")


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
