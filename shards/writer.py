"""Write one shard: a page-aligned, byte-deterministic tar and its sidecar, published whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.codecs import Fidelity, codec_of
from shards.format.index import ShardIndex, ShardInfo, save_index
from shards.format.npy import PAGE_BYTES, encode_header
from shards.format.packed import pack_pieces
from shards.format.publish import publish_file, temporary_path
from shards.format.schema import Field, Schema, check_key
from shards.format.tar import END_OF_ARCHIVE, aligned_header, header, padding

MEASURED_EVERY = 8  # samples of a shard, the first among them: measuring takes as long as encoding
Value = NDArray[np.generic] | bytes | Sequence[bytes]


class ShardWriter:
    """Context manager that writes samples to `path` and publishes tar and sidecar on a clean exit.

    After an exception nothing is published and the temporary file is gone.

    Attributes:
        fidelity: field -> how near what its codec has stored comes to what it was given.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        """Open a temporary file beside `path` (a name that ends in .tar).

        Raises:
            ValueError: `path` does not end in .tar.
        """
        if path.suffix != ".tar":
            raise ValueError(f"a shard's name ends in .tar, got {path.name}")
        self.path = path
        self.schema = schema
        self._temporary = temporary_path(path)
        self._file = self._temporary.open("wb", buffering=1 << 20)
        self._digest = xxhash.xxh3_128()
        self._position = 0
        self._keys: dict[str, None] = {}
        self._rows: dict[str, list[tuple[int, ...]]] = {field.name: [] for field in schema}
        self._info: ShardInfo | None = None
        self.fidelity: dict[str, Fidelity] = {}

    @property
    def info(self) -> ShardInfo:
        """What the manifest needs to know; there after a clean exit."""
        if self._info is None:
            raise ValueError(f"shard {self.path.name} is not finished yet")
        return self._info

    def write(self, key: str, sample: Mapping[str, Value]) -> None:
        """Append one sample.

        Args:
            key: unique in the shard, without dots and slashes.
            sample: exactly the schema's fields; arrays with its dtype and shape (of rows any number, also none), which
                are encoded where the field has a codec, or as that has stored them (`ShardDataset.read_stored`); a
                sequence of bytes for packed pieces, bytes for ragged fields.

        Raises:
            ValueError: the key or a field does not fit; nothing of the sample is written then.
        """
        check_key(key)
        if key in self._keys:
            raise ValueError(f"key {key!r} is in shard {self.path.name} already")
        if set(sample) != set(self.schema.names):
            raise ValueError(f"key {key}: got fields {sorted(sample)}, the schema has {sorted(self.schema.names)}")
        payloads = {field.name: self._payload(key, field, sample[field.name]) for field in self.schema}
        for field in self.schema:
            header(f"{key}.{field.suffix}", len(payloads[field.name].data) + PAGE_BYTES)
        for field in self.schema:
            self._write_member(key, field, payloads[field.name])
        self._keys[key] = None

    def _payload(self, key: str, field: Field, value: Value) -> _Payload:
        """What is written of a value; of one in `MEASURED_EVERY` it is measured what a codec loses of it."""
        payload = _payload(key, field, value)
        is_encoded = field.codec is not None and isinstance(value, np.ndarray) and field.takes(value)
        if is_encoded and len(self._keys) % MEASURED_EVERY == 0:
            assert isinstance(value, np.ndarray)
            stored = np.frombuffer(payload.data, np.uint8).reshape(field.as_stored.fixed_shape)
            found = codec_of(field.codec or "").measure(value, field.decode(stored))
            known = self.fidelity.get(field.name)
            self.fidelity[field.name] = found if known is None else known + found
        return payload

    def _write_member(self, key: str, field: Field, payload: _Payload) -> None:
        name = f"{key}.{field.suffix}"
        size = len(payload.npy_header) + len(payload.data)
        front = aligned_header(name, size, self._position) if field.is_npy else header(name, size)
        offset = self._position + len(front) + len(payload.npy_header)
        for piece in (front, payload.npy_header, payload.data, bytes(padding(size))):
            self._append(piece)
        checksum = xxhash.xxh3_64_intdigest(payload.data)
        self._rows[field.name].append((offset, len(payload.data), checksum, *payload.num_pieces))

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._position += len(data)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        self._append(END_OF_ARCHIVE)
        self._file.flush()
        os.fsync(self._file.fileno())
        publish_file(self._temporary, self.path)
        info = ShardInfo(self.path.name, len(self._keys), self._position, self._digest.hexdigest())
        save_index(ShardIndex.build(info, self.schema, list(self._keys), self._rows), self.path)
        self._info = info

    def _discard(self) -> None:
        """Close and remove the temporary file, also where the disk is too full to flush what is buffered."""
        try:
            self._file.close()
        except OSError:
            if self._info is not None:
                raise
        finally:
            self._temporary.unlink(missing_ok=True)


class _Payload(NamedTuple):
    """What is written of a value: an array's npy header, the bytes, and the number of pieces where they are packed."""

    npy_header: bytes
    data: memoryview
    num_pieces: tuple[int, ...] = ()


def _payload(key: str, field: Field, value: Value) -> _Payload:
    if field.is_npy:
        return _array_payload(key, field, value)
    if field.is_packed:
        if isinstance(value, bytes | str) or not isinstance(value, Sequence):
            raise ValueError(f"key {key}: field {field.name} takes a list of bytes, got {type(value).__name__}")
        pieces = [piece for piece in value if isinstance(piece, bytes)]
        if len(pieces) < len(value):
            raise ValueError(f"key {key}: field {field.name} takes a list of bytes, got one of other things")
        return _Payload(b"", memoryview(pack_pieces(pieces)), (len(pieces),))
    if not isinstance(value, bytes):
        raise ValueError(f"key {key}: field {field.name} is ragged and takes bytes, got {type(value).__name__}")
    return _Payload(b"", memoryview(value))


def _array_payload(key: str, field: Field, value: Value) -> _Payload:
    if not isinstance(value, np.ndarray) or not (field.takes(value) or field.as_stored.takes(value)):
        got = f"{value.dtype.str} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"key {key}: field {field.name} takes an array {field.dtype} {field.shape}, got {got}")
    try:
        stored = field.encode(value) if field.takes(value) else value
    except ValueError as error:
        raise ValueError(f"key {key}, field {field.name}: {error}") from None
    flat = np.ascontiguousarray(stored).reshape(-1)
    return _Payload(encode_header(stored.dtype.str, stored.shape), flat.view(np.uint8).data)
