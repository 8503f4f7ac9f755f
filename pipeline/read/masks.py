"""The masks of a frame to arrays, run in the reader threads, straight into the batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import mix
from pipeline.read.decoders import Outputs
from shards import rle


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


def read_objects(piece: bytes | memoryview) -> list[dict[str, Any]]:
    """The objects of a frame: `id`, `rle` and `box` of each; the RLE is not read yet.

    Raises:
        ValueError: it is not what the sample kind `sav` writes.
    """
    try:
        objects = json.loads(bytes(piece))["objects"]
        if not all(type(one["id"]) is int and isinstance(one["rle"], dict) and _is_box(one["box"]) for one in objects):
            raise TypeError("an object has no id, rle or box")
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"it is no JSON of objects with id, rle and box: {reason}") from None
    found: list[dict[str, Any]] = objects
    return found


def _is_box(box: Any) -> bool:
    """Whether it is x0, y0, x1, y1 within the picture, with an area."""
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, (int, float)) for side in box):
        return False
    x0, y0, x1, y1 = box
    return bool(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1)
