"""Pixels as YUV 4:2:0: a value of light for each pixel, and one of each colour difference for four. Half the bytes.

Every frame of H x W pixels, of a tube each of its small ones, becomes H*W bytes of Y, H/2*W/2 of U and as many of V,
all row by row (I420). The colours are those of JPEG: the matrix of BT.601 in full range, so that Y counts alike in all
three channels, and no value of a byte is unused. U and V are the means of two by two pixels. All arithmetic is of whole
numbers, so every machine makes the same bytes of the same pixels, and the same pixels of the same bytes:

    u, v = U - 128, V - 128
    R = clamp(Y + ((45941 v + 16384) >> 15))
    G = clamp(Y - ((11277 u + 23401 v + 16384) >> 15))
    B = clamp(Y + ((58065 u + 16384) >> 15))
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codecs.base import Bytes, Fidelity

RED_OF_V, GREEN_OF_U, GREEN_OF_V, BLUE_OF_U = 45941, 11277, 23401, 58065  # times 2^-15: 1.402, 0.344, 0.714, 1.772
EXACT_DB = 100.0  # stands for no difference at all
# In f32 every sum of these is a whole number of at most 2^24, so it is exact in whatever order it is added up.
_TO_Y = np.array([19595, 38470, 7471], np.float32)  # times 2^-16
_TO_UV = np.array([[-2765, -5427, 8192], [8192, -6860, -1332]], np.float32).T  # times 2^-14, of the sum of four pixels
_CHUNK_PIXELS = 1 << 15  # what is worked on at a time stays in the caches


class Yuv420:
    """Of u8 arrays `[..., H, W, 3]` with even H and W: u8 `[..., H * W * 3 / 2]`."""

    name = "yuv420"

    def stored_shape(self, dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One axis for a frame in the place of three."""
        if dtype != "|u1" or len(shape) < 4 or shape[-1] != 3 or shape[-3] % 2 or shape[-2] % 2:
            raise ValueError(
                f"codec {self.name} stores pixels, |u1 [..., height, width, 3] with even height and width, got {dtype} "
                f"{list(shape)}"
            )
        height, width = shape[-3:-1]
        return (*shape[:-3], height * width * 3 // 2)

    def encode(self, array: NDArray[Any]) -> Bytes:
        """Y, U and V of each frame."""
        height, width = array.shape[-3:-1]
        frames = array.reshape(-1, height, width, 3)
        stored = np.empty((len(frames), height * width * 3 // 2), np.uint8)
        step = max(1, _CHUNK_PIXELS // (height * width))
        for start in range(0, len(frames), step):
            _encode(frames[start : start + step], stored[start : start + step])
        return stored.reshape(*array.shape[:-3], -1)

    def decode(self, stored: Bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """RGB, u8."""
        del dtype
        height, width = shape[-3:-1]
        rows = stored.reshape(-1, height * width * 3 // 2)
        frames = np.empty((len(rows), height, width, 3), np.uint8)
        step = max(1, _CHUNK_PIXELS // (height * width))
        for start in range(0, len(rows), step):
            _decode(rows[start : start + step], frames[start : start + step])
        return frames.reshape(shape)

    def measure(self, array: NDArray[Any], decoded: NDArray[Any]) -> Fidelity:
        """The peak signal-to-noise ratio of all pixels and channels of a clip."""
        difference = array.astype(np.int16).reshape(-1) - decoded.reshape(-1)
        squares = int(np.square(difference.astype(np.int32)).sum(dtype=np.int64))
        db = EXACT_DB if squares == 0 else 10 * math.log10(255**2 * difference.size / squares)
        return Fidelity(what="PSNR in dB", count=1, total=db, least=db)


def planes(stored: Bytes, height: int, width: int) -> tuple[Bytes, Bytes]:
    """Views of frames `[n, H * W * 3 / 2]`: Y `[n, H/2, 2, W/2, 2]`, and U and V `[n, 2, H/2, W/2]`."""
    size, count = height * width, len(stored)
    light = stored[:, :size].reshape(count, height // 2, 2, width // 2, 2)
    return light, stored[:, size:].reshape(count, 2, height // 2, width // 2)


def _encode(frames: Bytes, out: Bytes) -> None:
    """Frames `[n, H, W, 3]` to `[n, H * W * 3 / 2]`."""
    count, height, width, _ = frames.shape
    light = frames.astype(np.float32).reshape(-1, 3) @ _TO_Y
    light += 32768
    light *= 2**-16  # exact; to a whole number it is cut
    out[:, : height * width] = light.astype(np.uint8).reshape(count, -1)
    wide = frames.astype(np.uint16)
    four = wide[:, 0::2, 0::2] + wide[:, 0::2, 1::2] + wide[:, 1::2, 0::2] + wide[:, 1::2, 1::2]
    colours = four.astype(np.float32).reshape(-1, 3) @ _TO_UV
    colours += (128 << 16) + 32768
    colours *= 2**-16
    np.minimum(colours, 255, out=colours)
    both = colours.astype(np.uint8).reshape(count, -1, 2).transpose(0, 2, 1)
    out[:, height * width :] = both.reshape(count, -1)


def _decode(stored: Bytes, out: Bytes) -> None:
    """Frames `[n, H * W * 3 / 2]` to `[n, H, W, 3]`."""
    count, height, width, _ = out.shape
    light, colours = planes(stored, height, width)
    light = light.astype(np.int16)
    u, v = (colours[:, number].astype(np.int32) - 128 for number in (0, 1))
    offsets = (
        (RED_OF_V * v + 16384) >> 15,
        -((GREEN_OF_U * u + GREEN_OF_V * v + 16384) >> 15),
        (BLUE_OF_U * u + 16384) >> 15,
    )
    pixels = out.reshape(count, height // 2, 2, width // 2, 2, 3)
    for channel, offset in enumerate(offsets):
        value = light + offset.astype(np.int16)[:, :, None, :, None]
        pixels[..., channel] = np.clip(value, 0, 255, out=value)
