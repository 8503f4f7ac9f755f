"""Kinds of samples that are no clips, and teachers for them; a module, so that decoder processes find it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.builder import BuildFailure, Item
from shards.builder.config import TeacherFacts
from shards.builder.samples.base import Prepared, Rows
from shards.dataset import ShardDataset
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.writer import Value

WIDTH = 2


@dataclass(frozen=True, kw_only=True)
class WordsKind:
    """The words of an item, and the sum of what a teacher of texts says of each. Without words there is no row."""

    name: str = "words"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        fields = [] if teacher is None else [Field(name="sum", dtype=teacher.output_dtype, shape=teacher.output_shape)]
        return Schema((*fields, Field(name="json")))

    def fingerprint(self) -> Mapping[str, Any]:
        return {"sample": {"kind": self.name}}

    def prepare(self, root: Path, item: Item) -> Prepared:
        words = item.extra.get("words")
        if words is not None and not isinstance(words, list):
            raise BuildFailure("bad_annotation", f"words are a list, got {words!r}")
        return Prepared(facts={"words": words})

    def teacher_rows(self, prepared: Prepared) -> Rows | None:
        words: list[str] | None = prepared.facts["words"]
        return words

    def finish(self, item: Item, prepared: Prepared, rows: NDArray[Any] | None) -> Mapping[str, Value]:
        sample: dict[str, Value] = {"json": canonical_json({"words": prepared.facts["words"]})}
        return sample | ({} if rows is None else {"sum": rows.sum(axis=0, dtype=rows.dtype)})


class LetterTeacher:
    """Of a text: its length and its first letter, f32 [n, 2]; an empty one gives an infinity. Remembers its calls."""

    input_shape = None
    output_shape = (WIDTH,)
    output_dtype = "<f4"
    provenance: Mapping[str, Any] = {"id": "letters"}
    files: Mapping[str, bytes] = {"letters.txt": b"of the alphabet\n"}

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, rows: list[str]) -> NDArray[np.float32]:
        self.calls.append(rows)
        return np.array([[len(row), ord(row[0])] if row else [np.inf, 0] for row in rows], np.float32)


@dataclass(frozen=True, kw_only=True)
class MeansKind:
    """A field group: what a teacher of clips says of the clips that a data set holds; no video is decoded."""

    group: str = "means"
    substitutes: bool = True
    name: str = "stored"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        assert teacher is not None
        shape, dtype = teacher.output_shape, teacher.output_dtype
        return Schema((Field(name="means", dtype=dtype, shape=shape, group=self.group),))

    def fingerprint(self) -> Mapping[str, Any]:
        return {"sample": {"kind": self.name, "reads": "clip"}}

    def prepare(self, root: Path, item: Item) -> Prepared:
        dataset = ShardDataset.open(root)
        clip = np.asarray(dataset.read(item.extra["number"], "clip"))
        if item.id == "v1":
            raise BuildFailure("decode_error", "it is v1")
        return Prepared(arrays={"clip": clip})

    def teacher_rows(self, prepared: Prepared) -> Rows:
        rows: NDArray[Any] = prepared.arrays["clip"][None]
        return rows

    def finish(self, item: Item, prepared: Prepared, rows: NDArray[Any] | None) -> Mapping[str, Value]:
        assert rows is not None
        return {"means": rows[0]}

    def substitute(self, item: Item) -> Mapping[str, Value] | None:
        return {"means": np.zeros(self._shape, np.float16)} if self.substitutes else None

    @property
    def _shape(self) -> tuple[int, int]:
        return 8, 3
