"""Batches as dense video and as tokens in one line, from either layout on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import LoaderConfig
from pipeline.dense import dense_tokens, dense_video
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from shards.dataset import ShardDataset
from shards.format.layout import tubes_to_clip, tubes_to_target
from shards.format.manifest import Manifest, shard_name
from shards.format.pixels import IMAGENET
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tests.datasets import DIM, FRAMES, PATCH, POSITIONS, SIZE, TIMES, make_dataset, tubes_sample

NUM_SAMPLES = 5


def frames_sample(number: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """The clip and target of `tubes_sample`, as the frames layout has them."""
    sample = tubes_sample(number)
    clip, target = np.asarray(sample["clip"]), np.asarray(sample["target"])
    return {"clip": tubes_to_clip(clip, SIZE // PATCH), "target": tubes_to_target(target)}


def make_frames(directory: Path) -> ShardDataset:
    clip = Field(name="clip", dtype="|u1", shape=(FRAMES, SIZE, SIZE, 3), layout="frames")
    schema = Schema((clip, Field(name="target", dtype="<f2", shape=(TIMES * POSITIONS, DIM))))
    directory.mkdir()
    with ShardWriter(directory / shard_name("train", 0, 1), schema) as writer:
        for number in range(NUM_SAMPLES):
            writer.write(f"{number:06d}", dict(frames_sample(number)))
    Manifest(split="train", schema=schema, shards=(writer.info,)).write(directory)
    return ShardDataset.open(directory)


@pytest.fixture(params=["tubes", "frames"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> ShardDataset:
    return make_dataset(tmp_path / "d", NUM_SAMPLES) if request.param == "tubes" else make_frames(tmp_path / "d")


def first_batch(dataset: ShardDataset, *, normalised: bool) -> dict[str, torch.Tensor]:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4), TubeMask(num_positions=POSITIONS))
    return next(iter(DeviceLoader(loader, "cpu", normalize={"clip": IMAGENET} if normalised else None)))


def test_a_batch_becomes_u8_video_of_the_frames_that_were_stored(dataset: ShardDataset) -> None:
    batch = first_batch(dataset, normalised=False)
    video = dense_video(batch["clip"], size=(SIZE, SIZE))
    assert video.dtype == torch.uint8
    assert video.is_contiguous()
    assert list(video.shape) == [4, 3, FRAMES, SIZE, SIZE]
    for row, number in enumerate(batch["index"].tolist()):
        assert np.array_equal(video[row].permute(1, 2, 3, 0).numpy(), frames_sample(number)["clip"])


def test_a_normalised_batch_becomes_the_same_video_normalised(dataset: ShardDataset) -> None:
    plain, batch = (first_batch(dataset, normalised=normalised) for normalised in (False, True))
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in IMAGENET)
    expected = (dense_video(plain["clip"], (SIZE, SIZE)) / 255 - mean) / std
    torch.testing.assert_close(dense_video(batch["clip"], (SIZE, SIZE)), expected, atol=1e-5, rtol=1e-5)


def test_targets_become_tokens_in_the_order_of_time_then_position(dataset: ShardDataset) -> None:
    batch = first_batch(dataset, normalised=False)
    tokens = dense_tokens(batch["target"])
    assert list(tokens.shape) == [4, TIMES * POSITIONS, DIM]
    for row, number in enumerate(batch["index"].tolist()):
        assert np.array_equal(tokens[row].numpy(), frames_sample(number)["target"])


@pytest.mark.parametrize(
    "shape",
    [
        (2, 4, 2, 2, 8, 8, 3),  # a quarter of the tubes: as many as a square of half the size has
        (2, 8, 2, 2, 8, 8, 3),
        (2, 16, 2, 2, 12, 12, 3),
        (2, 4, 24, 32, 3),
        (2, 3, 4, 32, 32),
        (4, 32, 32, 3),
    ],
)
def test_what_is_not_all_of_a_clip_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not whole video of 32 x 32 pixels"):
        dense_video(torch.zeros(shape, dtype=torch.uint8), size=(32, 32))


def test_tokens_of_another_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needed is \[B, N, D\]"):
        dense_tokens(torch.zeros(3, 4))


def test_the_reference_geometry_gives_the_reference_shapes() -> None:
    tubes = torch.zeros(2, 196, 8, 2, 16, 16, 3, dtype=torch.uint8)
    assert list(dense_video(tubes, size=(224, 224)).shape) == [2, 3, 16, 224, 224]
    assert list(dense_tokens(torch.zeros(2, 196, 8, 384, dtype=torch.float16)).shape) == [2, 1568, 384]
