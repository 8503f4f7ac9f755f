"""The `.idx` sidecar: what makes a plain tar addressable and trustworthy. See docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.format.errors import DamagedShardError, MissingDataError
from shards.format.extents import Extents, split_record
from shards.format.files import read_small
from shards.format.parse import binary, check_name, check_plain, count, entry, hex_digest, mapping, sequence, text
from shards.format.publish import publish_bytes
from shards.format.schema import FORMATS, Schema, check_format

TAR_SUFFIX = ".tar"
MIN_SAMPLE_BYTES = 512  # a tar header
MAX_SHARD_BYTES = 1 << 50


@dataclass(frozen=True)
class ShardInfo:
    """One line of the manifest: a shard's file name, samples, bytes and digest (xxh3-128, hex) of the tar."""

    name: str
    num_samples: int
    num_bytes: int
    digest: str

    def __post_init__(self) -> None:
        if not check_name(self.name, "a shard's name").endswith(TAR_SUFFIX):
            raise ValueError(f"a shard's name ends in {TAR_SUFFIX}, got {self.name}")
        if self.num_samples * MIN_SAMPLE_BYTES > self.num_bytes:
            raise ValueError(f"shard {self.name}: {self.num_bytes} bytes cannot hold {self.num_samples} samples")

    def to_json(self) -> dict[str, Any]:
        """The line as it stands in the manifest."""
        return {"name": self.name, "samples": self.num_samples, "bytes": self.num_bytes, "digest": self.digest}

    @classmethod
    def from_json(cls, record: object) -> ShardInfo:
        """The inverse of `to_json`.

        Raises:
            ValueError: a value is missing or not allowed.
        """
        values = mapping(record, "a shard")
        name, samples, size, digest = (entry(values, key, "a shard") for key in ("name", "samples", "bytes", "digest"))
        return cls(
            text(name, "a shard's name"),
            count(samples, "a shard's samples"),
            count(size, "a shard's bytes", MAX_SHARD_BYTES),
            hex_digest(digest, "a shard's digest", 32),
        )


