"""Read many tars made elsewhere, several at the same time, and keep what was found while others are still to be read.

What was found is saved tar by tar, so that a run that was killed goes on where it was; it counts as long as the tar is
the same file of the same size and time of change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import msgpack

from shards.builder.journal import WORK_FOLDER
from shards.builder.lock import build_lock
from shards.foreign import Found, ScannedShard
from shards.format.errors import DamagedShardError, ShardError
from shards.format.files import read_small
from shards.format.index import ShardInfo
from shards.format.npy import NpyHeader
from shards.format.publish import publish_bytes, remove_temporaries
from shards.format.tar import Member, open_tar
from shards.hashed import Hashed, HashedShard, hash_tar
from shards.progress import Progress, one_at_a_time, untold

THREADS = 4
_SUFFIX = ".scan"
_VERSION = 1


class Tars(Protocol):
    """Where tars are."""

    def stamp(self, path: Path) -> list[int]:
        """Numbers that change when a tar does."""

    def at_hand(self, path: Path, work: Path) -> AbstractContextManager[Path]:
        """The tar as a file of its name, while the block runs."""


class LocalTars:
    """Tars that lie where their paths say."""

    def stamp(self, path: Path) -> list[int]:
        """Inode, size, and times of change.

        Raises:
            MissingDataError: it is not there.
        """
        try:
            about = path.stat()
        except FileNotFoundError:
            with open_tar(path):  # says that it is missing
                raise
        return [about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]

    def at_hand(self, path: Path, work: Path) -> AbstractContextManager[Path]:
        """The tar itself."""
        return nullcontext(path)


@contextmanager
def hashed_tars(
    paths: Sequence[Path],
    directory: Path,
    *,
    tars: Tars | None = None,
    threads: int = THREADS,
    progress: Progress = untold,
) -> Iterator[dict[str, HashedShard]]:
    """Read tars, or take what an earlier run has found of them; that is forgotten when the block ends well.

    Args:
        paths: the tars; of those elsewhere, what their paths would be if they were here.
        directory: where sidecars go; nobody else may build there meanwhile.
        tars: where they are; None is here.
        threads: tars read at the same time.
        progress: called with (bytes read, 0) since its last call.

    Yields:
        What was found, by file name.

    Raises:
        ShardError: a tar is damaged or unsafe, or another process is building there.
    """
    if not paths:
        yield {}
        return
    told, places = one_at_a_time(progress), tars or LocalTars()
    with build_lock(directory):
        work, stop = directory / WORK_FOLDER, Event()
        with ThreadPoolExecutor(max(1, min(threads, len(paths)))) as pool:
            try:
                futures = [pool.submit(_known_or_read, path, places, work, stop, told) for path in paths]
                found = {path.name: future.result() for path, future in zip(paths, futures, strict=True)}
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                _tidy(work)
                raise
        yield found
        for record in work.glob(f"*{_SUFFIX}"):
            record.unlink()
        _tidy(work)


def _tidy(work: Path) -> None:
    """Remove the folder if nothing is in it that somebody may go on with, such as a stopped build."""
    remove_temporaries(work)
    if {path.name for path in work.iterdir()} == {"lock"}:
        (work / "lock").unlink()
        with suppress(OSError):
            work.rmdir()


def _known_or_read(path: Path, tars: Tars, work: Path, stop: Event, progress: Progress) -> HashedShard:
    record, stamp = work / f"{path.name}{_SUFFIX}", tars.stamp(path)
    with suppress(OSError, ShardError, ValueError, TypeError, KeyError, msgpack.UnpackException):
        known = msgpack.unpackb(read_small(record))
        if known["version"] == _VERSION and known["stamp"] == stamp:
            found = _decode(known, path)
            progress(found.info.num_bytes)
            return found
    with tars.at_hand(path, work) as here:
        found = hash_tar(here, stop=stop, progress=progress)
    if tars.stamp(path) != stamp:
        raise DamagedShardError("the file was changed while it was read; run the same again", shard=path.name)
    found = replace(found, scanned=replace(found.scanned, path=path))
    publish_bytes(record, msgpack.packb({"version": _VERSION, "stamp": stamp, **_encode(found)}))
    return found


def _encode(shard: HashedShard) -> dict[str, Any]:
    rows = [
        [
            [suffix, found.member.name, found.member.offset, found.member.size, _header_of(found), *_numbers(hashed)]
            for suffix, found in row.items()
            for hashed in [members[suffix]]
        ]
        for row, members in zip(shard.scanned.rows, shard.members, strict=True)
    ]
    return {"info": shard.info.to_json(), "keys": shard.scanned.keys, "rows": rows, "views": list(shard.views)}


def _header_of(found: Found) -> dict[str, Any] | None:
    return asdict(found.header) if found.header else None


def _numbers(hashed: Hashed) -> list[int | None]:
    return [hashed.checksum, hashed.payload_checksum, hashed.pieces]


def _decode(record: Mapping[str, Any], path: Path) -> HashedShard:
    rows: list[dict[str, Found]] = []
    members: list[dict[str, Hashed]] = []
    for row in record["rows"]:
        rows.append({})
        members.append({})
        for suffix, name, offset, size, header, *numbers in row:
            known = NpyHeader(**{**header, "shape": tuple(header["shape"])}) if header else None
            rows[-1][suffix] = Found(Member(name, offset, size), known)
            members[-1][suffix] = Hashed(*numbers)
    info = ShardInfo.from_json(record["info"])
    return HashedShard(ScannedShard(path, record["keys"], rows), info, members, frozenset(record["views"]))
