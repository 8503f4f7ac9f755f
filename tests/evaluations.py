"""Small sets of clips whose class can be seen, in several views of a video, for the tests of evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import VideoMAEConfig, VideoMAEModel

from shards.dataset import ShardDataset
from shards.format.manifest import Manifest, shard_name
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tests.datasets import FRAMES, SIZE

CLASSES = ("dark", "mid", "light")
PER_SHARD = 8


def make_clips(
    directory: Path,
    num_videos: int,
    *,
    seed: int = 0,
    views: int = 1,
    split: str = "train",
    view: str | None = "a" * 64,
    classes: tuple[str, ...] = CLASSES,
    unlabelled: tuple[int, ...] = (),
    size: int = SIZE,
) -> ShardDataset:
    """Clips in frames, dimmed from the first frame to the last, as bright as their class says; noise is drawn anew."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    schema = Schema(
        (Field(name="clip", dtype="|u1", shape=(FRAMES, size, size, 3), layout="frames"), Field(name="json"))
    )
    samples = [(video, number) for video in range(num_videos) for number in range(views)]
    count, infos = -(-len(samples) // PER_SHARD), []
    fade = np.linspace(1.0, 0.4, FRAMES)[:, None, None, None]
    for shard in range(count):
        with ShardWriter(directory / shard_name(split, shard, count), schema) as writer:
            for video, number in samples[shard * PER_SHARD : (shard + 1) * PER_SHARD]:
                label = video % len(classes)
                noise = random.normal(0, 20, (FRAMES, size, size, 3))
                clip = np.clip((60 + 70 * label) * fade + noise, 0, 255).astype(np.uint8)
                about = {"video_id": f"v{video:04d}", "label": None if video in unlabelled else label}
                about |= {"view_index": number}
                writer.write(f"v{video:04d}__v{number:02d}", {"clip": clip, "json": canonical_json(about)})
        infos.append(writer.info)
    provenance = {} if view is None else {"view": {"hash": view}}
    Manifest(split=split, schema=schema, shards=tuple(infos), label_names=classes, provenance=provenance).write(
        directory
    )
    return ShardDataset.open(directory)


def save_videomae(directory: Path, *, size: int = SIZE, seed: int = 0) -> Path:
    """A tiny VideoMAE as transformers saves it, with three layers."""
    import torch

    config = VideoMAEConfig(
        image_size=size,
        patch_size=8,
        num_frames=FRAMES,
        tubelet_size=2,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        VideoMAEModel(config).save_pretrained(directory)
    return directory
