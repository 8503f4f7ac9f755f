"""Where payloads come from: one field of one open shard, read whole, in part, or through its mapping."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.read.readers import OpenShard
from shards.format.errors import DamagedShardError
from shards.format.extents import Extents


@dataclass(frozen=True, slots=True)
class StoredField:
    """One field of one shard: the open tar, and where each row's payload lies in it.

    `check` compares the payload with its checksum. All methods raise DamagedShardError where the file or the payload
    is not what it was when it was written.

    Attributes:
        shard: the tar.
        extents: where payloads lie in it.
        addresses: where each is mapped as long as this object lives; None if they must be read.
    """

    shard: OpenShard
    extents: Extents
    addresses: array[int] | None = None

    @classmethod
    def mapped(cls, shard: OpenShard, extents: Extents) -> StoredField:
        """With addresses, if all of the field is mapped."""
        ends = extents.offsets + extents.sizes
        if shard.mapped_at is None or (len(ends) and int(ends.max()) > shard.identity.size):
            return cls(shard, extents)
        return cls(shard, extents, array("Q", (extents.offsets + np.uint64(shard.mapped_at)).tobytes()))

    def size(self, row: int) -> int:
        """Bytes of a payload."""
        return int(self.extents.sizes[row])

    def view(self, row: int, check: bool) -> NDArray[np.uint8]:
        """A payload, u8 `[size]`, good until this thread asks for another."""
        payload = self.shard.view(int(self.extents.offsets[row]), self.size(row))
        return self._checked(payload, row) if check else payload

    def view_part(self, row: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes `start` to `stop` of a payload, good until this thread asks for others."""
        return self.shard.view(int(self.extents.offsets[row]) + start, stop - start)

    def read_into(self, row: int, out: NDArray[np.uint8], check: bool) -> None:
        """Fill `out`, u8 `[size]`, with a payload."""
        self.shard.read_into(int(self.extents.offsets[row]), out)
        if check:
            self._checked(out, row)

    def read_part(self, row: int, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out`, u8 contiguous, with a payload's bytes from `start` on."""
        self.shard.read_into(int(self.extents.offsets[row]) + start, out)

    def _checked(self, payload: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        if xxhash.xxh3_64_intdigest(payload.data) != int(self.extents.checksums[row]):
            problem = "the payload's checksum is wrong: its bytes were changed"
            raise DamagedShardError(problem, shard=self.shard.path.name)
        return payload
