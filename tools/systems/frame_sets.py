"""Frames of videos as JPEGs, with their times and captions: sets for students that look at some frames of each video.

Such a set is built, verified and shown; a system that learns from it brings a model, and this kind of sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shards.builder.decode.view import ViewSpec, check_quality
from shards.builder.samples.frames import FramesKind
from tools.systems.base import Feed, Recipe, System

if TYPE_CHECKING:
    from torch import Tensor, nn

    from shards.builder import SampleKind
    from shards.dataset import ShardDataset


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How frames are kept.

    Attributes:
        quality: of the JPEGs, from 1 to 95.
    """

    quality: int = 90

    def __post_init__(self) -> None:
        check_quality(self.quality, "sample.quality")


@dataclass(frozen=True, kw_only=True)
class FrameSetRecipe(Recipe):
    """A resolved recipe of a set of frames.

    Attributes:
        view: which frames are taken, and how each is cut out.
        sample: how they are kept.
    """

    system: str = "frame_sets"
    view: ViewSpec = field(
        default_factory=lambda: ViewSpec(sampling="fps", fps=1.0, max_frames=64, geometry="whole", short_side=336)
    )
    sample: SampleConfig = field(default_factory=SampleConfig)


class FrameSets(System[FrameSetRecipe]):
    """Sets of frames."""

    name = "frame_sets"
    title = "Frame sets"
    recipe = FrameSetRecipe

    def sample_kind(self, recipe: FrameSetRecipe) -> SampleKind:
        """Frames, times and what is said of the video."""
        return FramesKind(view=recipe.view, decoder=recipe.build.decoder, quality=recipe.sample.quality)

    def check_build(self, recipe: FrameSetRecipe, *, look: bool = True) -> None:
        """Nothing to compare: nobody makes targets."""

    def check_batch(self, recipe: FrameSetRecipe, batch: Mapping[str, Tensor]) -> None:
        """Nothing to look at: there are no batches."""

    def make_objective(self, recipe: FrameSetRecipe) -> nn.Module:
        """Refuse: there is no model.

        Raises:
            ValueError: always.
        """
        raise ValueError(_NO_STUDENT)

    def feed(self, recipe: FrameSetRecipe, dataset: ShardDataset, source: str = "") -> Feed:
        """Refuse: nothing is read.

        Raises:
            ValueError: always.
        """
        raise ValueError(_NO_STUDENT)


_NO_STUDENT = "the system 'frame_sets' builds sets and has no student: give the recipe of one that learns from them"
SYSTEM = FrameSets()
