"""What a training run says about itself before its first step: lines for the terminal, `recipe.yaml`, `run.json`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from pipeline.config import LoaderConfig
from shards.dataset import ShardDataset
from shards.format.publish import publish_json
from shards.format.views import view_hash
from tools.recipe import save_resolved
from tools.revision import git_revision, package_versions
from tools.systems import system_of
from tools.systems.base import Recipe
from training.loop import Trainer


def record_run(
    trainer: Trainer, recipe: Recipe, dataset: ShardDataset, val: Path | None, *, loader: LoaderConfig, command: str
) -> None:
    """Write `recipe.yaml` and `run.json`: what was run, on which data, by which code, with which versions.

    Args:
        trainer: about to run.
        recipe: the resolved configuration, its steps counted out.
        dataset: the training data set.
        val: the held-out data set.
        loader: how the training data set is read, with what the system and the device made of the recipe's `data`.
        command: what the run was started with.
    """
    trainer.run_dir.mkdir(parents=True, exist_ok=True)
    save_resolved(recipe, trainer.run_dir / "recipe.yaml")
    device = trainer.device
    record = {
        "command": command,
        "started_after_step": trainer.step,
        "git_revision": git_revision(),
        "dataset": {
            "path": str(dataset.directory),
            "digest": dataset.digest,
            "num_samples": len(dataset),
            "view_hash": view_hash(dataset.manifest),
        },
        "validation": None if val is None else str(val),
        "loader": dataclasses.asdict(loader),
        "num_ranks": trainer.world.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "precision": _precision(trainer),
        "versions": package_versions(),
    }
    publish_json(trainer.run_dir / "run.json", record)


def launch_lines(trainer: Trainer, dataset: ShardDataset, recipe: Recipe, val: Path | None) -> list[str]:
    """What a run is about to do, for the terminal."""
    system = system_of(recipe)
    data, train, world = recipe.data, recipe.train, trainer.world
    num_parameters = sum(p.numel() for p in trainer.objective.parameters())
    per_rank = data.global_batch_size // world.size
    chunks = f" in chunks of {train.chunk_size}" if train.chunk_size and train.chunk_size < per_rank else ""
    steps_left = trainer.num_steps - trainer.step
    return [
        f"data     {dataset.directory.resolve()}, split {dataset.manifest.split}: {len(dataset):,} samples in "
        f"{len(dataset.manifest.shards)} shards, digest {dataset.digest[:12]}",
        *(f"{heading:<8} {text}" for heading, text in system.describe(recipe, dataset).items()),
        f"held out {val.resolve() if val else 'none; give one with --val'}",
        f"loader   reader {data.reader}, {data.threads} threads, {data.slabs} slabs, seed {data.seed}, verify "
        f"{data.verify}, on error {data.on_error} (at most {data.most_quarantined(len(dataset)):,} samples)",
        f"batch    {data.global_batch_size} = {world.size} rank(s) x {per_rank}{chunks}",
        f"student  {system.name}, {num_parameters:,} parameters, {_precision(trainer)} on {trainer.device}",
        f"run      {trainer.num_steps:,} steps = {trainer.num_steps / len(trainer.loader):.1f} epochs, into "
        f"{trainer.run_dir}; {steps_left:,} to go, the expected time comes with each line",
    ]


def _precision(trainer: Trainer) -> str:
    return str(trainer.learner.dtype or "float32").removeprefix("torch.")
