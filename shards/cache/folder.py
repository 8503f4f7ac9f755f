"""The cache as a whole: which sets are in it, how large it may become, and what gives way."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.cache.sparse import HAVE_SUFFIX, evict
from shards.format.errors import ShardError
from shards.format.publish import publish_json

FOLDER_VARIABLE, QUOTA_VARIABLE = "REELSHARD_CACHE", "REELSHARD_CACHE_QUOTA"
SHARE_OF_DISK = 0.8
LOW_WATER = 0.9  # of the quota, down to which is evicted
MOST_UNSEEN_BYTES = 256 << 20  # written by this process before it looks again at what the others have written
ORIGIN_NAME, PIN_NAME, LOCK_NAME = "origin.json", "pinned", ".lock"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_size(text: str | float) -> int:
    """A number of bytes, such as `200 GB`.

    Raises:
        ValueError: it is none.
    """
    found = _SIZE.fullmatch(str(text).strip())
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if size < 1:
        raise ValueError(f"{text!r} is no size; give bytes, or as in 500MB or 2TB")
    return size


@dataclass(frozen=True)
class CachedSet:
    """One data set in the cache."""

    folder: Path
    url: str
    digest: str
    num_bytes: int
    pinned: bool


class Cache:
    """A folder on a local disk. Several processes, of several jobs, may use one."""

    def __init__(self, folder: str | Path | None = None, quota: str | float | None = None) -> None:
        """Take the folder and the most bytes it may hold; nothing is written yet.

        Args:
            folder: None takes REELSHARD_CACHE, or `~/.cache/reelshard`.
            quota: None takes REELSHARD_CACHE_QUOTA, or 80 % of what the disk has free, what the cache holds included.

        Raises:
            ValueError: the quota is no size.
        """
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.folder = Path(folder or os.environ.get(FOLDER_VARIABLE) or Path(home, "reelshard")).absolute()
        given = quota if quota is not None else os.environ.get(QUOTA_VARIABLE) or None
        self._quota = None if given is None else parse_size(given)
        self._lock = threading.Lock()
        self._usage, self._unseen, self._writing = -1, 0, 0  # on the disk when looked at, written since, on its way

    @property
    def quota(self) -> int:
        """The most bytes it may hold."""
        if self._quota is None:
            present = next(path for path in (self.folder, *self.folder.parents) if path.exists())
            self._quota = int(SHARE_OF_DISK * (shutil.disk_usage(present).free + self.usage()))
        return self._quota

    def set_folder(self, url: str, digest: str) -> Path:
        """The folder of a data set: named for people, and by its digest, since it may change where it is."""
        name = re.sub(r"[^\w.-]+", "_", url.rpartition("/")[2])[:40]
        return self.folder / f"{name}-{hashlib.sha256(f'{url} {digest}'.encode()).hexdigest()[:16]}"

    def open_set(self, url: str, digest: str) -> tuple[Path, int]:
        """Make the folder of a data set, and keep it from being cleared as long as the descriptor is open.

        Raises:
            ShardError: the cache cannot be written.
        """
        folder = self.set_folder(url, digest)
        try:
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_still(descriptor, folder / LOCK_NAME):
                    break
                os.close(descriptor)  # cleared meanwhile
            if not (folder / ORIGIN_NAME).exists():
                publish_json(folder / ORIGIN_NAME, {"url": url, "digest": digest})
        except OSError as error:
            raise unwritable(self.folder, error) from None
        return folder, descriptor

    def sets(self) -> list[CachedSet]:
        """What is in it."""
        found = []
        for origin in sorted(self.folder.glob(f"*/{ORIGIN_NAME}")):
            try:
                about = json.loads(origin.read_text(encoding="utf-8"))
                url, digest = str(about["url"]), str(about["digest"])
            except (ValueError, KeyError, TypeError, OSError):  # cleared just now, or not ours
                continue
            folder = origin.parent
            found.append(CachedSet(folder, url, digest, used_bytes(folder), (folder / PIN_NAME).exists()))
        return found

    def usage(self) -> int:
        """Bytes on the disk."""
        return sum(used_bytes(path) for path in _folders(self.folder))

    @contextlib.contextmanager
    def room(self, num_bytes: int, *, needed: bool) -> Iterator[bool]:
        """Make room for what is written while the block runs: tars that were used longest ago give way.

        What is held or pinned stays. Where the quota does not suffice because of that, what is needed is written
        nevertheless, so that a reader goes on.

        Args:
            num_bytes: at most so many are written.
            needed: whether they are written in any case.

        Returns:
            Whether they are to be written.
        """
        reserved = self._fits(num_bytes) or needed
        with self._lock:
            self._writing += num_bytes if reserved else 0
        try:
            yield reserved
        finally:
            with self._lock:
                self._writing -= num_bytes if reserved else 0
                self._unseen += num_bytes if reserved else 0

    def give_way(self) -> None:
        """Evict a tenth: the disk is full, whatever the quota is."""
        with self._lock:
            self._look()
            self._evict_down_to(int(LOW_WATER * self._usage))

    def _fits(self, num_bytes: int) -> bool:
        """Whether so many bytes fit into the quota, after others gave way if need be."""
        with self._lock:
            ahead = self._writing + num_bytes
            if self._usage < 0 or self._unseen > min(MOST_UNSEEN_BYTES, self.quota // 256):
                self._look()
            if self._usage + self._unseen + ahead > self.quota:
                self._look()
            if self._usage + ahead > self.quota:
                self._evict_down_to(int(LOW_WATER * self.quota) - ahead)
            return self._usage + ahead <= self.quota

    def _look(self) -> None:
        self._usage, self._unseen = self.usage(), 0

    def _evict_down_to(self, num_bytes: int) -> None:
        for tar, size in self._evictable() if self._usage > num_bytes else ():
            if self._usage <= num_bytes:
                break
            if evict(tar):
                self._usage -= size

    def _evictable(self) -> list[tuple[Path, int]]:
        """Tars with something in them, of sets that are not pinned; used longest ago first."""
        found = []
        for folder in _folders(self.folder):
            if (folder / PIN_NAME).exists():
                continue
            for have in folder.glob(f"*{HAVE_SUFFIX}"):
                tar = have.with_suffix(".tar")
                try:
                    if size := tar.stat().st_blocks * 512:
                        found.append((have.stat().st_mtime_ns, tar, size))
                except FileNotFoundError:
                    continue
        return [(tar, size) for _, tar, size in sorted(found)]

    def pin(self, folder: Path, *, pinned: bool) -> None:
        """Keep a data set from giving way to others, or no longer."""
        if pinned:
            (folder / PIN_NAME).touch()
        else:
            (folder / PIN_NAME).unlink(missing_ok=True)

    def clear(self, folder: Path) -> bool:
        """Remove a data set from the cache, unless somebody uses it; returns whether that was done."""
        try:
            descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.iterdir():
                if path.name != LOCK_NAME:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            (folder / LOCK_NAME).unlink()
            folder.rmdir()
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def unwritable(folder: Path, error: OSError) -> ShardError:
    """The error that says what to do."""
    return ShardError(
        f"the cache {folder} cannot be written: {error.strerror}; make room there (`reelshard cache clear`), or name "
        f"another folder with --data.cache or {FOLDER_VARIABLE}"
    )


def _folders(cache: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(cache))
    except FileNotFoundError:
        return
    yield from (Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False))


def used_bytes(folder: Path) -> int:
    """Bytes on the disk, which are fewer than those of sparse files."""
    total = 0
    try:
        for entry in os.scandir(folder):
            if entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:  # cleared just now
        pass
    return total


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
