"""Open a data set and read any sample of it, checked. The loaders in `pipeline/` use the same indices at full speed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.cache.folder import Cache
from shards.cache.mirror import Mirror
from shards.describe import describe_fields
from shards.format.errors import ShardError
from shards.format.extents import Extents
from shards.format.index import ShardIndex
from shards.format.manifest import Manifest
from shards.format.parse import mapping, parse_json
from shards.format.schema import Schema
from shards.payload import Payload, StoredValue, as_bytes
from shards.sidecars import Sidecars
from shards.store import open_store, url_of


class ShardDataset:
    """Random access to the samples of one split. Opening reads the manifest only; sidecars are read when needed.

    `dataset[number]` and `dataset[key]` give a dict of arrays (in the layout they have on disk), lists of pieces and
    bytes.
    Safe to use from several threads without any lock, which a fork could leave locked in the child.

    Attributes:
        directory: the folder; of a data set elsewhere, its folder in the cache.
        manifest: what the data set is.
        mirror: fetches what is asked for, of a data set elsewhere; None of a local one.
    """

    def __init__(self, directory: Path, manifest: Manifest, mirror: Mirror | None = None) -> None:
        """Take an open manifest; most callers want `ShardDataset.open`."""
        self.directory = directory
        self.manifest = manifest
        self.mirror = mirror
        counts = [info.num_samples for info in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._sidecars = Sidecars(directory, manifest, mirror)
        self._numbers: dict[str, int] | None = None

    @classmethod
    def open(cls, directory: str | os.PathLike[str], cache: Cache | None = None) -> ShardDataset:
        """Open the data set in `directory`, or at a URL such as `s3://BUCKET/SET`.

        What is read of a data set elsewhere is kept in `cache`; None is that of the environment, see `Cache`.

        Raises:
            MissingDataError: there is none.
            ManifestError: its manifest is damaged.
            ShardError: it cannot be reached.
        """
        if url_of(directory) is not None:
            mirror = Mirror(open_store(directory), cache or Cache())
            return cls(mirror.directory, mirror.manifest, mirror)
        path = Path(directory)
        return cls(path, Manifest.read(path))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def place(self) -> str:
        """Where it is, for people: the path, or the URL."""
        return str(self.directory) if self.mirror is None else self.mirror.store.url

    def __repr__(self) -> str:
        return f"<{self.place}: split {self.manifest.split}, {len(self):,} samples in {self.num_shards:,} shards>"

    def __str__(self) -> str:
        """The same and one line a field, for `print`; reads the sidecars."""
        return "\n".join([repr(self)[1:-1], *describe_fields(self)])

    def refuse_elsewhere(self) -> None:
        """Refuse what would change a data set in a store elsewhere.

        Raises:
            ShardError: it is one.
        """
        if self.mirror is not None:
            raise ShardError(
                f"{self.place} is in a store elsewhere, where data sets are read and not changed: `reelshard copy` it "
                "to a local folder, change that, and copy it back"
            )

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
        return self._sidecars.index(shard, group)

    @property
    def num_open_sidecars(self) -> int:
        """Sidecars read so far."""
        return self._sidecars.num_open

    def tar_path(self, shard: int, group: str = "") -> Path:
        """Path of a shard's tar; of a data set elsewhere, of what the cache has of it."""
        return self.directory / self.manifest.series(group)[shard].name

    @contextlib.contextmanager
    def whole_tar(self, shard: int, group: str = "") -> Iterator[Path]:
        """Path of a tar that is all there, while the block runs: fetched for it from a store elsewhere."""
        if self.mirror is None:
            yield self.tar_path(shard, group)
        else:
            with self.mirror.whole_tar(self.manifest.series(group)[shard]) as path:
                yield path

    def extents(self, shard: int, field: str) -> Extents:
        """Offsets, sizes and checksums of one field in one shard."""
        return self.index(shard, self.schema[field].group).extents[field]

    def lengths(self, field: str) -> NDArray[np.int64]:
        """Rows or pieces of every sample, i64 `[num_samples]`, read-only; from the sidecars alone, read once.

        Raises:
            ValueError: there is no such field, or it has no lengths.
            ShardError: a sidecar is missing or damaged.
        """
        description = self.schema[field]
        if not description.has_lengths:
            raise ValueError(f"field {field} is {description.spell_kind()}: only rows and packed pieces have lengths")
        return self._sidecars.column("lengths", description, lambda index: index.lengths(field))

    def sizes(self, field: str) -> NDArray[np.int64]:
        """Bytes of every sample's payload, i64 `[num_samples]`, read-only; from the sidecars alone, read once.

        Raises:
            ValueError: there is no such field.
            ShardError: a sidecar is missing or damaged.
        """
        return self._sidecars.column(
            "sizes", self.schema[field], lambda index: index.extents[field].sizes.astype(np.int64)
        )

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
            raise KeyError(f"no sample {key!r} in {self.place}; keys look like {self.key(0)!r}")
        return self._numbers[key]

    def __getitem__(self, which: int | str) -> dict[str, StoredValue]:
        """All fields of one sample, every payload compared with its checksum.

        Raises:
            DamagedShardError: bytes differ from what was written.
        """
        number = self.index_of(which) if isinstance(which, str) else which
        return {field.name: self.read(number, field.name) for field in self.schema}

    def read(self, number: int, field: str) -> StoredValue:
        """One field of one sample, compared with its checksum.

        Returns:
            An array (read-only, layout as on disk, decoded where the field has a codec; of rows `[n, *row_shape]`), the
            list of packed pieces, or bytes.

        Raises:
            DamagedShardError: bytes differ from what was written, or the file is cut off.
            MissingDataError: the shard is not there.
        """
        with self._arrived(number, field):
            return self._payload(number, field).read()

    def read_stored(self, number: int, field: str) -> StoredValue:
        """The same as its codec has stored it, for a copy that loses nothing: `ShardWriter.write` takes that, too."""
        with self._arrived(number, field):
            return self._payload(number, field).read_stored()

    def read_run(self, number: int, field: str, start: int, stop: int) -> StoredValue:
        """Rows or pieces `start` to `stop` of one sample; no others are read.

        The checksum is that of the whole payload and is not compared. A table of pieces is checked whole.

        Returns:
            Rows as an array `[stop - start, *row_shape]`, read-only; pieces as a list of bytes.

        Raises:
            ValueError: the field is neither rows nor packed.
            IndexError: the sample has no such rows or pieces.
            DamagedShardError: the table does not describe the pieces, or the file is cut off.
            MissingDataError: the shard is not there.
        """
        with self._arrived(number, field):
            return self._payload(number, field).read_run(start, stop)

    @contextlib.contextmanager
    def _arrived(self, number: int, field: str) -> Iterator[None]:
        """See to it that a payload is in the cache, and stays while the block runs."""
        if self.mirror is None:
            yield
            return
        shard, row = self._place(number)
        tar = self.mirror.tar(self.index(shard, self.schema[field].group))
        with tar.hold():
            for error in self.mirror.fetch(tar, np.array([row]), [field], whole=False).values():
                raise error
            yield

    def _payload(self, number: int, field: str) -> Payload:
        shard, row = self._place(number)
        description = self.schema[field]
        tar = self.tar_path(shard, description.group)
        return Payload.of(tar, description, self.extents(shard, field), row, self.index(shard).keys[row])

    def metadata(self, number: int) -> dict[str, Any]:
        """The sample's JSON member, parsed.

        Raises:
            ValueError: the data set has no `json` field.
            ShardError: it is not an object in JSON.
        """
        try:
            return mapping(parse_json(as_bytes(self.read(number, "json"))), "it")
        except ValueError as error:
            raise ShardError(f"sample {self.key(number)}: its JSON cannot be read: {error}") from None

    def _place(self, number: int) -> tuple[int, int]:
        shards, rows = self.locate(np.array([number + len(self) if number < 0 else number], np.int64))
        return int(shards[0]), int(rows[0])
