"""Ragged payloads to arrays of variable length, run in the reader threads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shards.format.packed import unpack_pieces


class Decoder(Protocol):
    """Turns a payload into an array whose first axis is its length."""

    def __call__(self, data: bytes) -> NDArray[Any]:
        """The array, `[length, ...]`; other axes and dtype are the same for every sample.

        Raises:
            ValueError: the payload is not what the decoder reads; the sample then counts as damaged.
        """
        ...


@dataclass(frozen=True)
class JpegFrames:
    """Frames that were packed by `shards.format.packed.pack_pieces`, each a JPEG of `height` x `width`."""

    height: int
    width: int

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        """u8 `[num_frames, height, width, 3]`."""
        pieces = unpack_pieces(data)
        frames = np.empty((len(pieces), self.height, self.width, 3), np.uint8)
        for frame, piece in zip(frames, pieces, strict=True):
            try:
                with Image.open(io.BytesIO(piece), formats=("JPEG",)) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except OSError as error:
                raise ValueError(f"a frame is not a readable JPEG: {error}") from None
            if pixels.shape != frame.shape:
                raise ValueError(f"a frame has shape {pixels.shape}, expected {frame.shape}")
            frame[:] = pixels
        return frames


@dataclass(frozen=True)
class Numbers:
    """A payload of raw little-endian numbers, such as token ids; comes out as i64 `[length]`."""

    dtype: str = "<i4"

    def __call__(self, data: bytes) -> NDArray[np.int64]:
        """i64 `[length]`."""
        return np.frombuffer(data, self.dtype).astype(np.int64)


def pad(arrays: Sequence[NDArray[Any] | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays `[length_i, ...]` as one tensor `[B, longest, ...]`, zero behind each end, and lengths i64 `[B]`.

    None stands for a row without a sample and has length 0.
    """
    present = [array for array in arrays if array is not None]
    lengths = [0 if array is None else len(array) for array in arrays]
    example = present[0] if present else np.empty((0,), np.int64)
    padded = np.zeros((len(arrays), max(lengths, default=0), *example.shape[1:]), example.dtype)
    for row, array in zip(padded, arrays, strict=True):
        if array is not None:
            row[: len(array)] = array
    return torch.from_numpy(padded), torch.tensor(lengths, dtype=torch.int64)
