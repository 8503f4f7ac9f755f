"""The general path: tars without a sidecar, or behind a pipe, streamed by the `webdataset` package itself.

Slow, sequential, unshuffled and without resume; every fast path is tested equal to it. Stock WebDataset ends silently
at a damaged tar header, so for files on disk `reelshard index` and `ShardLoader` are the better choice.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import braceexpand
import numpy as np
import torch
import webdataset
from numpy.typing import NDArray

from pipeline.batch.batch import Batch
from pipeline.batch.collate import decode_bytes, decode_pieces, join, pad, stack
from pipeline.batch.planner import STREAM
from pipeline.order.bits import derive_key, mix
from pipeline.read.decoders import Decoder
from pipeline.read.labels import label_of
from pipeline.stats import LoaderStats
from pipeline.world import World
from shards.format.errors import ShardError, UnsafeMemberError
from shards.format.npy import decode_array
from shards.format.packed import unpack_pieces
from shards.format.parse import PICKLE_SUFFIXES
from shards.format.schema import Field, Schema

_INSTEAD = "index the tars with `reelshard index` and read them with ShardLoader"
_NOT_KNOWN = f"how many batches a stream has is not known before its end: {_INSTEAD}"
_NO_RESUME = f"a stream is read from its beginning and cannot resume: {_INSTEAD}"

_Value = NDArray[np.generic] | bytes | list[memoryview]


class StreamLoader:
    """Yields batches of whole samples from tar URLs, in the order of the stream, with the field names of `ShardLoader`.

    Array members `KEY.clip.npy` become `clip [B, ...]`, other members ragged bytes with offsets. Rows and packed pieces
    look like these in a tar; where a `schema` names them, rows are padded, and pieces with a decoder decoded, as
    `ShardLoader` does it. `label` comes from the JSON member. `index` counts samples of this rank's stream. The last
    batch may be smaller.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        batch_size: int,
        *,
        fields: Sequence[str] = ("clip", "target"),
        schema: Schema | None = None,
        decoders: Mapping[str, Decoder] | None = None,
        allow_pipe: bool = False,
        world: World | None = None,
    ) -> None:
        """Prepare; nothing is opened before the first batch is asked for.

        Args:
            urls: paths or URLs, with brace notation where it is one string.
            batch_size: samples in a batch of this rank.
            fields: members to keep.
            schema: what the fields are, where some of them are rows or packed pieces; all arrays are compared with it.
            decoders: packed or bytes field -> what turns its pieces into arrays. Packed pieces have to be in `schema`.
            allow_pipe: whether `pipe:` URLs, which run a shell command, are wanted.
            world: shards are dealt to the ranks in turn, so ranks may get different numbers of batches.

        Raises:
            ValueError: a `pipe:` URL without `allow_pipe`, no URL for this rank, a field that is not in the schema, or
                a decoder of no field of bytes or pieces.
        """
        world = world or World()
        expanded = list(braceexpand.braceexpand(urls)) if isinstance(urls, str) else list(urls)
        pipes = [url for url in expanded if url.startswith("pipe:")]
        if pipes and not allow_pipe:
            raise ValueError(f"{pipes[0]!r} would run a shell command; pass allow_pipe=True if that is what you want")
        self._urls = expanded[world.rank :: world.size]
        if not self._urls:
            raise ValueError(f"{len(expanded)} shards cannot be dealt to {world.size} ranks: each needs one at least")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._batch_size = batch_size
        self._fields = {name: _described(name, schema) for name in fields}
        self._decoders = dict(decoders or {})
        for name in self._decoders:
            field = self._fields.get(name)
            if name not in self._fields or name == "label" or (field is not None and field.is_npy):
                raise ValueError(f"decoders: {name} must be among the fields, and packed pieces or bytes")
        self.epoch = 0
        self._passes: list[Generator[Batch, None, None]] = []
        self._counts = {"num_batches": 0, "num_samples": 0, "num_bytes": 0}

    def __iter__(self) -> Iterator[Batch]:
        """One pass over the stream. A new one ends an older one that was left unfinished.

        Raises:
            ShardError: a sample lacks a field, does not decode, or is not as the schema says; or arrays of one field
                differ in shape.
            UnsafeMemberError: a member is a pickle, or an array of objects.
        """
        self.close()
        batches = self._batches()
        self._passes.append(batches)
        for batch in batches:
            self._counts["num_batches"] += 1
            self._counts["num_samples"] += len(batch["valid"])
            yield batch
        self.epoch += 1

    def __len__(self) -> int:
        """Not known, which `list` and others take from a TypeError."""
        raise TypeError(_NOT_KNOWN)

    def num_batches(self, epoch: int) -> NoReturn:
        """Not known: ValueError."""
        raise ValueError(_NOT_KNOWN)

    def ready(self) -> bool:
        """Never: a stream is read when a batch is asked for."""
        return False

    def state_dict(self) -> NoReturn:
        """There is no resume: ValueError."""
        raise ValueError(_NO_RESUME)

    def load_state_dict(self, state: Mapping[str, Any]) -> NoReturn:
        """There is no resume: ValueError."""
        raise ValueError(_NO_RESUME)

    def stats(self) -> LoaderStats:
        """How much was read so far; where the time went is not known."""
        return LoaderStats(reader="webdataset", **self._counts)

    def close(self) -> None:
        """End a pass; the next one begins anew."""
        while self._passes:
            self._passes.pop().close()

    def _batches(self) -> Generator[Batch, None, None]:
        keys: list[str] = []
        samples: list[dict[str, _Value]] = []
        number = 0
        for raw in webdataset.WebDataset(self._urls, shardshuffle=False, empty_check=False):
            keys.append(str(raw["__key__"]))
            samples.append(self._read(raw))
            if len(samples) == self._batch_size:
                yield self._collate(keys, samples, number)
                number += 1
                keys, samples = [], []
        if samples:
            yield self._collate(keys, samples, number)

    def _read(self, raw: Mapping[str, bytes | str]) -> dict[str, _Value]:
        key = str(raw["__key__"])
        for name in raw:
            if name.rpartition(".")[2] in PICKLE_SUFFIXES:
                raise UnsafeMemberError(f"sample {key}: member {name!r} is a pickle, which can run code when read")
        sample: dict[str, _Value] = {}
        for name, field in self._fields.items():
            member = "json" if name == "label" else name
            data = raw.get(f"{member}.npy", raw.get(member))
            if not isinstance(data, bytes):
                raise ShardError(f"sample {key} has no member {member!r}; it has {sorted(raw)}")
            try:
                sample[name] = self._value(name, field, data, is_npy=f"{member}.npy" in raw or member == "npy")
            except ValueError as error:
                unsafe = UnsafeMemberError if "pickle" in str(error) else ShardError
                raise unsafe(f"sample {key}, member {member!r}: {error}") from None
            self._counts["num_bytes"] += 0 if name == "label" else len(data)
        return sample

    def _value(self, name: str, field: Field | None, data: bytes, is_npy: bool) -> _Value:
        if name == "label":
            try:
                return np.array(label_of(data), np.int64)
            except ValueError as error:
                raise ValueError(f"it has no readable label: {error}") from None
        if field is not None and field.is_npy != is_npy:
            raise ValueError(f"it is {'an array' if is_npy else 'bytes'}, the schema says {field.spell_kind()}")
        if is_npy:
            array = decode_array(data)
            if field is None:
                return array
            stored = field.as_stored
            if not stored.takes(array):
                raise ValueError(
                    f"it is {array.dtype.str} {array.shape}, the schema says {stored.dtype} {stored.shape}"
                )
            return field.decode(array)
        if field is not None and field.is_packed:
            pieces = unpack_pieces(data)
            return pieces if name in self._decoders else data
        return data

    def _collate(self, keys: Sequence[str], samples: Sequence[Mapping[str, _Value]], number: int) -> Batch:
        index = np.arange(len(samples)) + number * self._batch_size
        random = mix(index.astype(np.uint64) ^ derive_key(0, self.epoch, STREAM)).tolist()
        tensors = {"index": torch.from_numpy(index), "valid": torch.ones(len(samples), dtype=torch.bool)}
        for name, field in self._fields.items():
            values: list[Any] = [sample[name] for sample in samples]
            try:
                tensors |= self._tensors(name, field, values, random)
            except ValueError as error:
                raise ShardError(f"field {name}, samples {keys[0]} to {keys[-1]}: {error}") from None
        return Batch(tensors, epoch=self.epoch, number=number)

    def _tensors(
        self, name: str, field: Field | None, values: list[Any], random: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        decoder = self._decoders.get(name)
        if decoder is not None:
            is_packed = field is not None and field.is_packed
            return decode_pieces(name, values, decoder, random) if is_packed else decode_bytes(values, decoder, random)
        if field is not None and field.is_rows:
            return pad(name, values)
        return stack(name, values) if all(isinstance(value, np.ndarray) for value in values) else join(name, values)


def _described(name: str, schema: Schema | None) -> Field | None:
    return None if schema is None else schema["json" if name == "label" else name]
