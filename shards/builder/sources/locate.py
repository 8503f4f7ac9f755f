"""The video that a sample was built from, found again: by its path, by its id, or by its size and digest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from shards.builder.decode.stream_facts import SourceFile, read_source_file
from shards.builder.decode.zipped import local_file
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.format.errors import ShardError


class OpenVideo(NamedTuple):
    """A file that programs can open, and its size and digest."""

    path: Path
    source: SourceFile


class FoundVideo(NamedTuple):
    """A video.

    Attributes:
        root: the folder that it was looked for in.
        path: the file, relative to it; perhaps inside of a zip.
        source: its size and digest now.
        is_same: they are those that the sample was built from.
    """

    root: Path
    path: str
    source: SourceFile
    is_same: bool

    @contextmanager
    def opened(self) -> Iterator[OpenVideo]:
        """Yield it as a file that is there as long as the block runs.

        Raises:
            BuildFailure: it cannot be taken out of its zip.
        """
        with local_file(self.root, self.path) as path:
            yield OpenVideo(path, self.source)


class VideoFinder:
    """Finds videos below one folder. Safe to use from several threads."""

    def __init__(self, root: Path, items: Iterable[Item]) -> None:
        """Take the folder, and the items that a source finds in it: samples do not all say their path."""
        self._root = root
        self._paths = {item.key: item.path for item in items}
        self._sizes: dict[int, list[str]] | None = None
        self._lock = Lock()

    def find(self, key: str, about: Mapping[str, Any]) -> FoundVideo | None:
        """Find a sample's video.

        Args:
            key: the sample's key.
            about: its JSON.

        Returns:
            The file with the recorded digest, whatever its name; else the one at the sample's place, which has changed;
            None where there is neither.

        Raises:
            ShardError: the sample does not say what it was built from.
        """
        num_bytes, digest = about.get("source_bytes"), about.get("source_xxh3_128")
        if not isinstance(num_bytes, int) or not isinstance(digest, str):
            raise ShardError(f"sample {key} does not say the size and the digest of its video; it cannot be compared")
        recorded = SourceFile(num_bytes=num_bytes, xxh3_128=digest)
        named = [path for path in (about.get("path"), self._paths.get(key)) if isinstance(path, str)]
        changed = None
        for path in dict.fromkeys(named):
            found = self._read(path, recorded)
            if found and found.is_same:
                return found
            changed = changed or found
        for path in self._of_size(recorded.num_bytes):
            if (found := self._read(path, recorded)) and found.is_same:
                return found
        return changed

    def _read(self, path: str, recorded: SourceFile) -> FoundVideo | None:
        try:
            with local_file(self._root, path) as file:
                source = read_source_file(file)
        except BuildFailure:
            return None
        return FoundVideo(self._root, path, source, source == recorded)

    def _of_size(self, num_bytes: int) -> list[str]:
        with self._lock:
            if self._sizes is None:
                self._sizes = defaultdict(list)
                for path in sorted(self._root.rglob("*")):
                    if path.is_file():
                        self._sizes[path.stat().st_size].append(path.relative_to(self._root).as_posix())
        return self._sizes.get(num_bytes, [])
