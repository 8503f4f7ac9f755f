"""Pieces of bytes to arrays, run in the reader threads, straight into the batch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Outputs = Mapping[str, tuple[str, tuple[int, ...]]]


class Decoder(Protocol):
    """Turns one piece into one or more arrays of fixed shape: a frame, or the masks, boxes and classes of a frame."""

    @property
    def outputs(self) -> Outputs:
        """Name of a tensor of the batch -> numpy dtype, and shape of what one piece becomes."""
        ...

    def __call__(self, piece: memoryview, out: Mapping[str, NDArray[Any]], key: int) -> None:
        """Decode a piece.

        Args:
            piece: its bytes, good during this call only.
            out: name -> where to write, of that output's shape and dtype, zero before.
            key: 64 random bits that follow from (seed, epoch, sample), for decoders that choose.

        Raises:
            ValueError: the piece is not what the decoder reads; the sample then counts as damaged.
        """
        ...


@dataclass(frozen=True)
class JpegFrames:
    """Frames, each a JPEG of `height` x `width`: u8 `[height, width, 3]` under `name`, or `[3, height, width]`."""

    height: int
    width: int
    name: str = "frames"
    channels_first: bool = False

    @property
    def outputs(self) -> Outputs:
        """One tensor of pixels."""
        shape = (self.height, self.width)
        return {self.name: ("|u1", (3, *shape) if self.channels_first else (*shape, 3))}

    def __call__(self, piece: memoryview, out: Mapping[str, NDArray[Any]], key: int) -> None:
        """Decode a frame."""
        del key
        frame = out[self.name]
        try:
            with Image.open(io.BytesIO(piece), formats=("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"it is not a readable JPEG: {error}") from None
        expected = (self.height, self.width, 3)
        if pixels.shape != expected:
            raise ValueError(f"the frame has shape {pixels.shape}, expected {expected}")
        frame[:] = pixels.transpose(2, 0, 1) if self.channels_first else pixels
