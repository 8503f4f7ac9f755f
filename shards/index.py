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

from shards.errors import DamagedShardError, MissingDataError
from shards.publish import publish_bytes
from shards.schema import Field, Schema

FORMAT = 1
LITTLE_U64 = np.dtype("<u8")


@dataclass(frozen=True)
class ShardInfo:
    """One line of the manifest: a shard's file name, samples, bytes and digest (xxh3-128, hex) of the tar."""

    name: str
    num_samples: int
    num_bytes: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The line as it stands in the manifest."""
        return {"name": self.name, "samples": self.num_samples, "bytes": self.num_bytes, "digest": self.digest}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ShardInfo:
        """The inverse of `to_json`."""
        return cls(str(record["name"]), int(record["samples"]), int(record["bytes"]), str(record["digest"]))


@dataclass(frozen=True)
class Extents:
    """Where one field lies in the tar, per sample: u64 arrays `[num_samples]`.

    Attributes:
        offsets: first byte of the payload (after the npy header of an array).
        sizes: bytes of the payload.
        checksums: xxh3-64 of the payload.
    """

    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    checksums: NDArray[np.uint64]


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

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Row of each key."""
        return {key: row for row, key in enumerate(self.keys)}

    @classmethod
    def build(
        cls, info: ShardInfo, schema: Schema, keys: Sequence[str], rows: Mapping[str, Sequence[Any]]
    ) -> ShardIndex:
        """Make an index from lists of (offset, size, checksum) per field."""
        extents = {}
        for field in schema:
            table = np.array(rows[field.name], LITTLE_U64).reshape(len(keys), 3)
            extents[field.name] = Extents(*(np.ascontiguousarray(column) for column in table.T))
        return cls(info, schema, "\n".join(keys).encode(), extents)

    def encode(self) -> bytes:
        """The sidecar's bytes."""
        body = {
            "shard": self.info.to_json(),
            "keys": self._joined_keys,
            "fields": [
                field.to_json()
                | {
                    "offsets": self.extents[field.name].offsets.tobytes(),
                    "sizes": self.extents[field.name].sizes.tobytes(),
                    "checksums": self.extents[field.name].checksums.tobytes(),
                }
                for field in self.schema
            ],
        }
        packed = msgpack.packb(body)
        return bytes(msgpack.packb({"format": FORMAT, "digest": xxhash.xxh3_128_hexdigest(packed), "body": packed}))

    @classmethod
    def decode(cls, data: bytes, name: str) -> ShardIndex:
        """The inverse of `encode`.

        Raises:
            DamagedShardError: the bytes are not a sidecar, or not of this format, or not what was written.
        """
        try:
            outer = msgpack.unpackb(data)
            if outer["format"] != FORMAT:
                raise DamagedShardError(
                    f"format {outer['format']} is not known, this version reads {FORMAT}", shard=name
                )
            if xxhash.xxh3_128_hexdigest(outer["body"]) != outer["digest"]:
                raise DamagedShardError(
                    "the sidecar's checksum is wrong; make it again with `reelshard index`", shard=name
                )
            body = msgpack.unpackb(outer["body"])
            return cls._from_body(body)
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
            raise DamagedShardError(
                f"not a readable sidecar ({error}); make it again with `reelshard index`", shard=name
            ) from None

    @classmethod
    def _from_body(cls, body: Mapping[str, Any]) -> ShardIndex:
        info = ShardInfo.from_json(body["shard"])
        fields, extents = [], {}
        for record in body["fields"]:
            arrays = {column: np.frombuffer(record.pop(column), LITTLE_U64) for column in Extents.__annotations__}
            field = Field.from_json(record)
            if any(len(array) != info.num_samples for array in arrays.values()):
                raise ValueError(f"field {field.name} does not have {info.num_samples} entries")
            if field.is_array and (arrays["sizes"] != field.num_bytes).any():  # readers copy by the schema's size
                raise ValueError(f"field {field.name} has payloads that are not of its {field.num_bytes} bytes")
            fields.append(field)
            extents[field.name] = Extents(**arrays)
        return cls(info, Schema(tuple(fields)), body["keys"], extents)


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
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingDataError(f"sidecar {path} is missing; make it with `reelshard index {path.parent}`") from None
    return ShardIndex.decode(data, path.name)
