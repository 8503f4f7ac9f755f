"""What a further teacher makes of what is stored already: clips or captions of a data set. No video is decoded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from shards.builder.config import TeacherFacts
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared, Rows
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, ShardError
from shards.format.layout import target_to_tubes, tubes_to_clip
from shards.format.parse import mapping, parse_json
from shards.format.schema import Field, Schema
from shards.format.views import view_hash
from shards.payload import StoredValue
from shards.writer import Value


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What clips and captions have in common.

    Attributes:
        output: the field to be.
        series: digest of the tar series that is read.
        view: hash of the view that the clips show, or None where nobody wrote it down.
        missing: what stands for a sample that the teacher fails on; None where nothing may.
    """

    output: Field
    series: str
    view: str | None
    missing: float | None = None

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return the one field."""
        return Schema((self.output,))

    def _fingerprint(self, kind: str) -> Mapping[str, Any]:
        missing = None if self.missing is None else repr(self.missing)
        return {"sample": {"kind": kind, "series": self.series, "view_hash": self.view, "missing": missing}}

    def substitute(self, item: Item) -> Mapping[str, Value] | None:
        """Return a field full of `missing`, of rows one row; None where nothing may stand for a sample."""
        if self.missing is None:
            return None
        shape = (1, *self.output.row_shape) if self.output.is_rows else self.output.fixed_shape
        return {self.output.name: np.full(shape, self.missing, self.output.dtype)}


@dataclass(frozen=True, kw_only=True)
class StoredClipKind(Stored):
    """Targets of stored clips, in the layout of the clips where the teacher's tokens lie on their grid.

    Attributes:
        in_tubes: whether the clips are.
    """

    in_tubes: bool

    @classmethod
    def of(cls, dataset: ShardDataset, group: str, teacher: TeacherFacts, missing: float | None) -> StoredClipKind:
        """The kind for a data set of clips and a teacher.

        Raises:
            ValueError: the set has no clips, the teacher takes others, or gives no tokens.
        """
        clip = stored_field(dataset, "clip", "a teacher of clips")
        shape = frames_shape(clip)
        if teacher.input_shape != shape:
            raise ValueError(
                f"the teacher takes clips {_spell(teacher.input_shape)}, the clips of {dataset.directory} are "
                f"{_spell(shape)}: take another teacher, or build a set with its view"
            )
        if len(teacher.output_shape) != 2:
            raise ValueError(f"the teacher gives {teacher.output_shape} for a clip; its targets are (tokens, width)")
        tokens, width = teacher.output_shape
        if clip.layout == "tubes" and tokens == clip.fixed_shape[0] * clip.fixed_shape[1]:
            positions, times = clip.fixed_shape[:2]
            output = Field(
                name=group, dtype=teacher.output_dtype, shape=(positions, times, width), layout="tubes", group=group
            )
        else:
            output = Field(name=group, dtype=teacher.output_dtype, shape=(tokens, width), group=group)
        return cls(
            output=output,
            series=dataset.digest_of(["clip"]),
            view=view_hash(dataset.manifest),
            missing=missing,
            in_tubes=clip.layout == "tubes",
        )

    @property
    def name(self) -> str:
        """What it is called in plans."""
        return "stored clip"

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what is read, and the view that it shows."""
        return self._fingerprint(self.name)

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Read one clip, u8 [T, H, W, 3].

        Raises:
            BuildFailure: its bytes are damaged.
        """
        stored = np.asarray(read_stored(root, self.series, item, "clip"))
        frames = tubes_to_clip(stored, math.isqrt(stored.shape[0])) if self.in_tubes else stored
        return Prepared(arrays={"clip": frames})

    def teacher_rows(self, prepared: Prepared) -> Rows:
        """Return the clip as one row, u8 [1, T, H, W, 3]."""
        rows: Array = prepared.arrays["clip"][None]
        return rows

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return the targets, [S, T', D] in tubes, else [N, D]."""
        assert rows is not None
        in_tubes = self.output.layout == "tubes"
        return {self.output.name: target_to_tubes(rows[0], self.output.fixed_shape[1]) if in_tubes else rows[0]}


