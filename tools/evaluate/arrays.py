"""Frozen features as plain arrays: an .npy file a shard, and a `features.json` that names what they are of."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.ranks import gather_rows
from pipeline.world import World
from shards.builder.samples.stored import frames_shape
from shards.dataset import ShardDataset
from shards.format.layout import tubes_to_clip
from shards.format.publish import publish_bytes, publish_json
from shards.progress import Progress, untold
from tools.evaluate.stored import EncoderTeacher

RECORD = "features.json"


def write_arrays(
    out: Path,
    dataset: ShardDataset,
    teacher: EncoderTeacher,
    world: World,
    *,
    at_once: int,
    advance: Progress = untold,
) -> dict[str, Any] | None:
    """Write f16 `[n, N, D]` for each shard that is not there yet; each rank has shards of its own.

    Args:
        out: the folder; what was begun there goes on.
        dataset: the clips.
        teacher: encodes them.
        world: the ranks, in a process group.
        at_once: clips in one call.
        advance: told the number of clips that are done.

    Returns:
        A summary, on rank 0.

    Raises:
        ValueError: the clips are not the encoder's, or other features were begun in the folder.
    """
    shape = frames_shape(dataset.schema["clip"]) if "clip" in dataset.schema else None
    if shape != teacher.input_shape:
        raise ValueError(
            f"the encoder takes clips {list(teacher.input_shape)}, those of {dataset.place} are "
            f"{'none' if shape is None else list(shape)}: build a set with its view"
        )
    record = {
        "dataset": {"digest": dataset.digest, "split": dataset.manifest.split, "num_samples": len(dataset)},
        "features": json.loads(json.dumps(teacher.provenance)),
        "shape": list(teacher.output_shape),
        "dtype": teacher.output_dtype,
        "shards": [Path(info.name).stem for info in dataset.manifest.shards],
    }
    out.mkdir(parents=True, exist_ok=True)
    _begin(out / RECORD, record)
    start, num_bytes = 0, 0
    for shard, info in enumerate(dataset.manifest.shards):
        path = out / f"{Path(info.name).stem}.npy"
        if shard % world.size == world.rank:
            if not path.exists():
                numbers = range(start, start + info.num_samples)
                _publish(path, [_encode(dataset, teacher, part) for part in _parts(numbers, at_once)])
            num_bytes += path.stat().st_size
            advance(info.num_samples)
        start += info.num_samples
    total = gather_rows(torch.tensor([num_bytes]), world, teacher.encoder.device).sum()  # all ranks are done behind it
    if world.rank != 0:
        return None
    return {"where": str(out), "num_samples": len(dataset), "num_bytes": int(total), "digest": dataset.digest}


def _begin(path: Path, record: dict[str, Any]) -> None:
    """Write what the arrays are of, or compare it with what was begun; ranks write the same."""
    if path.exists():
        found = json.loads(path.read_bytes())
        different = [name for name in record if found.get(name) != record[name]]
        if different:
            raise ValueError(
                f"{path.parent} holds features that were begun otherwise, they differ in {', '.join(different)}: "
                "choose another folder"
            )
        return
    publish_json(path, record)


def _parts(numbers: range, size: int) -> list[range]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _encode(dataset: ShardDataset, teacher: EncoderTeacher, numbers: range) -> NDArray[np.float16]:
    clips = [np.asarray(dataset.read(number, "clip")) for number in numbers]
    if dataset.schema["clip"].layout == "tubes":
        side = round(clips[0].shape[0] ** 0.5)
        clips = [tubes_to_clip(clip, side) for clip in clips]
    return teacher(np.stack(clips))


def _publish(path: Path, parts: list[NDArray[np.float16]]) -> None:
    file = io.BytesIO()
    np.save(file, np.concatenate(parts), allow_pickle=False)
    publish_bytes(path, file.getvalue())
