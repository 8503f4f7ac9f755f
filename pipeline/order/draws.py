"""Draws say what is read of a sample, from (seed, epoch, sample, length) alone. Here: what they are, and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key, mix
from pipeline.order.choose import choose, split

Positions = NDArray[np.int64]


class Draw(Protocol):
    """What the loader asks of a draw: a pure function of (seed, epoch, sample, length)."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one sample's entry for each name that `draw` returns."""
        ...

    @property
    def num_positions(self) -> int | None:
        """How many positions of a fixed array it chooses from; None if that follows from the length."""
        ...

    @property
    def length_of(self) -> str | None:
        """The rows or packed field whose lengths it needs, if any."""
        ...

    def draw(
        self, seed: int, epoch: int, samples: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, Positions]:
        """What is drawn of some samples, i64 `[B]`, with `lengths` i64 `[B]`: i64 `[B, ...]` for each name."""
        ...


class Mask(Draw, Protocol):
    """A draw that hides some of a fixed number of positions."""

    @property
    def num_positions(self) -> int:
        """How many there are."""
        ...


@dataclass(frozen=True, kw_only=True)
class _UniformMask:
    """Every set of `num_masked` positions is equally likely."""

    length_of: ClassVar[None] = None

    num_positions: int
    ratio: float = 0.75

    def __post_init__(self) -> None:
        _check_share(self.ratio, self.num_masked, self.num_positions)

    @property
    def num_masked(self) -> int:
        """Hidden positions."""
        return round(self.ratio * self.num_positions)

    @property
    def num_visible(self) -> int:
        """Visible positions."""
        return self.num_positions - self.num_masked

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`visible [num_visible]` and `masked [num_masked]`."""
        return {"visible": (self.num_visible,), "masked": (self.num_masked,)}

    def draw(
        self, seed: int, epoch: int, samples: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, Positions]:
        """Positions of some samples in ascending order.

        Args:
            seed: any integer.
            epoch: from 0 on.
            samples: i64 `[B]`, sample numbers.
            lengths: not used.

        Returns:
            `visible` i64 `[B, num_visible]` and `masked` i64 `[B, num_masked]`.
        """
        del lengths
        visible, masked = choose(self.num_positions, self.num_visible, seed, epoch, samples)
        return {"visible": visible, "masked": masked}


class TubeMask(_UniformMask):
    """Hides the same spatial positions at all times (VideoMAE, Tong et al. 2022): |mask| = round(ratio * S).

    Attributes:
        num_positions: S, patches per frame.
        ratio: share of hidden positions.
    """


class RandomMask(_UniformMask):
    """Hides tokens anywhere in time and space, of each sample its own: |mask| = int(ratio * N).

    It cuts through tubes, so clips and targets are read whole.

    Attributes:
        num_positions: N, tokens of a clip; token i is at time i // S, position i % S.
        ratio: share of hidden tokens.
    """

    @property
    def num_masked(self) -> int:
        """Hidden tokens."""
        return int(self.ratio * self.num_positions)


@dataclass(frozen=True, kw_only=True)
class MultiBlockMask:
    """Hides rectangles over the whole clip, as V-JEPA does (Bardes et al. 2024): |mask| = round(ratio * S).

    V-JEPA hides the union of a number of blocks, whatever its size. Here every sample hides equally many positions, so
    that batches are dense: blocks are laid in turn until enough is hidden, and of the last one only a random part
    is. Should all blocks together hide too little, random positions do the rest.

    Attributes:
        grid: height and width of a frame in patches.
        ratio: share of hidden positions.
        num_blocks: blocks laid at most.
        scale: area of a block as a share of the frame; V-JEPA's short blocks are 8 of 0.15, its long ones 2 of 0.7.
        aspect: range of height over width of a block.
    """

    length_of: ClassVar[None] = None

    grid: tuple[int, int]
    ratio: float = 0.75
    num_blocks: int = 8
    scale: float = 0.15
    aspect: tuple[float, float] = (0.75, 1.5)

    def __post_init__(self) -> None:
        _check_share(self.ratio, self.num_masked, self.num_positions)
        if self.num_blocks < 1 or not 0 < self.scale <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(
                f"num_blocks={self.num_blocks}, scale={self.scale}, aspect={self.aspect}; needed are a block or more, "
                "a share of the frame in (0, 1] and a rising range above 0"
            )

    @property
    def num_positions(self) -> int:
        """S, patches per frame."""
        return self.grid[0] * self.grid[1]

    @property
    def num_masked(self) -> int:
        """Hidden positions."""
        return round(self.ratio * self.num_positions)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`visible [S_visible]` and `masked [S_masked]`."""
        return {"visible": (self.num_positions - self.num_masked,), "masked": (self.num_masked,)}

    def draw(
        self, seed: int, epoch: int, samples: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, Positions]:
        """Positions of some samples in ascending order; see `TubeMask.draw`."""
        del lengths
        streams = mix(samples.astype(np.uint64) ^ derive_key(seed, epoch, self.num_positions))
        first = self._first_block(streams)  # [B, S]
        position = np.arange(self.num_positions, dtype=np.uint64)
        tie = mix(streams[:, None] + position) >> np.uint64(16)
        rank = (first.astype(np.uint64) << np.uint64(48)) | tie
        hidden = np.argsort(rank, axis=1, kind="stable")[:, : self.num_masked]
        visible = np.ones((len(samples), self.num_positions), np.bool_)
        np.put_along_axis(visible, hidden, False, axis=1)
        shown, masked = split(visible)
        return {"visible": shown, "masked": masked}

    def _first_block(self, streams: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Number of the first block that covers a position, `num_blocks` where none does: i64 `[B, S]`."""
        height, width = self.grid
        counters = np.arange(3 * self.num_blocks, dtype=np.uint64)
        draws = mix(mix(streams)[:, None] + counters)
        shape, top, left = np.moveaxis(
            (draws >> np.uint64(11)).reshape(-1, self.num_blocks, 3) / 2**53, 2, 0
        )  # in [0, 1)
        aspect = self.aspect[0] + shape * (self.aspect[1] - self.aspect[0])
        area = self.scale * self.num_positions
        rows = np.clip(np.rint(np.sqrt(area * aspect)), 1, height)
        columns = np.clip(np.rint(np.sqrt(area / aspect)), 1, width)
        y = np.arange(height) - np.floor(top * (height - rows + 1))[..., None]  # [B, blocks, H]
        x = np.arange(width) - np.floor(left * (width - columns + 1))[..., None]
        inside_y, inside_x = (y >= 0) & (y < rows[..., None]), (x >= 0) & (x < columns[..., None])
        covered = (inside_y[..., None] & inside_x[..., None, :]).reshape(len(streams), self.num_blocks, -1)
        return np.where(covered.any(axis=1), covered.argmax(axis=1), self.num_blocks)


def _check_share(ratio: float, num_masked: int, num_positions: int) -> None:
    if not 0 < num_masked < num_positions:
        raise ValueError(
            f"a mask ratio of {ratio} hides {num_masked} of {num_positions} positions; "
            "at least one must be hidden and one visible"
        )