@dataclass(frozen=True, kw_only=True)
class CaptionKind(Stored):
    """Embeddings of the captions in the samples' JSON: of its `text`, or of its `captions`, one a row."""

    @classmethod
    def of(cls, dataset: ShardDataset, group: str, teacher: TeacherFacts, missing: float | None) -> CaptionKind:
        """The kind for a data set with captions and a teacher of text; rows where its first sample has a list of them.

        Raises:
            ValueError: the set has no JSON, or not one for a sample.
            ShardError: the JSON of its first sample is damaged.
        """
        json = stored_field(dataset, "json", "a teacher of captions")
        if json.dtype is not None or json.is_packed:
            raise ValueError(f"the field 'json' of {dataset.directory} is not one text a sample, so it has no captions")
        rows = (None,) if len(dataset) and "captions" in dataset.metadata(0) else ()
        output = Field(name=group, dtype=teacher.output_dtype, shape=(*rows, *teacher.output_shape), group=group)
        return cls(output=output, series=dataset.digest_of(["json"]), view=view_hash(dataset.manifest), missing=missing)

    @property
    def name(self) -> str:
        """What it is called in plans."""
        return "caption"

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what is read."""
        return self._fingerprint(self.name)

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Read a sample's caption, or its captions.

        Raises:
            BuildFailure: there is none, or its bytes are damaged.
        """
        stored = read_stored(root, self.series, item, "json")
        assert isinstance(stored, bytes)
        try:
            about = mapping(parse_json(stored), "it")
        except ValueError as error:
            raise BuildFailure("bad_annotation", f"its JSON cannot be read: {error}") from None
        texts = about.get("captions", [about.get("text")]) if self.output.is_rows else [about.get("text")]
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text.strip() for text in texts)
        ):
            where = "captions" if self.output.is_rows and "captions" in about else "text"
            raise BuildFailure("bad_annotation", f"it has no caption: there is no {where} in its JSON")
        return Prepared(facts={"texts": texts})

    def teacher_rows(self, prepared: Prepared) -> Rows:
        """Return each caption as a row."""
        texts: list[str] = prepared.facts["texts"]
        return texts

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return the embeddings, [captions, D], or the only one, [D]."""
        assert rows is not None
        return {self.output.name: rows if self.output.is_rows else rows[0]}


def frames_shape(clip: Field) -> tuple[int, ...] | None:
    """Shape of a stored clip as frames, (T, H, W, 3); None where it is none."""
    if not clip.is_array or clip.dtype != "|u1":
        return None
    shape = clip.fixed_shape
    if clip.layout != "tubes":
        return shape if len(shape) == 4 else None
    if len(shape) != 6 or math.isqrt(shape[0]) ** 2 != shape[0]:
        return None
    positions, times, tubelet, height, width, channels = shape
    side = math.isqrt(positions)
    return times * tubelet, side * height, side * width, channels


def samples_of(dataset: ShardDataset) -> list[list[Item]]:
    """An item for each sample of a data set, shard by shard, with its number."""
    numbers = itertools.count()
    return [
        [Item(id=key, path="", exact_key=key, extra={"number": next(numbers)}) for key in dataset.index(shard).keys]
        for shard in range(dataset.num_shards)
    ]


def stored_field(dataset: ShardDataset, name: str, what: str) -> Field:
    """The field that a teacher sees.

    Raises:
        ValueError: the data set has none.
    """
    if name not in dataset.schema:
        raise ValueError(
            f"{dataset.directory} has no field {name!r}, which {what} sees; it has {', '.join(dataset.schema.names)}"
        )
    return dataset.schema[name]


def _spell(shape: tuple[int, ...] | None) -> str:
    return "no frames" if shape is None else f"{list(shape)}"


def read_stored(root: Path, series: str, item: Item, name: str) -> StoredValue:
    """One field of one sample.

    Raises:
        BuildFailure: its bytes are damaged.
    """
    dataset = _open(root, series, name)
    try:
        return dataset.read(int(item.extra["number"]), name)
    except DamagedShardError as error:
        raise BuildFailure("decode_error", str(error)) from None


@lru_cache(maxsize=4)
def _open(root: Path, series: str, name: str) -> ShardDataset:
    """The data set that the plan was made for, opened once in a process.

    Raises:
        ShardError: it has changed meanwhile.
    """
    dataset = ShardDataset.open(root)
    if dataset.digest_of([name]) != series:
        raise ShardError(f"{root} has changed since the field group was planned; run the same command again")
    return dataset
