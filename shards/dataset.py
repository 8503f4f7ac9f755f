"""Open a data set and read any sample of it, checked. The loaders in `pipeline/` use the same indices at full speed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.format.errors import DamagedShardError, ManifestError, MissingDataError, ShardError
from shards.format.files import open_regular
from shards.format.index import Extents, ShardIndex, index_path, load_index
from shards.format.manifest import Manifest
from shards.format.parse import mapping, parse_json
from shards.format.schema import Field, Schema


class ShardDataset:
    """Random access to the samples of one split. Opening reads the manifest only; sidecars are read when needed.

    `dataset[number]` and `dataset[key]` give a dict of arrays (in the layout they have on disk) and bytes.
    Safe to use from several threads without any lock, which a fork could leave locked in the child.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Take an open manifest; most callers want `ShardDataset.open`."""
        self.directory = directory
        self.manifest = manifest
        counts = [info.num_samples for info in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._indices: dict[tuple[int, str], ShardIndex] = {}
        self._numbers: dict[str, int] | None = None

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> ShardDataset:
        """Open the data set in `directory`.

        Raises:
            MissingDataError: there is none.
            ManifestError: its manifest is damaged.
        """
        path = Path(directory)
        return cls(path, Manifest.read(path))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def schema(self) -> Schema:
        """The fields of every sample."""
        return self.manifest.schema

    @property
    def digest(self) -> str:
        """The digest that names the data set."""
        return self.manifest.digest

    def digest_of(self, fields: Iterable[str]) -> str:
        """The digest of the tar series that hold these fields; stays the same where a field group is added."""
        return self.manifest.digest_of(fields)

    @property
    def num_shards(self) -> int:
        """Shards of the main series."""
        return len(self.manifest.shards)

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row of samples, both i64 like `numbers`.

        Raises:
            IndexError: a number is outside of the data set.
        """
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= len(self)):
            raise IndexError(f"sample numbers go from 0 to {len(self) - 1}, got {numbers.min()} to {numbers.max()}")
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        return shards, numbers - self._starts[shards]

    def index(self, shard: int, group: str = "") -> ShardIndex:
        """The sidecar of a shard, read on first use and compared with the manifest.

        Raises:
            MissingDataError: it is not there.
            DamagedShardError: it is not readable, or belongs to another shard.
        """
        index = self._indices.get((shard, group))
        if index is None:
            path = self.tar_path(shard, group)
            index = load_index(index_path(path))
            expected = self.manifest.series(group)[shard]
            if index.info != expected:
                raise DamagedShardError(
                    f"the sidecar describes {index.info.name} ({index.info.num_samples} samples, digest "
                    f"{index.info.digest}), the manifest expects {expected.name} ({expected.num_samples} samples, "
                    f"digest {expected.digest}); restore it, or make it again with `reelshard index`",
                    shard=index_path(path).name,
                )
            if list(index.schema) != list(self.schema.of_group(group)):
                differing = ", ".join(sorted({f.name for f in {*index.schema} ^ {*self.schema.of_group(group)}}))
                raise ManifestError(
                    f"shard {path.name}: its sidecar and the manifest differ in {differing or 'the order of fields'}"
                )
            if group and not index.has_keys_of(self.index(shard)):
                raise DamagedShardError(
                    f"its keys are not those of {self.tar_path(shard).name}, or in another order", shard=path.name
                )
            self._indices[(shard, group)] = index
        return index

    @property
    def num_open_sidecars(self) -> int:
        """Sidecars read so far."""
        return len(self._indices)

    def tar_path(self, shard: int, group: str = "") -> Path:
        """Path of a shard's tar."""
        return self.directory / self.manifest.series(group)[shard].name

    def extents(self, shard: int, field: str) -> Extents:
        """Offsets, sizes and checksums of one field in one shard."""
        return self.index(shard, self.schema[field].group).extents[field]

    def key(self, number: int) -> str:
        """Key of a sample."""
        shard, row = self._place(number)
        return self.index(shard).keys[row]

    def index_of(self, key: str) -> int:
        """Number of the sample with this key; reads all sidecars once.

        Raises:
            KeyError: there is none.
        """
        if self._numbers is None:
            keys = (key for shard in range(self.num_shards) for key in self.index(shard).keys)
            self._numbers = {key: number for number, key in enumerate(keys)}
        if key not in self._numbers:
            raise KeyError(f"no sample {key!r} in {self.directory}; keys look like {self.key(0)!r}")
        return self._numbers[key]

    def __getitem__(self, which: int | str) -> dict[str, NDArray[Any] | bytes]:
        """All fields of one sample, every payload compared with its checksum.

        Raises:
            DamagedShardError: bytes differ from what was written.
        """
        number = self.index_of(which) if isinstance(which, str) else which
        return {field.name: self.read(number, field.name) for field in self.schema}

    def read(self, number: int, field: str) -> NDArray[Any] | bytes:
        """One field of one sample: an array (read-only, layout as on disk), or bytes.

        Raises:
            DamagedShardError: bytes differ from what was written, or the file is cut off.
            MissingDataError: the shard is not there.
        """
        shard, row = self._place(number)
        description = self.schema[field]
        extents = self.extents(shard, field)
        offset, size = int(extents.offsets[row]), int(extents.sizes[row])
        data = _read_at(self.tar_path(shard, description.group), offset, size)
        problem = None
        if len(data) < size:
            problem = f"the file ends after {len(data)} of {size} payload bytes; it was cut off"
        elif xxhash.xxh3_64_intdigest(data) != int(extents.checksums[row]):
            problem = "the payload's checksum is wrong: its bytes were changed"
        if problem:
            shard_name = self.tar_path(shard, description.group).name
            raise DamagedShardError(problem, shard=shard_name, key=self.key(number), field=field, offset=offset)
        return as_array(data, description)

    def metadata(self, number: int) -> dict[str, Any]:
        """The sample's JSON member, parsed.

        Raises:
            ValueError: the data set has no `json` field.
            ShardError: it is not an object in JSON.
        """
        data = self.read(number, "json")
        try:
            return mapping(parse_json(bytes(data)), "it")
        except ValueError as error:
            raise ShardError(f"sample {self.key(number)}: its JSON cannot be read: {error}") from None

    def _place(self, number: int) -> tuple[int, int]:
        shards, rows = self.locate(np.array([number + len(self) if number < 0 else number], np.int64))
        return int(shards[0]), int(rows[0])


def as_array(data: bytes, field: Field) -> NDArray[Any] | bytes:
    """A payload as the field's array, without a copy; ragged bytes as they are."""
    if field.dtype is None or field.shape is None:
        return data
    return np.frombuffer(data, field.dtype).reshape(field.shape)


def _read_at(path: Path, offset: int, size: int) -> bytes:
    try:
        with open_regular(path) as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        raise MissingDataError(f"shard {path} is missing; restore it, or build it again") from None
