"""A small real data set whose samples differ in length: rows, packed JPEG frames, records, tokens, text."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.read.decoders import Outputs
from shards.dataset import ShardDataset
from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter, Value

SIZE = 16
SCHEMA = Schema(
    (
        Field(name="features", dtype="<f2", shape=(None, 3, 4)),
        Field(name="frames", layout="packed"),
        Field(name="boxes", layout="packed"),
        Field(name="tokens", dtype="<i4", shape=(None,)),
        Field(name="json"),
    )
)


def num_frames(number: int) -> int:
    """Frames of a sample: from 0 on."""
    return number * 7 % 11


def num_tokens(number: int) -> int:
    return 1 + number % 5


def pixels(number: int, frame: int) -> NDArray[np.uint8]:
    ramp = np.linspace(0, 120, SIZE).astype(np.uint8)
    return np.broadcast_to((ramp + 5 * number + frame)[:, None, None], (SIZE, SIZE, 3)).astype(np.uint8)


def jpeg(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def features(number: int) -> NDArray[np.float16]:
    """f16 `[num_frames, 3, 4]`, no two rows alike."""
    first = np.arange(num_frames(number))[:, None] + 100 * number
    return (first + np.arange(12) / 16).reshape(-1, 3, 4).astype(np.float16)


def record(number: int, frame: int) -> bytes:
    return json.dumps({"at": [number, frame], "pad": "x" * frame}).encode()


def sample(number: int, damaged: int | None = None) -> dict[str, Value]:
    frames = [jpeg(pixels(number, frame)) for frame in range(num_frames(number))]
    if number == damaged:
        frames[-1] = b"not a frame at all"
    return {
        "features": features(number),
        "frames": frames,
        "boxes": [record(number, frame) for frame in range(num_frames(number))],
        "tokens": np.arange(num_tokens(number), dtype="<i4") + 1000 * number,
        "json": json.dumps({"label": number, "text": "y" * number}).encode(),
    }


def make_lengths(directory: Path, num_samples: int = 23, damaged: int | None = None) -> ShardDataset:
    """Samples are numbered by their keys; the last frame of `damaged` is no JPEG."""
    directory.mkdir(parents=True, exist_ok=True)
    infos = []
    for shard in range(2):
        with ShardWriter(directory / shard_name("train", shard, 2), SCHEMA) as writer:
            for number in range(shard, num_samples, 2):
                writer.write(f"{number:04d}", sample(number, damaged))
        infos.append(writer.info)
    Manifest(split="train", schema=SCHEMA, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)


@dataclass(frozen=True)
class Places:
    """Decodes a record: two tensors of one piece, and the key."""

    @property
    def outputs(self) -> Outputs:
        return {"place": ("<i8", (2,)), "size": ("<i8", ()), "chosen": ("<u8", ())}

    def __call__(self, piece: memoryview, out: Mapping[str, NDArray[Any]], key: int) -> None:
        out["place"][:] = json.loads(bytes(piece))["at"]
        out["size"][...] = len(piece)
        out["chosen"][...] = key
