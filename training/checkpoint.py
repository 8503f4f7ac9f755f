"""Checkpoints: folders of safetensors and JSON that appear whole or not at all.

RUN/checkpoints/step-00000200/
    model.safetensors       parameters and buffers of the objective, by name
    optimizer.safetensors   AdamW's moments, as "exp_avg/<parameter>"
    rng.safetensors         torch's generators: "cpu", and "cuda" on a GPU
    checkpoint.json         format, step, the loader's state, the recipe, the loss scaler's state, the validation loss,
                            size and xxh3-64 of the files above
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError
from torch import Tensor

from shards.format.publish import publish_bytes, publish_json

FORMAT = 1
TENSORS = ("model", "optimizer", "rng")
PLAIN = ("step", "loader", "recipe", "scaler", "validation_loss")
log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    Attributes:
        step: optimiser steps done.
        model: the objective's `state_dict`.
        optimizer: see `optimizer_tensors`.
        rng: see `rng_tensors`.
        loader: the loader's `state_dict`.
        recipe: the resolved configuration, as JSON.
        scaler: the loss scaler's `state_dict`; empty without one.
        validation_loss: loss on held-out data, where it was measured.
    """

    step: int
    model: Tensors
    optimizer: Tensors
    rng: Tensors
    loader: dict[str, Any]
    recipe: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    validation_loss: float | None = None


def save_checkpoint(root: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint into `root`, atomically, then delete all but the newest `keep` and the best.

    Returns:
        The folder written, `root/step-XXXXXXXX`.
    """
    final = root / f"step-{checkpoint.step:08d}"
    temporary = root / f"{final.name}.tmp"
    for stale in root.glob("*.tmp"):
        shutil.rmtree(stale)
    temporary.mkdir(parents=True)
    files = {}
    for name in TENSORS:
        tensors = {key: value.detach().cpu().contiguous() for key, value in getattr(checkpoint, name).items()}
        data = safetensors.torch.save(tensors)
        publish_bytes(temporary / f"{name}.safetensors", data)
        files[f"{name}.safetensors"] = {"num_bytes": len(data), "xxh3_64": xxhash.xxh3_64_hexdigest(data)}
    record = {"format": FORMAT, **{name: getattr(checkpoint, name) for name in PLAIN}}
    publish_json(temporary / "checkpoint.json", {**record, "files": files})
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_directory(root)
    best = best_checkpoint(root)
    for old in list_checkpoints(root)[:-keep]:
        if old != best:
            shutil.rmtree(old)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        ValueError: If it is torn, damaged, of another format, or no checkpoint at all.
    """
    try:
        record = json.loads((path / "checkpoint.json").read_bytes())
        if record["format"] != FORMAT:
            raise ValueError(f"checkpoint {path} has format {record['format']}; this version reads {FORMAT}")
        parts: dict[str, Any] = {name: record[name] for name in PLAIN}
        parts |= {name: _read_tensors(path / f"{name}.safetensors", record) for name in TENSORS}
        return Checkpoint(**parts)
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({type(error).__name__}: {error})") from error


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted(path for path in root.glob("step-*") if path.suffix != ".tmp")


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run; a damaged one is skipped with a warning in the log."""
    for path in reversed(list_checkpoints(root)):
        try:
            return load_checkpoint(path)
        except ValueError as error:
            log.warning("skipping a checkpoint: %s", error)
    return None


def best_checkpoint(root: Path) -> Path | None:
    """The folder of the lowest validation loss, the newer of two equals; None if none was measured."""
    scored = []
    for path in list_checkpoints(root):
        with contextlib.suppress(OSError, ValueError, KeyError):
            loss = json.loads((path / "checkpoint.json").read_bytes())["validation_loss"]
            if loss is not None:
                scored.append((-loss, path))
    return max(scored)[1] if scored else None


def refuse_other_recipe(checkpoint: Checkpoint, recipe: Mapping[str, Any], sections: tuple[str, ...]) -> None:
    """Compare the sections of the recipe that a run may not change halfway.

    Raises:
        ValueError: Naming every key that differs, with both values.
    """
    old, new = (_flatten({s: r[s] for s in sections if s in r}) for r in (checkpoint.recipe, recipe))
    different = [
        f"{key} was {old.get(key, 'absent')} and is now {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "absent") != new.get(key, "absent")
    ]
    if different:
        raise ValueError(
            f"the checkpoint at step {checkpoint.step} is of another recipe: {'; '.join(different)}; "
            "resume with the recipe it was trained with, or start in another folder"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimiser's state by parameter name: "exp_avg/<parameter>" and so on."""
    return {
        f"{kind}/{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for kind, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore what `optimizer_tensors` gave; parameters without state start without.

    Raises:
        ValueError: If there is state for a parameter that the optimiser does not have.
    """
    state = optimizer.state_dict()
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    number_of = dict(zip(names, numbers, strict=True))
    per_parameter: dict[int, Tensors] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if name not in number_of:
            raise ValueError(f"the checkpoint has optimiser state for {name}, which is not trained here")
        per_parameter.setdefault(number_of[name], {})[kind] = value
    optimizer.load_state_dict({**state, "state": per_parameter})


def rng_tensors(device: torch.device) -> Tensors:
    """The state of torch's generators, u8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_rng_tensors(tensors: Tensors, device: torch.device) -> None:
    """Restore torch's generators; a GPU's only where it was saved on one."""
    torch.set_rng_state(tensors["cpu"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)


def _read_tensors(path: Path, record: dict[str, Any]) -> Tensors:
    data = path.read_bytes()
    expected = record["files"][path.name]
    if len(data) != expected["num_bytes"] or xxhash.xxh3_64_hexdigest(data) != expected["xxh3_64"]:
        raise ValueError(
            f"{path} is torn or damaged: it has {len(data)} bytes, {expected['num_bytes']} were written, "
            "and their checksums differ; take an older checkpoint"
        )
    return safetensors.torch.load(data)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} becomes {"a.b": 1}; sequences compare as lists."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
