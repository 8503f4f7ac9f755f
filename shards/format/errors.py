"""What can be wrong with data on disk. The text of each is one clear line."""

from __future__ import annotations


class ShardError(Exception):
    """A data set, a shard or a sample is not what it should be."""


class MissingDataError(ShardError):
    """A file or folder that should be there is not."""


class ManifestError(ShardError):
    """`dataset.json` is absent, damaged, of another format, or disagrees with the shards."""


class UnsafeMemberError(ShardError):
    """A tar member that no data set needs: a link, a device, a path that leaves the folder, a pickle."""


class DamagedShardError(ShardError):
    """Bytes of a shard or of its sidecar differ from what was written.

    Attributes:
        shard: file name of the shard.
        key: the sample's key, or None where the damage is outside of samples.
        field: the field's name, or None where the damage is outside of payloads.
        offset: byte offset in the tar file, or None where it is not known.
    """

    def __init__(
        self, problem: str, *, shard: str, key: str | None = None, field: str | None = None, offset: int | None = None
    ) -> None:
        self.problem, self.shard, self.key, self.field, self.offset = problem, shard, key, field, offset
        place = [f"shard {shard}"]
        if key is not None:
            place.append(f"key {key}")
        if field is not None:
            place.append(f"field {field}")
        if offset is not None:
            place.append(f"offset {offset}")
        super().__init__(f"{', '.join(place)}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the attributes when the error crosses a process border."""
        return (_damaged, (self.problem, self.shard, self.key, self.field, self.offset))


def _damaged(problem: str, shard: str, key: str | None, field: str | None, offset: int | None) -> DamagedShardError:
    return DamagedShardError(problem, shard=shard, key=key, field=field, offset=offset)
