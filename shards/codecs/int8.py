"""Targets as int8 with a scale for each token: a token of D numbers becomes 8 + D bytes.

A token is what lies along the last axis. Its scale, f32 (little-endian), is its largest absolute value / 127. It
stands before its numbers, q = round(x / scale), half to even, with four zero bytes behind it: a tube of 8 tokens of 384
is then a whole number of cache lines, which are copied a quarter faster than others. Decoded, a number is q * scale in
f32, rounded to the dtype that the array had. No value is further off than half the scale, but for that rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codecs.base import Bytes, Fidelity

SCALE_BYTES, FRONT_BYTES = 4, 8
DTYPES = ("<f2", "<f4")
LARGEST = 127
_MOST = np.nextafter(np.finfo(np.float32).max / np.float32(LARGEST), np.float32(0))  # 127 of these stay in the range


class Int8:
    """Of f16 or f32 arrays `[..., D]`: u8 `[..., 8 + D]`."""

    name = "int8"

    def stored_shape(self, dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The last axis is longer by what stands in front."""
        if dtype not in DTYPES or len(shape) < 2:
            raise ValueError(
                f"codec {self.name} stores tokens, {' or '.join(DTYPES)} [..., tokens, width], got {dtype} "
                f"{list(shape)}"
            )
        return (*shape[:-1], FRONT_BYTES + shape[-1])

    def encode(self, array: NDArray[Any]) -> Bytes:
        """Scale and numbers of each token."""
        tokens = array.astype(np.float32)
        peaks = np.abs(tokens).max(axis=-1, keepdims=True)
        if not np.isfinite(peaks).all():
            raise ValueError(f"codec {self.name} stores finite numbers, and some are not")
        scales = np.minimum(peaks / np.float32(LARGEST), _MOST)
        tokens /= np.where(scales > 0, scales, np.float32(1))
        np.clip(np.rint(tokens, out=tokens), -LARGEST, LARGEST, out=tokens)
        stored = np.zeros((*array.shape[:-1], FRONT_BYTES + array.shape[-1]), np.uint8)
        stored[..., :SCALE_BYTES] = scales.astype("<f4").view(np.uint8)
        stored[..., FRONT_BYTES:] = tokens.astype(np.int8).view(np.uint8)
        return stored

    def decode(self, stored: Bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Numbers times scale."""
        stored = stored.reshape(*shape[:-1], FRONT_BYTES + shape[-1])
        scales = np.ascontiguousarray(stored[..., :SCALE_BYTES]).view("<f4")
        values: NDArray[Any] = (stored[..., FRONT_BYTES:].view(np.int8) * scales).astype(dtype, copy=False)
        return values

    def measure(self, array: NDArray[Any], decoded: NDArray[Any]) -> Fidelity:
        """The cosine between each token and what it has become; a token of zeros stays one, which counts as 1."""
        one, two = (values.astype(np.float64).reshape(-1, values.shape[-1]) for values in (array, decoded))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        products = (one * two).sum(axis=1)
        cosines = np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), (one == two).all(axis=1))
        return Fidelity(what="cosine", count=len(cosines), total=float(cosines.sum()), least=float(cosines.min()))
