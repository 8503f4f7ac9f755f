"""A system of the user's own, in a file: some batches are of videos with captions, some of text alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.order.windows import Window
from pipeline.reads import Reads
from shards.builder import SampleKind
from shards.dataset import ShardDataset
from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tools.systems.base import Feed, Recipe, System

TOKENS, FRAMES = Field(name="tokens", dtype="<i4", shape=(None,)), Field(name="frames", dtype="<f4", shape=(None, 4))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The student.

    Attributes:
        width: of its hidden layer.
        window: frames that are read of a video; null reads all of them.
    """

    width: int = 8
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class TwoKindsRecipe(Recipe):
    """A resolved recipe.

    Attributes:
        model: the student.
    """

    model: ModelConfig = field(default_factory=ModelConfig)


class Objective(nn.Module):
    """Guesses the mean token, from the frames where there are any."""

    uses_all = False  # text leaves the eye without a gradient

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eye, self.guess = nn.Linear(4, config.width), nn.Linear(config.width, 1)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        count = batch["tokens_length"].clamp(min=1)
        hidden = torch.zeros(len(count), self.guess.in_features)
        if "frames" in batch:  # padding, which is zero, must not count: how much there is depends on the ranks
            seen = batch.get("frames_length", torch.full_like(count, batch["frames"].shape[1])).clamp(min=1)
            hidden = self.eye(batch["frames"].sum(dim=1) / seen[:, None])
        wanted = batch["tokens"].float().sum(dim=1) / count
        return {"loss": (self.guess(hidden)[:, 0] - wanted) ** 2, "weight": count.float()}


class TwoKinds(System[TwoKindsRecipe]):
    """Videos with captions under the source `video`, tokens alone under `text`."""

    name, title = "two_kinds", "video and text"
    recipe = TwoKindsRecipe

    def sample_kind(self, recipe: TwoKindsRecipe) -> SampleKind:
        raise ValueError("sets of two kinds are written by the tests")

    def make_objective(self, recipe: TwoKindsRecipe) -> Objective:
        return Objective(recipe.model)

    def feed(self, recipe: TwoKindsRecipe, dataset: ShardDataset, source: str = "") -> Feed:
        if source == "text":
            return Feed(reads=Reads(fields=("tokens",)), shapes={"tokens": (None,)})
        if source != "video":
            raise ValueError(f"{dataset.directory} is the source {source!r}; name it video or text")
        if recipe.model.window is None:
            return Feed(reads=Reads(fields=("frames", "tokens")), shapes={"frames": (None, 4), "tokens": (None,)})
        draw = Window(field="frames", num_context=recipe.model.window)
        reads = Reads(fields=("frames", "tokens"), gather={"frames": "context"}, draws=(draw,))
        return Feed(reads=reads, shapes={"frames": (recipe.model.window, 4)})


SYSTEM = TwoKinds()


def write_set(directory: Path, num_samples: int, *, video: bool, seed: int = 0, per_shard: int = 8) -> ShardDataset:
    """A data set of 1 to 9 tokens a sample, and of 1 to 12 frames where they are videos."""
    directory.mkdir(parents=True)
    random, schema = np.random.default_rng(seed), Schema((FRAMES, TOKENS) if video else (TOKENS,))
    count, infos = -(-num_samples // per_shard), []
    for shard in range(count):
        with ShardWriter(directory / shard_name("train", shard, count), schema) as writer:
            for number in range(shard * per_shard, min((shard + 1) * per_shard, num_samples)):
                tokens = random.integers(0, 9, int(random.integers(1, 10))).astype("<i4")
                frames = random.standard_normal((int(random.integers(1, 13)), 4)).astype("<f4")
                writer.write(f"{number:05d}", {"tokens": tokens} | ({"frames": frames} if video else {}))
        infos.append(writer.info)
    Manifest(split="train", schema=schema, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)
