"""What a training run says about itself before its first step: lines for the terminal, `recipe.yaml`, `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from shards.dataset import ShardDataset
from shards.format.publish import publish_json
from shards.format.views import view_hash
from shards.words import spell_bytes
from tools.datasets import full_place
from tools.job import OpenJob
from tools.loaders import record_of, spell_batch
from tools.recipe import save_resolved
from tools.revision import git_revision, package_versions
from tools.systems import system_of
from training.compiling import why_not_compiled
from training.loop import Trainer


def record_run(prepared: OpenJob) -> None:
    """Write `recipe.yaml` and `run.json`: what was run, on which data, by which code, with which versions."""
    trainer = prepared.trainer
    trainer.run_dir.mkdir(parents=True, exist_ok=True)
    save_resolved(prepared.recipe, trainer.run_dir / "recipe.yaml")
    held_out = prepared.held_out
    record = {
        "command": prepared.job.command,
        "started_after_step": trainer.step,
        "git_revision": git_revision(),
        **_by_source("dataset", {name: _identity(dataset) for name, dataset in prepared.datasets.items()}),
        "validation": None if held_out is None else held_out.place,
        **_by_source("loader", {n: record_of(s.config, s.reads) for n, s in prepared.loader.sources.items()}),
        "num_ranks": trainer.world.size,
        "device": trainer.accelerator.name,
        "precision": _precision(trainer),
        "versions": package_versions(),
    }
    publish_json(trainer.run_dir / "run.json", record)


def _by_source(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Of a single data set what was found, as `NAME`; of several, of each, as `NAMEs`."""
    if len(found) == 1:
        return {name: next(iter(found.values()))}
    return {f"{name}s": dict(found)}


def _identity(dataset: ShardDataset) -> dict[str, Any]:
    return {
        "path": dataset.place,
        "digest": dataset.digest,
        "num_samples": len(dataset),
        "view_hash": view_hash(dataset.manifest),
    }


def launch_lines(prepared: OpenJob) -> list[str]:
    """What a run is about to do, for the terminal."""
    trainer, recipe, held_out = prepared.trainer, prepared.recipe, prepared.held_out
    system, data = system_of(recipe), recipe.data
    num_parameters = sum(p.numel() for p in trainer.objective.parameters())
    num_samples = sum(map(len, prepared.datasets.values()))
    steps_left = trainer.num_steps - trainer.step
    return [
        *(line for name, dataset in prepared.datasets.items() for line in _data_lines(prepared, name, dataset)),
        f"held out {full_place(held_out) if held_out else 'none; give one with --val'}",
        f"loader   reader {data.reader}, {data.num_threads(trainer.world)} threads, {data.slabs} slabs, "
        f"seed {data.seed}, verify {data.verify}, on error {data.on_error} "
        f"(at most {data.most_quarantined(num_samples):,} samples)",
        f"batch    {spell_batch(prepared.loader, recipe, trainer.world)}",
        f"student  {system.name}, {num_parameters:,} parameters, {_precision(trainer)} on {_device(trainer)}, "
        f"{_compiled(trainer)}",
        *_halved(trainer),
        f"run      {trainer.num_steps:,} steps = {trainer.num_steps / len(trainer.loader):.1f} epochs, into "
        f"{trainer.run_dir}; {steps_left:,} to go, the expected time comes with each line",
        *prepared.notes,
    ]


def _data_lines(prepared: OpenJob, name: str, dataset: ShardDataset) -> list[str]:
    recipe = prepared.recipe
    mix = recipe.data.mix or {}
    share = f"{name}, {mix[name] / sum(mix.values()):.1%} of the batches: " if name in mix else ""
    return [
        f"data     {share}{full_place(dataset)}, split {dataset.manifest.split}: {len(dataset):,} samples in "
        f"{len(dataset.manifest.shards)} shards, digest {dataset.digest[:12]}",
        *_elsewhere_lines(prepared, name, dataset),
        *(f"{heading:<8} {text}" for heading, text in system_of(recipe).describe(recipe, dataset).items()),
    ]


def _elsewhere_lines(prepared: OpenJob, name: str, dataset: ShardDataset) -> list[str]:
    """What an epoch will ask of a store elsewhere, and how samples are mixed."""
    if dataset.mirror is None:
        return []
    found, cache = prepared.loader.sources[name].estimate(), dataset.mirror.cache
    lines = [
        f"store    about {found.num_requests:,} requests and {spell_bytes(found.num_bytes)} an epoch on this machine; "
        f"{spell_bytes(found.cached_bytes)} of it are in the cache {cache.folder}, which may hold "
        f"{spell_bytes(cache.quota)}",
        f"order    {found.order}",
    ]
    if found.window_bytes > cache.quota // 2:
        lines.append(
            f"cache    too small: what is mixed at a time has {spell_bytes(found.window_bytes)}, so that samples are "
            "fetched more than once; give --data.cache_quota twice that, or a smaller --data.window"
        )
    return lines


def _device(trainer: Trainer) -> str:
    device, name = str(trainer.device), trainer.accelerator.name
    return device if name == device else f"{device} ({name})"


def _halved(trainer: Trainer) -> list[str]:
    """That `auto` has chosen what it does not choose elsewhere."""
    if trainer.config.precision != "auto" or trainer.learner.dtype is not torch.float16:
        return []
    return [f"precision {trainer.accelerator.name} has no bf16: auto takes fp16, and scales the loss"]


def _compiled(trainer: Trainer) -> str:
    """Whether the step is compiled; why not, where `auto` could have."""
    mode, device = trainer.learner.compiled, trainer.device
    if mode is not None:
        return f"compiled ({mode})"
    automatic = trainer.config.compile == "auto" and device.type == "cuda"
    return f"not compiled{f': {why_not_compiled(device)}' if automatic else ''}"


def _precision(trainer: Trainer) -> str:
    return str(trainer.learner.dtype or "float32").removeprefix("torch.")
