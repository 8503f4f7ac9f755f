"""Masks, drawn in the loader since they decide what is read. Each derives from (seed, epoch, sample) alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.bits import derive_key, mix

Positions = NDArray[np.int64]


class Mask(Protocol):
    """What the loader asks of a mask."""

    @property
    def num_positions(self) -> int:
        """How many positions the mask chooses from."""
        ...

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample's entry for each name that `draw` returns."""
        ...

    def draw(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> dict[str, Positions]:
        """The masks of some samples: i64 `[B, ...]` for each name."""
        ...


@dataclass(frozen=True, kw_only=True)
class TubeMask:
    """Hides the same spatial positions at all times (VideoMAE, Tong et al. 2022): |mask| = round(ratio * S).

    Attributes:
        num_positions: S, patches per frame.
        ratio: share of hidden positions.
    """

    num_positions: int
    ratio: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.num_masked < self.num_positions:
            raise ValueError(
                f"a mask ratio of {self.ratio} hides {self.num_masked} of {self.num_positions} positions; "
                "at least one must be hidden and one visible"
            )

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
        """`visible [S_visible]` and `masked [S_masked]`."""
        return {"visible": (self.num_visible,), "masked": (self.num_masked,)}

    def draw(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> dict[str, Positions]:
        """Positions of some samples in ascending order.

        Args:
            seed: any integer.
            epoch: from 0 on.
            samples: i64 `[B]`, sample numbers.

        Returns:
            `visible` i64 `[B, S_visible]` and `masked` i64 `[B, S_masked]`.
        """
        visible = choose(self.num_positions, self.num_visible, seed, epoch, samples)
        return {
            "visible": np.nonzero(visible)[1].reshape(len(samples), -1),
            "masked": np.nonzero(~visible)[1].reshape(len(samples), -1),
        }


def choose(count: int, chosen: int, seed: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each sample a uniformly random set of `chosen` of `count` positions, as bool `[B, count]`.

    The positions with the smallest random keys are chosen; the low bits of a key are the position, so no two are equal.
    """
    bits = np.uint64((count - 1).bit_length())
    positions = np.arange(count, dtype=np.uint64)
    streams = mix(samples.astype(np.uint64) ^ derive_key(seed, epoch, count))
    keys = (mix(streams[:, None] + positions) >> bits << bits) | positions
    threshold = np.partition(keys, chosen - 1, axis=1)[:, chosen - 1 : chosen]
    return keys <= threshold
