"""A teacher without a network: the mean colour of every tubelet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TUBELET, PATCH = 2, 16


class MeanTeacher:
    """Target token i = t * S + s is the mean colour of tubelet (t, s), shape [N, 3], times `scale`."""

    def __init__(self, clip_shape: tuple[int, ...], version: int = 1, scale: float = 1.0) -> None:
        self.clip_shape, self.version, self.scale = clip_shape, version, scale

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.clip_shape

    @property
    def output_dtype(self) -> str:
        return "<f2"

    @property
    def output_shape(self) -> tuple[int, int]:
        frames, height, width, channels = self.clip_shape
        return (frames // TUBELET) * (height // PATCH) * (width // PATCH), channels

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"id": "mean", "version": self.version}

    @property
    def files(self) -> Mapping[str, bytes]:
        return {"teacher.txt": b"mean colour\n"}

    def __call__(self, clips: NDArray[np.uint8]) -> NDArray[np.float16]:
        frames, height, width, channels = self.clip_shape
        cut = clips.reshape(
            len(clips), frames // TUBELET, TUBELET, height // PATCH, PATCH, width // PATCH, PATCH, channels
        )
        means = cut.mean(axis=(2, 4, 6), dtype=np.float32) * np.float32(self.scale)  # [B, T', H', W', 3]
        with np.errstate(over="ignore"):
            tokens: NDArray[np.float16] = means.reshape(len(clips), -1, channels).astype(np.float16)
        return tokens
