"""Data sets of clips without any video, of the reference geometry or another: for measuring, not for learning."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from model.grid import GridConfig
from shards.format.manifest import Manifest, shard_name
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.progress import Progress, untold
from shards.words import spell_bytes
from shards.writer import ShardWriter

NUM_TIMES, TUBELET, PATCH, POSITIONS, TARGET_DIM = 8, 2, 16, 196, 384


def reference_schema(target_dim: int = TARGET_DIM) -> Schema:
    """Clip u8 16x224x224x3 and target f16 1568x`target_dim` in the tubes layout, and JSON."""
    return schema_of(GridConfig(target_dim=target_dim))


def schema_of(grid: GridConfig) -> Schema:
    """Clip u8 and target f16 of a grid in the tubes layout, and JSON."""
    places, tube = (grid.num_positions, grid.num_times), (grid.tubelet, grid.patch, grid.patch, 3)
    return Schema(
        (
            Field(name="clip", dtype="|u1", shape=(*places, *tube), layout="tubes"),
            Field(name="target", dtype="<f2", shape=(*places, grid.target_dim), layout="tubes"),
            Field(name="json"),
        )
    )


def synthesize(
    directory: Path,
    num_samples: int,
    *,
    samples_per_shard: int = 256,
    target_dim: int = TARGET_DIM,
    grid: GridConfig | None = None,
    progress: Progress = untold,
) -> Manifest:
    """Write `num_samples` samples of noise, of `grid` or of the reference; the samples of a shard differ.

    Raises:
        ValueError: no sample is asked for, or the disk has no room for them.
    """
    if num_samples < 1:
        raise ValueError(f"--synthesize takes a positive number of samples, got {num_samples}")
    schema = reference_schema(target_dim) if grid is None else schema_of(grid)
    directory.mkdir(parents=True, exist_ok=True)
    needed = round(num_samples * sum(field.num_bytes for field in schema if field.is_array) * 1.005)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ValueError(f"{num_samples} samples need {spell_bytes(needed)}, {directory} has {spell_bytes(free)} free")
    count = -(-num_samples // samples_per_shard)
    infos = []
    for shard in range(count):
        random = np.random.default_rng(shard)
        clip = random.integers(0, 256, schema["clip"].fixed_shape, np.uint8)
        target = random.standard_normal(schema["target"].fixed_shape, np.float32).astype(np.float16)
        with ShardWriter(directory / shard_name("train", shard, count), schema) as writer:
            for number in range(shard * samples_per_shard, min((shard + 1) * samples_per_shard, num_samples)):
                shift = number % samples_per_shard
                record = {"video_id": f"{number:08d}", "label": number % 174, "label_name": None, "text": None}
                sample = {"clip": np.roll(clip, shift, 0), "target": np.roll(target, shift, 0)}
                writer.write(f"{number:08d}", {**sample, "json": canonical_json(record)})
                progress(1)
        infos.append(writer.info)
    manifest = Manifest(split="train", schema=schema, shards=tuple(infos), provenance={"source": "synthesized noise"})
    manifest.write(directory)
    return manifest
