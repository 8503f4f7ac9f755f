"""`dataset.json`: what a data set is. Written last: without it there is no data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from shards.errors import ManifestError, MissingDataError
from shards.index import FORMAT, ShardInfo
from shards.publish import canonical_json, publish_json
from shards.schema import Field, Schema

MANIFEST_NAME = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of one split of one data set.

    Attributes:
        split: such as "train".
        schema: the fields of every sample.
        shards: the main tar series, in order.
        groups: further tar series by group name: the same samples in the same order, other fields.
        label_names: name of each class; empty where there are none.
        provenance: where every bit came from: source, view, decoder, teacher, projection.
        failures: number of planned samples that could not be built, by reason.
    """

    split: str
    schema: Schema
    shards: tuple[ShardInfo, ...]
    groups: Mapping[str, tuple[ShardInfo, ...]] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = [info.num_samples for info in self.shards]
        if not counts or min(counts) < 0:
            raise ValueError("a data set needs at least one shard")
        if len({info.name for info in self.shards}) < len(counts):
            raise ValueError("two shards have the same name")
        for group in self.schema.groups:
            if group and [info.num_samples for info in self.groups.get(group, ())] != counts:
                raise ValueError(
                    f"group {group!r} must have the same number of samples in each shard as the main series"
                )

    def series(self, group: str = "") -> tuple[ShardInfo, ...]:
        """The shards of one tar series."""
        return self.groups[group] if group else self.shards

    @property
    def num_samples(self) -> int:
        """Samples in all."""
        return sum(info.num_samples for info in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tars."""
        return sum(info.num_bytes for series in (self.shards, *self.groups.values()) for info in series)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of everything else in the manifest: the data set's name, in effect."""
        return hashlib.sha256(canonical_json(self._body())).hexdigest()

    def _body(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "split": self.split,
            "schema": [field.to_json() for field in self.schema],
            "shards": [info.to_json() for info in self.shards],
            "groups": {name: [info.to_json() for info in series] for name, series in self.groups.items()},
            "label_names": list(self.label_names),
            "provenance": dict(self.provenance),
            "failures": dict(self.failures),
        }

    def to_json(self) -> dict[str, Any]:
        """The manifest as it stands in the file, its digest included."""
        return self._body() | {"digest": self.digest}

    def write(self, directory: Path) -> None:
        """Publish `dataset.json` in `directory`."""
        publish_json(directory / MANIFEST_NAME, self.to_json())

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read `dataset.json` of `directory`.

        Raises:
            MissingDataError: there is no such folder, or no manifest in it.
            ManifestError: it is damaged or of another format.
        """
        path = directory / MANIFEST_NAME
        if not directory.is_dir():
            raise MissingDataError(f"there is no data set at {directory}: the folder does not exist")
        if not path.is_file():
            raise MissingDataError(
                f"{directory} has no {MANIFEST_NAME}: either its build has not finished (run the same "
                f"`reelshard build` again), or its tars were made elsewhere (run `reelshard index {directory}`)"
            )
        return cls._parse(path.read_bytes(), path)

    @classmethod
    def _parse(cls, data: bytes, path: Path) -> Manifest:
        try:
            record = json.loads(data)
            if record["format"] != FORMAT:
                raise ManifestError(f"{path}: format {record['format']} is not known, this version reads {FORMAT}")
            manifest = cls(
                split=record["split"],
                schema=Schema(tuple(Field.from_json(entry) for entry in record["schema"])),
                shards=tuple(ShardInfo.from_json(entry) for entry in record["shards"]),
                groups={k: tuple(ShardInfo.from_json(entry) for entry in v) for k, v in record["groups"].items()},
                label_names=tuple(record["label_names"]),
                provenance=record["provenance"],
                failures=record["failures"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(f"{path} is damaged: {error!r}") from None
        if manifest.digest != record.get("digest"):
            raise ManifestError(f"{path} was changed by hand or damaged: its digest does not match its contents")
        return manifest


def shard_name(split: str, number: int, count: int, group: str = "") -> str:
    """Name of a tar, such as `train-00003-of-00660.tar`: the convention by which the Hub finds a split."""
    series = f"{split}.{group}" if group else split
    return f"{series}-{number:05d}-of-{count:05d}.tar"
