"""Look into samples of the kind `sav`: whether features, frames and masks are of one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shards import rle
from shards.format.objects import read_objects
from shards.payload import StoredValue

_ROUNDING = 1e-9  # of a box's sides, which are shares of the picture


def mask_problems(sample: Mapping[str, StoredValue], about: Mapping[str, Any], side: int | None) -> Iterator[str]:
    """What is wrong with the features and the masks of a sample, and their numbers.

    Args:
        sample: all its fields.
        about: its JSON.
        side: of the square that masks are of, in pixels.
    """
    frames, masks, said = sample["frames"], sample["masks"], about.get("frame_indices")
    assert isinstance(masks, list)
    counts = {"frames": len(frames), "frames with masks": len(masks)}
    if "fpn" in sample:
        features = np.asarray(sample["fpn"])
        counts["frames with features"] = len(features)
        if num_wrong := int(features.size - np.isfinite(features).sum()):
            yield f"{num_wrong} of the {features.size} values of its features are not finite"
    if len({*counts.values(), len(said) if isinstance(said, list) else -1}) > 1:
        spelled = ", ".join(f"{count} {what}" for what, count in counts.items())
        number = len(said) if isinstance(said, list) else "not"
        yield f"it has {spelled}, and its JSON says {number} annotated ones"
    ids = set(about["object_ids"]) if isinstance(about.get("object_ids"), list) else set()
    for number, piece in enumerate(masks):
        for problem in _object_problems(piece, ids, side):
            yield f"the masks of frame {number}: {problem}"


def _object_problems(piece: bytes | memoryview, ids: set[Any], side: int | None) -> Iterator[str]:
    try:
        objects = read_objects(piece)
    except ValueError as error:
        yield str(error)
        return
    found = [one["id"] for one in objects]
    if len(set(found)) < len(found) or not ids.issuperset(found):
        yield f"the objects {found} are not different ones of its JSON's {sorted(ids)}"
    for one in objects:
        try:
            mask = rle.decode(one["rle"], None if side is None else (side, side))
        except ValueError as error:
            yield f"object {one['id']}: {error}"
            continue
        if (inner := rle.box_of(mask)) is not None and not _holds(one["box"], inner, mask.shape[0]):
            yield f"object {one['id']}: the box {one['box']} does not hold its mask, which lies in {list(inner)}"


def _holds(box: list[float], inner: tuple[float, float, float, float], side: int) -> bool:
    """Whether the box of a full-size mask holds the middles of the pixels of the scaled one."""
    half = 0.5 / side - _ROUNDING
    begins = box[0] <= inner[0] + half and box[1] <= inner[1] + half
    return begins and box[2] >= inner[2] - half and box[3] >= inner[3] - half