class ShardIndex:
    """The contents of one sidecar."""

    def __init__(self, info: ShardInfo, schema: Schema, keys: bytes, extents: Mapping[str, Extents]) -> None:
        """Take the parts; `keys` are joined by newlines, since a million Python strings are not free."""
        self.info = info
        self.schema = schema
        self._joined_keys = keys
        self._keys: list[str] | None = None
        self.extents = dict(extents)

    def __len__(self) -> int:
        return self.info.num_samples

    @property
    def keys(self) -> Sequence[str]:
        """The samples' keys in file order."""
        if self._keys is None:  # no cached_property: in Python 3.11 it holds a lock, which a fork could leave locked
            self._keys = self._joined_keys.decode().split("\n") if self.info.num_samples else []
        return self._keys

    def rows_with(self, part: str) -> list[int]:
        """Rows whose keys contain `part`; no strings are kept."""
        if part.encode() not in self._joined_keys:  # as in most shards of a large set
            return []
        return [row for row, key in enumerate(self._joined_keys.decode().split("\n")) if part in key]

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Row of each key."""
        return {key: row for row, key in enumerate(self.keys)}

    @property
    def group(self) -> str:
        """The tar series that the shard belongs to."""
        return self.schema.groups[0]

    def has_keys_of(self, other: ShardIndex) -> bool:
        """Whether the samples are those of `other`, in the same order."""
        return self._joined_keys == other._joined_keys and len(self) == len(other)

    @classmethod
    def build(
        cls, info: ShardInfo, schema: Schema, keys: Sequence[str], rows: Mapping[str, Sequence[Any]]
    ) -> ShardIndex:
        """Make an index from lists of (offset, size, checksum) per field; of a packed field also the pieces."""
        extents = {field.name: Extents.build(field, rows[field.name]) for field in schema}
        return cls(info, schema, "\n".join(keys).encode(), extents)

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Rows or pieces of each sample in a rows or packed field, i64 `[num_samples]`."""
        return self.extents[name].lengths(self.schema[name])

    def encode(self) -> bytes:
        """The sidecar's bytes."""
        body = {
            "shard": self.info.to_json(),
            "keys": self._joined_keys,
            "fields": [self.extents[field.name].to_record(field) for field in self.schema],
        }
        packed = msgpack.packb(body)
        digest = xxhash.xxh3_128_hexdigest(packed)
        return bytes(msgpack.packb({"format": self.schema.format, "digest": digest, "body": packed}))

    @classmethod
    def decode(cls, data: bytes, name: str) -> ShardIndex:
        """The inverse of `encode`.

        Raises:
            DamagedShardError: the bytes are not a sidecar, or not of this format, or not what was written.
        """
        try:
            outer = mapping(msgpack.unpackb(data), "a sidecar")
            found = count(entry(outer, "format", "a sidecar"), "a sidecar's format")
            packed = binary(entry(outer, "body", "a sidecar"), "a sidecar's body")
            if found not in FORMATS:
                known = " and ".join(map(str, FORMATS))
                raise DamagedShardError(f"format {found} is not known, this version reads {known}", shard=name)
            if xxhash.xxh3_128_hexdigest(packed) != entry(outer, "digest", "a sidecar"):
                raise DamagedShardError(
                    "the sidecar's checksum is wrong; make it again with `reelshard index`", shard=name
                )
            body = msgpack.unpackb(packed)
            check_plain(body)
            index = cls._from_body(mapping(body, "a sidecar's body"))
            check_format(found, index.schema)
            return index
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            reason = str(error) or type(error).__name__
            raise DamagedShardError(
                f"not a readable sidecar ({reason}); make it again with `reelshard index`", shard=name
            ) from None

    @classmethod
    def _from_body(cls, body: dict[str, Any]) -> ShardIndex:
        info = ShardInfo.from_json(entry(body, "shard", "a sidecar"))
        keys = binary(entry(body, "keys", "a sidecar"), "a sidecar's keys")
        _check_keys(keys, info.num_samples)
        fields, extents = [], {}
        for record in sequence(entry(body, "fields", "a sidecar"), "a sidecar's fields"):
            field, columns = split_record(mapping(record, "a field"))
            fields.append(field)
            extents[field.name] = columns
            columns.check(field, info.num_samples, info.num_bytes)
        schema = Schema(tuple(fields))
        if len(schema.groups) > 1:
            raise ValueError("its fields are of several groups, a shard holds one")
        return cls(info, schema, keys, extents)


def _check_keys(joined: bytes, num_samples: int) -> None:
    """Refuse keys that `check_key` refuses, all at once: a million of them are looked at before any is used."""
    keys = joined.decode("utf-8")
    if keys.count("\n") + bool(keys) != num_samples or keys[:1] == "\n" or keys[-1:] == "\n" or "\n\n" in keys:
        raise ValueError(f"it does not have {num_samples} keys")
    if not keys.replace("\n", "").isprintable() or any(character in keys for character in "./\\"):
        raise ValueError("a key holds a dot, a slash or a control character")


def index_path(tar: Path) -> Path:
    """The sidecar of a tar."""
    return tar.with_suffix(".idx")


def save_index(index: ShardIndex, tar: Path) -> None:
    """Publish the sidecar of `tar`; its presence marks the shard as done."""
    publish_bytes(index_path(tar), index.encode())


def load_index(path: Path) -> ShardIndex:
    """Read a sidecar.

    Raises:
        MissingDataError: there is none.
        DamagedShardError: it is not readable.
        ShardError: it is no file.
    """
    try:
        data = read_small(path)
    except FileNotFoundError:
        raise MissingDataError(f"sidecar {path} is missing; make it with `reelshard index {path.parent}`") from None
    return ShardIndex.decode(data, path.name)
