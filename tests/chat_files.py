"""Chats in the files in which they are published: what the tests of sources share."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from shards import ShardDataset
from shards.builder import BuildConfig, ChatKind, Source, build_dataset
from tests.chats import VIEW, chat_config, scene
from tests.videos import write_video

CONFIG = BuildConfig(samples_per_shard=50, workers=2, time_limit_seconds=60.0)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def build_from(source: Source, out: Path, tokenizer: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    """Build, and return what each sample's JSON says by its id, with its frames."""
    build_dataset(source, out, kind=ChatKind.of(VIEW, chat_config(tokenizer, **changes)), config=CONFIG)
    dataset = ShardDataset.open(out)
    found = {}
    for number in range(len(dataset)):
        about = dict(dataset.metadata(number))
        found[about["id"]] = about | {"frames": dataset[number].get("frames", [])}
    return found


def picture(colour: str, size: tuple[int, int] = (40, 30), form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(file, form)
    return file.getvalue()


def colour_of(jpeg: bytes) -> str:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (28, 28)
        pixel: Any = image.getpixel((14, 14))
    return min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))


def video_bytes(folder: Path, seconds: int) -> bytes:
    return write_video(folder / "v.mp4", scene(seconds, "red", "left"), codec="libx264", rate=1).read_bytes()


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def said(about: Mapping[str, Any]) -> list[str]:
    return [turn["content"] for turn in about["messages"]]
