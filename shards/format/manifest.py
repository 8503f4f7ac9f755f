"""`dataset.json`: what a data set is. Written last: without it there is no data set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from shards.codecs import UnknownCodecError
from shards.format.errors import ManifestError, MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.index import MAX_SHARD_BYTES, ShardInfo
from shards.format.parse import check_name, count, entry, mapping, parse_json, sequence, text
from shards.format.publish import canonical_json, publish_json
from shards.format.schema import FORMATS, Field, Schema, check_format

MANIFEST_NAME = "dataset.json"
MAX_SAMPLES = 1 << 32
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+(.*)")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of one split of one data set.

    Attributes:
        split: such as "train".
        schema: the fields of every sample.
        shards: the main tar series, in order.
        groups: further tar series by group name: the same samples in the same order, other fields.
        label_names: name of each class; empty where there are none.
        provenance: where every bit came from: source, view, decoder, teacher, projection; under "groups" what is known
            of each further series.
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
        check_name(self.split, "the split's name")
        counts = [info.num_samples for info in self.shards]
        if not counts:
            raise ValueError("a data set needs at least one shard")
        if sum(counts) > MAX_SAMPLES:
            raise ValueError(f"a data set has at most {MAX_SAMPLES} samples, got {sum(counts)}")
        if self.num_bytes > MAX_SHARD_BYTES:
            raise ValueError(f"a data set has at most {MAX_SHARD_BYTES} bytes, got {self.num_bytes}")
        names = [info.name for series in (self.shards, *self.groups.values()) for info in series]
        if len(set(names)) < len(names):
            raise ValueError("two shards have the same name")
        main, *others = self.schema.groups
        if main:
            raise ValueError("the main series needs at least one field")
        if set(others) != set(self.groups):
            raise ValueError(
                f"fields are of the groups {', '.join(others) or 'none'}, shards of {', '.join(self.groups) or 'none'}"
            )
        for group in others:
            if [info.num_samples for info in self.groups[group]] != counts:
                raise ValueError(
                    f"group {group!r} must have the same number of samples in each shard as the main series"
                )

    def series(self, group: str = "") -> tuple[ShardInfo, ...]:
        """The shards of one tar series."""
        return self.groups[group] if group else self.shards

    def about(self, group: str = "") -> Mapping[str, Any]:
        """What the provenance says of one tar series; nothing is an empty mapping."""
        if not group:
            return self.provenance
        groups = self.provenance.get("groups")
        found = groups.get(group) if isinstance(groups, dict) else None
        return found if isinstance(found, dict) else {}

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

    def digest_of(self, fields: Iterable[str]) -> str:
        """sha256 (hex) of the tar series that hold these fields: what a reader of them depends on, and nothing else.

        Further groups, label names and provenance do not count.
        """
        groups = sorted({self.schema[name].group for name in fields})
        schema = Schema(tuple(field for group in groups for field in self.schema.of_group(group)))
        body = [
            {
                "group": group,
                "fields": [field.to_json() for field in self.schema.of_group(group)],
                "shards": [info.to_json() for info in self.series(group)],
            }
            for group in groups
        ]
        return hashlib.sha256(canonical_json({"format": schema.format, "series": body})).hexdigest()

    def _body(self) -> dict[str, Any]:
        return {
            "format": self.schema.format,
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
            ShardError: it is an object store, or a file.
        """
        path = directory / MANIFEST_NAME
        check_folder(directory)
        try:
            data = read_small(path)
        except FileNotFoundError:
            raise MissingDataError(
                f"{directory} has no {MANIFEST_NAME}: either its build has not finished (run the same "
                f"`reelshard build` again), or its tars were made elsewhere (run `reelshard index {directory}`)"
            ) from None
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path | str) -> Manifest:
        """Read the bytes of a manifest.

        Raises:
            ManifestError: they are damaged or of another format; `path` says where they are from.
        """
        try:
            record = mapping(parse_json(data), "a manifest")
            found = count(entry(record, "format", "a manifest"), "a manifest's format")
            if found not in FORMATS:
                known = " and ".join(map(str, FORMATS))
                raise ManifestError(f"{path}: format {found} is not known, this version reads {known}")
            manifest = cls._from_record(record)
            check_format(found, manifest.schema)
            digest = manifest.digest
        except UnknownCodecError as error:
            raise ManifestError(f"{path}: {error}") from None
        except ValueError as error:
            raise ManifestError(f"{path} is damaged: {error}") from None
        if digest != record.get("digest"):
            raise ManifestError(f"{path} was changed by hand or damaged: its digest does not match its contents")
        return manifest

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> Manifest:
        values = {name: entry(record, name, "a manifest") for name in cls.__annotations__}
        return cls(
            split=text(values["split"], "the split's name"),
            schema=Schema(tuple(Field.from_json(field) for field in sequence(values["schema"], "the schema"))),
            shards=_series(values["shards"]),
            groups={name: _series(series) for name, series in mapping(values["groups"], "the groups").items()},
            label_names=tuple(text(n, "a label's name") for n in sequence(values["label_names"], "the label names")),
            provenance=mapping(values["provenance"], "the provenance"),
            failures={
                reason: count(number, "a number of failures")
                for reason, number in mapping(values["failures"], "the failures").items()
            },
        )


def _series(value: object) -> tuple[ShardInfo, ...]:
    return tuple(ShardInfo.from_json(info) for info in sequence(value, "a series of shards"))


def check_folder(directory: Path) -> None:
    """Refuse what is no folder that data sets are read from, and say what it is.

    Raises:
        MissingDataError: there is nothing.
        ShardError: it is the URL of an object store, or a file.
    """
    if directory.is_dir():
        return
    if directory.exists():
        if directory.name.endswith(COMPRESSED_TARS):
            raise ShardError(
                f"{directory} is a compressed tar: samples are read in place, so unpack it to a plain .tar, and "
                "give its folder to `reelshard index`"
            )
        raise ShardError(f"{directory} is a file: a data set is a folder, give that")
    refuse_url(directory)
    raise MissingDataError(f"there is no data set at {directory}: the folder does not exist")


def refuse_url(path: Path) -> None:
    """Refuse `s3://BUCKET/SET` where a local path is needed; as a path it has become `s3:/BUCKET/SET`.

    Raises:
        ShardError: it is one.
    """
    if (url := _URL.fullmatch(str(path))) and not path.exists():
        raise ShardError(
            f"{url[1]}://{url[2]} is no local folder, which is needed here: `reelshard copy` copies a data set into one"
        )


def shard_name(split: str, number: int, count: int, group: str = "") -> str:
    """Name of a tar, such as `train-00003-of-00660.tar`: the convention by which the Hub finds a split."""
    series = f"{split}.{group}" if group else split
    return f"{series}-{number:05d}-of-{count:05d}.tar"
