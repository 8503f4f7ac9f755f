"""Small real data sets for tests, written by the real writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.dataset import ShardDataset
from shards.format.layout import clip_to_tubes, target_to_tubes
from shards.format.manifest import Manifest, shard_name
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.groups import Group, with_groups
from shards.writer import ShardWriter, Value

FRAMES, SIZE, TUBELET, PATCH, DIM = 4, 32, 2, 8, 6
POSITIONS, TIMES = (SIZE // PATCH) ** 2, FRAMES // TUBELET


def tubes_schema(frames: int = FRAMES, size: int = SIZE, dim: int = DIM, patch: int = PATCH) -> Schema:
    """Clip and target in the tubes layout, and the JSON member."""
    positions, times = (size // patch) ** 2, frames // TUBELET
    return Schema(
        (
            Field(name="clip", dtype="|u1", shape=(positions, times, TUBELET, patch, patch, 3), layout="tubes"),
            Field(name="target", dtype="<f2", shape=(positions, times, dim), layout="tubes"),
            Field(name="json"),
        )
    )


def tubes_sample(
    number: int, frames: int = FRAMES, size: int = SIZE, dim: int = DIM, patch: int = PATCH, num_classes: int = 3
) -> dict[str, Value]:
    """A sample that depends on its number only; its JSON differs in length from its neighbours'."""
    random = np.random.default_rng(number)
    clip = random.integers(0, 256, (frames, size, size, 3), np.uint8)
    tokens = (size // patch) ** 2 * (frames // TUBELET)
    target = random.standard_normal((tokens, dim)).astype(np.float16)
    label = number % num_classes
    record = {
        "video_id": f"video{number:06d}",
        "label": label,
        "label_name": f"class {label}",
        "text": "x" * (number % 7),
    }
    return {
        "clip": clip_to_tubes(clip, TUBELET, patch),
        "target": target_to_tubes(target, frames // TUBELET),
        "json": canonical_json(record),
    }


def make_dataset(
    directory: Path,
    num_samples: int = 20,
    samples_per_shard: int = 6,
    *,
    split: str = "train",
    frames: int = FRAMES,
    size: int = SIZE,
    dim: int = DIM,
    patch: int = PATCH,
    num_classes: int = 3,
    spoiled: int | None = None,
    records: Mapping[int, bytes] | None = None,
    codec: Mapping[str, str] | None = None,
) -> ShardDataset:
    """Write a data set of `num_samples` random samples (the last shard may be shorter) and open it.

    The target of sample `spoiled` has a value that is not a number. `records` are JSON members in the place of others.
    `codec` says how fields are stored.
    """
    directory.mkdir(parents=True, exist_ok=True)
    schema = tubes_schema(frames, size, dim, patch).with_codecs(codec or {})
    count = -(-num_samples // samples_per_shard)
    infos = []
    for shard in range(count):
        with ShardWriter(directory / shard_name(split, shard, count), schema) as writer:
            for number in range(shard * samples_per_shard, min((shard + 1) * samples_per_shard, num_samples)):
                sample = tubes_sample(number, frames, size, dim, patch, num_classes)
                if number == spoiled:
                    sample["target"] = np.full_like(sample["target"], np.nan)
                if records and number in records:
                    sample["json"] = records[number]
                writer.write(f"{number:06d}", sample)
        infos.append(writer.info)
    names = tuple(f"class {label}" for label in range(num_classes))
    Manifest(split=split, schema=schema, shards=tuple(infos), label_names=names).write(directory)
    return ShardDataset.open(directory)


LENGTHS_SCHEMA = Schema(
    (
        Field(name="features", dtype="<f2", shape=(None, 3, 2)),
        Field(name="frames", layout="packed"),
        Field(name="times", dtype="<f4", shape=(None,)),
        Field(name="json"),
    )
)


def lengths_of(number: int) -> dict[str, int]:
    """Rows and pieces of a sample of `LENGTHS_SCHEMA`; some have none."""
    return {"features": (3 * number + 2) % 7, "frames": number % 5, "times": number % 5}


def lengths_sample(number: int) -> dict[str, Value]:
    """A sample of `LENGTHS_SCHEMA` that depends on its number only; the first piece is empty."""
    lengths = lengths_of(number)
    features = np.arange(lengths["features"] * 6) * (number + 1) % 19 - 9
    return {
        "features": features.astype(np.float16).reshape(-1, 3, 2),
        "frames": [bytes((7 * number + place) % 256 for place in range(9 * f)) for f in range(lengths["frames"])],
        "times": np.arange(lengths["times"], dtype=np.float32),
        "json": canonical_json({"label": number % 3, "text": "x" * number}),
    }


def make_lengths_dataset(
    directory: Path,
    num_samples: int = 10,
    samples_per_shard: int = 6,
    *,
    schema: Schema = LENGTHS_SCHEMA,
    samples: Mapping[str, Mapping[str, Value]] | None = None,
) -> ShardDataset:
    """Write a data set whose samples differ in length, or one shard of other samples, and open it."""
    directory.mkdir(parents=True, exist_ok=True)
    stored = samples or {f"{number:06d}": lengths_sample(number) for number in range(num_samples)}
    per_shard = len(stored) if samples else samples_per_shard
    count, keys, infos = -(-len(stored) // per_shard), list(stored), []
    for shard in range(count):
        with ShardWriter(directory / shard_name("train", shard, count), schema) as writer:
            for key in keys[shard * per_shard : (shard + 1) * per_shard]:
                writer.write(key, stored[key])
        infos.append(writer.info)
    Manifest(split="train", schema=schema, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)


def damage(dataset: ShardDataset, number: int, field: str, at: int = 3) -> int:
    """Flip a byte of a payload as a failing disk does, which sets no time of change; returns the payload's offset."""
    (shard,), (row,) = dataset.locate(np.array([number]))
    offset = int(dataset.extents(int(shard), field).offsets[row])
    path = dataset.tar_path(int(shard))
    with unnoticed(path) as content:
        content[offset + at] ^= 0xFF
    return offset


@contextmanager
def unnoticed(path: Path) -> Iterator[bytearray]:
    """A file's content, written back without a trace in its size, inode and time of change."""
    before, content = path.stat(), bytearray(path.read_bytes())
    yield content
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def group_value(number: int) -> dict[str, Value]:
    """The field of the group that `add_group` writes, for one sample."""
    return {"dino": np.full(5, number, np.float32)}


def add_group(dataset: ShardDataset, name: str = "dinov2", *, manifest: bool = True) -> ShardDataset:
    """Write a further tar series with a field `dino` for every sample; the manifest hears of it unless told not to."""
    schema = Schema((Field(name="dino", dtype="<f4", shape=(5,), group=name),))
    return _add_series(dataset, name, schema, group_value, manifest)


def add_lengths_group(dataset: ShardDataset, name: str = "lengths", *, manifest: bool = True) -> ShardDataset:
    """Write a further tar series of rows and packed pieces, those of `lengths_sample`."""
    fields = tuple(replace(field, group=name) for field in LENGTHS_SCHEMA if field.has_lengths)

    def values(number: int) -> dict[str, Value]:
        return {field.name: lengths_sample(number)[field.name] for field in fields}

    return _add_series(dataset, name, Schema(fields), values, manifest)


def _add_series(
    dataset: ShardDataset, name: str, schema: Schema, values: Callable[[int], dict[str, Value]], manifest: bool
) -> ShardDataset:
    count, number, infos = dataset.num_shards, 0, []
    for shard in range(count):
        tar = dataset.directory / shard_name(dataset.manifest.split, shard, count, name)
        with ShardWriter(tar, schema) as writer:
            for key in dataset.index(shard).keys:
                writer.write(key, values(number))
                number += 1
        infos.append(writer.info)
    if manifest:
        group = Group(name, schema.fields, tuple(infos), {"teacher": {"id": name}})
        with_groups(dataset.manifest, [group]).write(dataset.directory)
    return ShardDataset.open(dataset.directory)
