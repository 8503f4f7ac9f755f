"""Checkpoints: folders of safetensors and JSON that appear whole or not at all.

RUN/checkpoints/step-00000200/
    model.safetensors       parameters and buffers of the objective, or of the part it declares trainable, by name; in
                            its header, as JSON under "reelshard": the recipe, the step, the view of the training data
    optimizer.safetensors   AdamW's moments, as "exp_avg/<parameter>"
    rng.safetensors         torch's generators: "cpu", and "cuda" on a GPU
    checkpoint.json         format, step, the loader's state, the recipe, the loss scaler's state, the metrics, the
                            digest of what is not in model.safetensors, the view; size and xxh3-64 of the files above
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

import safetensors
import safetensors.torch
import xxhash
from safetensors import SafetensorError
from torch import Tensor

from shards.format.publish import publish_bytes, publish_json
from training.config import BestMode

FORMAT = 1
TENSORS = ("model", "optimizer", "rng")
PLAIN = ("step", "loader", "recipe", "scaler")
VALIDATION_LOSS = "validation_loss"
HEADER = "reelshard"  # of model.safetensors
# A run may change these between two checkpoints: what they decide is in the data set, or is guarded by itself (by the
# state of the loader, by the number of steps). All other sections, whatever a system calls them, say what is trained.
FREE_SECTIONS = ("view", "build", "teacher", "data", "train", "evaluate")
log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    Attributes:
        step: optimiser steps done.
        model: the objective's `state_dict`, or the part of it that is kept.
        optimizer: see `optimizer_tensors`.
        rng: see `rng_tensors`.
        loader: the loader's `state_dict`.
        recipe: the resolved configuration, as JSON.
        scaler: the loss scaler's `state_dict`; empty without one.
        metrics: what was measured at this step, by name; finite numbers only.
        frozen_digest: names the part that is not kept; "" where everything is.
        view: of the data that it was trained on, see `shards.format.views`; None where nobody wrote it down.
    """

    step: int
    model: Tensors
    optimizer: Tensors
    rng: Tensors
    loader: dict[str, Any]
    recipe: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    frozen_digest: str = ""
    view: dict[str, Any] | None = None


def save_checkpoint(
    root: Path, checkpoint: Checkpoint, *, keep: int, metric: str = VALIDATION_LOSS, mode: BestMode = "min"
) -> Path:
    """Write a checkpoint into `root`, atomically, then delete all but the newest `keep` and the best by `metric`.

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
        data = safetensors.torch.save(tensors, _header(checkpoint) if name == "model" else None)
        publish_bytes(temporary / f"{name}.safetensors", data)
        files[f"{name}.safetensors"] = {"num_bytes": len(data), "xxh3_64": xxhash.xxh3_64_hexdigest(data)}
    record = {"format": FORMAT, **{name: getattr(checkpoint, name) for name in PLAIN}}
    record |= {name: getattr(checkpoint, name) for name in ("metrics", "frozen_digest", "view")}
    record |= {VALIDATION_LOSS: checkpoint.metrics.get(VALIDATION_LOSS)}  # for versions that know no other metric
    publish_json(temporary / "checkpoint.json", {**record, "files": files})
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_directory(root)
    best = best_checkpoint(root, metric, mode)
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
        parts |= {"metrics": _metrics(record), "frozen_digest": record.get("frozen_digest", "")}
        parts["view"] = record.get("view")
        parts |= {name: _read_tensors(path / f"{name}.safetensors", record) for name in TENSORS}
        return Checkpoint(**parts)
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({type(error).__name__}: {error})") from error


def _header(checkpoint: Checkpoint) -> dict[str, str]:
    """What makes the weights readable alone; one entry, since the order of several is left to chance."""
    about = {name: getattr(checkpoint, name) for name in ("recipe", "step", "view")}
    return {HEADER: json.dumps({"format": FORMAT, **about}, sort_keys=True)}


def read_weights(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read a `model.safetensors`, wherever it was copied to.

    Returns:
        The tensors, and what `read_header` gives.

    Raises:
        ValueError: It is not a whole file of safetensors, or its header is not one of ours.
    """
    about = read_header(path)
    try:
        return safetensors.torch.load_file(path), about
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy it again") from error


def read_header(path: Path) -> dict[str, Any]:
    """What a `model.safetensors` says of itself: `recipe`, `step`, `view`; nothing where an earlier version wrote it.

    Raises:
        ValueError: It is not a whole file of safetensors, or its header is not one of ours.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
        about = json.loads(header or "{}")
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy it again") from error
    if header is not None and (not isinstance(about, dict) or not isinstance(about.get("recipe"), dict)):
        raise ValueError(f"the header of {path} holds no recipe; take the file as `reelshard train` wrote it")
    found: dict[str, Any] = about
    return found


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


def best_checkpoint(root: Path, metric: str = VALIDATION_LOSS, mode: BestMode = "min") -> Path | None:
    """The folder with the lowest or highest value of a metric, the newer of two equals; None if none was measured."""
    scored = []
    for path in list_checkpoints(root):
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            value = _metrics(json.loads((path / "checkpoint.json").read_bytes())).get(metric)
            if value is not None:
                scored.append((value if mode == "max" else -value, path))
    return max(scored)[1] if scored else None


def _metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a checkpoint; older versions kept the validation loss alone."""
    if "metrics" in record:
        return dict(record["metrics"])
    loss = record[VALIDATION_LOSS]
    return {} if loss is None else {VALIDATION_LOSS: loss}


def refuse_other_recipe(checkpoint: Checkpoint, recipe: Mapping[str, Any]) -> None:
    """Compare the sections of the recipe that a run may not change halfway, which are all but `FREE_SECTIONS`.

    Raises:
        ValueError: Naming every key that differs, with both values.
    """
    sections = (checkpoint.recipe.keys() & recipe.keys()) - set(FREE_SECTIONS)
    old, new = (_flatten({s: r[s] for s in sorted(sections)}) for r in (checkpoint.recipe, recipe))
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
