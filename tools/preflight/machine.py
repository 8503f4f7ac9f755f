"""Checks of the machine: what is installed, where it comes from, and whether the ranks hear each other."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.accelerator import Accelerator
from pipeline.world import World
from tools.preflight.finding import Finding, Status, check
from tools.revision import PACKAGES, git_revision, package_versions

OURS = ("shards", "pipeline", "model", "training", "evaluation", "tools")
THEIRS = ("torch", "numpy", "safetensors", "transformers", "webdataset", "msgpack", "xxhash", "einops")
# Named with their versions beside those that decide the numbers: what decodes, and what reads shards.
ALSO_NAMED = ("webdataset", "braceexpand", "einops", "msgpack", "av", "decord")


def machine_checks(accelerator: Accelerator, world: World) -> list[Finding]:
    """All of them."""
    return [
        check("environment", _environment),
        check("imports", _imports),
        check("device", lambda: _device(accelerator)),
        check("all-reduce", lambda: _all_reduce(accelerator.device, world)),
    ]


def _environment() -> tuple[Status, str]:
    versions = ", ".join(f"{name} {version}" for name, version in package_versions((*PACKAGES, *ALSO_NAMED)).items())
    revision = git_revision() or "no git checkout"
    return "pass", f"{versions}; {platform.system()} {platform.release()}, {os.cpu_count()} cores; revision {revision}"


def _imports() -> tuple[Status, str]:
    """Our packages from one place, everybody else's from the environment that runs."""
    roots = {name: _origin(name).parent for name in OURS}
    if len(set(roots.values())) > 1:
        return "fail", f"the packages come from several places: {', '.join(f'{n} in {p}' for n, p in roots.items())}"
    environment = Path(sys.prefix).resolve()
    strangers = [f"{name} in {_origin(name)}" for name in THEIRS if not _origin(name).is_relative_to(environment)]
    if strangers:
        return "warn", f"not from {environment}: {', '.join(strangers)}"
    return "pass", f"{len(OURS)} packages from {roots['tools']}, {len(THEIRS)} from {environment}"


def _origin(name: str) -> Path:
    """The folder of a package."""
    file = importlib.import_module(name).__file__
    return Path(file or ".").resolve().parent


def _device(accelerator: Accelerator) -> tuple[Status, str]:
    device = accelerator.device
    if device.type != "cuda":
        return "warn", f"{device}: no GPU, {torch.get_num_threads()} threads; fine for a small model"
    properties = torch.cuda.get_device_properties(device)
    what = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    if not accelerator.has_bf16:
        return "warn", f"{what}; no bf16: train.precision auto takes fp16, and bf16 is refused"
    return "pass", what


def _all_reduce(device: torch.device, world: World) -> tuple[Status, str]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    alone = world.size == 1
    if alone:  # a group of one still loads the library and moves a number
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        numbers = torch.full((1024,), float(world.rank + 1), device=device)
        dist.all_reduce(numbers)
        expected = world.size * (world.size + 1) / 2
        if not bool((numbers == expected).all()):
            return "fail", f"{backend} gave {numbers[0].item()} as the sum over {world.size} ranks, not {expected}"
    finally:
        if alone:
            dist.destroy_process_group()
    return "pass", f"{backend} over {world.size} rank(s)"
