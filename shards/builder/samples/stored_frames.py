"""What a further teacher makes of the JPEG frames that a data set holds. No video is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.builder.config import TeacherFacts
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared, Rows
from shards.builder.samples.pictures import decode_jpeg
from shards.builder.samples.stored import Stored, read_stored, stored_field
from shards.cores import usable_cores
from shards.dataset import ShardDataset
from shards.format.schema import Field
from shards.format.views import view_hash
from shards.writer import Value


@dataclass(frozen=True, kw_only=True)
class StoredFramesKind(Stored):
    """Features of stored frames: a row for each.

    Attributes:
        side: of a frame in pixels.
    """

    side: int

    @classmethod
    def of(cls, dataset: ShardDataset, group: str, teacher: TeacherFacts, missing: float | None) -> StoredFramesKind:
        """The kind for a data set of JPEG frames and a teacher of pictures.

        Raises:
            ValueError: the set has no such frames, or the teacher takes others.
        """
        side = side_of_frames(dataset)
        if teacher.input_shape != (side, side, 3):
            raise ValueError(
                f"the teacher takes pictures {teacher.input_shape}, the frames of {dataset.directory} are {side} x "
                f"{side} px: take another teacher, or build a set with its view"
            )
        output = Field(name=group, dtype=teacher.output_dtype, shape=(None, *teacher.output_shape), group=group)
        series, view = dataset.digest_of(["frames"]), view_hash(dataset.manifest)
        return cls(output=output, series=series, view=view, missing=missing, side=side)

    @property
    def name(self) -> str:
        """What it is called in plans."""
        return "stored frames"

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what is read, and the view that it shows."""
        return self._fingerprint(self.name)

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Read the JPEGs of one sample.

        Raises:
            BuildFailure: their bytes are damaged, or there are none.
        """
        pieces = read_stored(root, self.series, item, "frames")
        assert isinstance(pieces, list)
        if not pieces:
            raise BuildFailure("too_few_frames", "it has no frames")
        return Prepared(blobs={"frames": [bytes(piece) for piece in pieces]})

    def teacher_rows(self, prepared: Prepared) -> Rows:
        """Return each frame as a row, u8 [n, S, S, 3]."""
        jpegs = prepared.blobs["frames"]
        assert not isinstance(jpegs, bytes)
        return decode_jpegs(jpegs)

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return the features, [n, ...]."""
        assert rows is not None
        return {self.output.name: rows}


def decode_jpegs(jpegs: Sequence[bytes]) -> Array:
    """Decode JPEGs of one size, several at once: u8 [n, H, W, 3]."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.stack(list(pool.map(decode_jpeg, jpegs)))


def side_of_frames(dataset: ShardDataset) -> int:
    """Pixels of a side of a data set's square JPEG frames.

    Raises:
        ValueError: it has none.
    """
    field = stored_field(dataset, "frames", "a teacher of pictures")
    view = dataset.manifest.provenance.get("view")
    side = view.get("size") if isinstance(view, Mapping) else None
    if not field.is_packed or not isinstance(side, int):
        raise ValueError(f"{dataset.directory} has no square JPEG frames of one size, which a teacher of pictures sees")
    return side
