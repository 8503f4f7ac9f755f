"""The masks of a frame to arrays, run in the reader threads, straight into the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import mix
from pipeline.read.decoders import Outputs
from shards import rle
from shards.format.objects import read_objects

__all__ = ["FrameMasks", "read_objects"]


@dataclass(frozen=True)
class FrameMasks:
    """The objects of a frame, each with its mask and its box, out of JSON as the sample kind `sav` writes it.

    Outputs, padded with zeros behind the objects: `object_masks` u8 `[most, size, size]`, 1 is the object;
    `object_boxes` f32 `[most, 4]`, xyxy as shares of the picture; `num_objects`; and `num_lost`, the objects that
    have no pixel left in a mask of that size and are left out. Of more than `most`, so many are drawn, the same for the
    same seed, epoch and sample, and stay in their order.

    Attributes:
        stored: pixels of a side of the stored masks.
        size: pixels of a side of the masks in the batch.
        most: objects of a frame.

    Raises:
        ValueError: a number is not positive.
    """

    stored: int
    size: int = 144
    most: int = 20

    def __post_init__(self) -> None:
        if min(self.stored, self.size, self.most) < 1:
            raise ValueError(f"stored={self.stored}, size={self.size} and most={self.most} must be 1 or more")

    @property
    def outputs(self) -> Outputs:
        """Masks, boxes, and how many there are."""
        return {
            "object_masks": ("|u1", (self.most, self.size, self.size)),
            "object_boxes": ("<f4", (self.most, 4)),
            "num_objects": ("<i8", ()),
            "num_lost": ("<i8", ()),
        }

    def __call__(self, piece: memoryview, out: Mapping[str, NDArray[Any]], key: int) -> None:
        """Decode the objects of a frame."""
        found, num_lost = [], 0
        for masked in read_objects(piece):
            mask = rle.resize(rle.decode(masked["rle"], (self.stored, self.stored)), (self.size, self.size))
            if mask.any():
                found.append((mask, masked["box"]))
            else:
                num_lost += 1
        if len(found) > self.most:
            keys = mix(np.arange(len(found), dtype=np.uint64) ^ np.uint64(key))
            found = [found[number] for number in sorted(np.argsort(keys)[: self.most].tolist())]
        for number, (mask, box) in enumerate(found):
            out["object_masks"][number] = mask
            out["object_boxes"][number] = box
        out["num_objects"][...], out["num_lost"][...] = len(found), num_lost
