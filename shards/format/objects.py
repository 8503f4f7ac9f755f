"""The objects of a frame, as the sample kind `sav` keeps them: JSON with id, mask and box of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import rle
from shards.format.publish import canonical_json

NUM_SIDES = 4


def write_objects(masks: Iterable[tuple[int, NDArray[np.bool_]]], side: int) -> bytes:
    """Write the masks of a frame down, scaled to a square; an object without a pixel is not listed.

    Args:
        masks: id of each object, and its mask, bool [H, W].
        side: of the square in pixels.
    """
    objects = []
    for object_id, mask in masks:
        if (box := rle.box_of(mask)) is not None:
            small = rle.encode(rle.resize(mask, (side, side)))
            objects.append({"id": object_id, "rle": small, "box": list(box)})
    return canonical_json({"objects": objects})


def read_objects(piece: bytes | memoryview) -> list[dict[str, Any]]:
    """The objects of a frame: `id`, `rle` and `box` of each; the RLE is not read yet.

    Raises:
        ValueError: it is not what `write_objects` writes.
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
    if not isinstance(box, list) or len(box) != NUM_SIDES or not all(isinstance(side, (int, float)) for side in box):
        return False
    x0, y0, x1, y1 = box
    return bool(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1)
