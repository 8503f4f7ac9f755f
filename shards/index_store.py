"""`reelshard index URL`: sidecars and a manifest for tars in an object store, or on a plain HTTP server.

Each tar is fetched, read and dropped again; sidecars and the manifest are made in a local folder, and then put beside
the tars where the store can be written to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shards.adopt import index_tars, refuse_compressed
from shards.format.errors import MissingDataError, ShardError
from shards.format.index import index_path
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.format.parse import check_name
from shards.format.publish import publish_bytes
from shards.hashing import THREADS
from shards.progress import Progress, untold
from shards.remembered import BESIDE
from shards.store import Store

PART_BYTES = 16 << 20


@dataclass(frozen=True)
class StoredTars:
    """Tars in a store, with their sizes."""

    store: Store
    sizes: Mapping[str, int]

    def stamp(self, path: Path) -> list[int]:
        """The size."""
        return [self.sizes[path.name]]

    @contextmanager
    def at_hand(self, path: Path, work: Path) -> Iterator[Path]:
        """Fetch the tar, and drop it at the end."""
        here = work / path.name
        try:
            fetch(self.store, path.name, self.sizes[path.name], here)
            yield here
        finally:
            here.unlink(missing_ok=True)


def fetch(store: Store, name: str, size: int, path: Path) -> None:
    """Read an object in parts into a file."""
    with path.open("wb") as file:
        for start in range(0, size, PART_BYTES):
            (data,) = store.get_ranges(name, [start], [min(start + PART_BYTES, size)])
            file.write(data)


def names_and_sizes(store: Store, names: Sequence[str] | None) -> dict[str, int]:
    """The tars of a store's folder.

    Args:
        store: the folder.
        names: the tars, where nothing can be listed; None lists the folder.

    Raises:
        MissingDataError: there is none, or not one that is named.
        ShardError: one is compressed, or nothing can be listed and no names are given.
    """
    if names is not None:
        refuse_compressed(store.url, names)
        return {check_name(name, "a tar's name"): store.size(name) for name in names}
    listed = {name: size for name, size in store.list() if "/" not in name}
    refuse_compressed(store.url, sorted(listed))
    tars = {name: size for name, size in sorted(listed.items()) if name.endswith(".tar")}
    if not tars:
        raise MissingDataError(f"no .tar files in {store.url}: give the folder that holds the shards")
    return tars


def index_store(
    store: Store,
    sizes: Mapping[str, int],
    folder: Path,
    *,
    can_write: bool,
    split: str | None = None,
    threads: int = THREADS,
    progress: Progress = untold,
) -> Manifest:
    """Give every tar a sidecar and the store a manifest; a run that is stopped is gone on with by the same call.

    Args:
        store: where the tars are.
        sizes: the tars, as of `names_and_sizes`.
        folder: local; takes sidecars and manifest, and what was read so far.
        can_write: whether they are put beside the tars, too.
        split: as of `index_directory`.
        threads: tars fetched and read at the same time; each takes its size on the disk meanwhile.
        progress: called with (bytes of tars done, 0) since its last call.

    Raises:
        ShardError: as of `index_directory`, or the store cannot be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if others := sorted(path.name for path in folder.glob("*.tar")):
        raise ShardError(f"{folder} holds tars such as {others[0]}: give a folder of its own for the sidecars")
    for name in (MANIFEST_NAME, *BESIDE, *(index_path(Path(tar)).name for tar in sizes)):
        if not (folder / name).exists():
            with suppress(MissingDataError):
                publish_bytes(folder / name, store.get(name))
    paths = [folder / name for name in sizes]
    tars = StoredTars(store, sizes)
    manifest = index_tars(paths, folder, tars=tars, split=split, threads=threads, progress=progress)
    if can_write:
        for path in paths:
            store.put(index_path(path).name, index_path(path).read_bytes())
        store.put(MANIFEST_NAME, (folder / MANIFEST_NAME).read_bytes())
    return manifest
