"""`reelshard index`: sidecars and a manifest for tars made elsewhere, which stay as they are.

In a folder that has a manifest already, sidecars that are lost or unreadable are made again. Field groups are found by
their sidecars, or by their names: tars `SPLIT.GROUP-00000-of-00002.tar` beside `SPLIT-00000-of-00002.tar` that hold
other members of the same samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shards.format.errors import MissingDataError, ShardError
from shards.format.manifest import COMPRESSED_TARS, MANIFEST_NAME, Manifest, check_folder
from shards.format.parse import check_name
from shards.groups import split_of_name, with_groups
from shards.hashed import HashedShard
from shards.hashing import THREADS, Tars, hashed_tars
from shards.progress import Progress, untold
from shards.remembered import remember
from shards.restore import add_groups, restore_sidecars, wrong_tars
from shards.series import INDEXED, group_of_tars, save_sidecars, sidecar_of, sort_series


def index_directory(
    directory: Path, *, split: str | None = None, threads: int = THREADS, progress: Progress = untold
) -> Manifest:
    """Give every `*.tar` in `directory` a sidecar, and the folder a manifest.

    A run that is stopped is gone on with by the same call: tars that were read are not read again.

    Args:
        directory: where the tars are, and where sidecars and manifest go.
        split: the split's name in the manifest; None takes it from the tars' names, or else "train".
        threads: tars read at the same time.
        progress: called with (bytes of tars done, 0) since its last call.

    Returns:
        The manifest, already written.

    Raises:
        MissingDataError: no tars there.
        DamagedShardError: a tar is damaged; nothing is made of a damaged one.
        UnsafeMemberError: a link, a path outside of the archive, a pickle.
        ShardError: samples differ in their members, tars are compressed, a field group is not whole, or another process
            is building there.
    """
    check_folder(directory)
    refuse_compressed(directory, [path.name for path in sorted(directory.iterdir())])
    paths = sorted(directory.glob("*.tar"))
    if not paths:
        raise MissingDataError(f"no .tar files in {directory}: give the folder that holds the shards")
    return index_tars(paths, directory, split=split, threads=threads, progress=progress)


def index_tars(
    paths: Sequence[Path],
    directory: Path,
    *,
    tars: Tars | None = None,
    split: str | None = None,
    threads: int = THREADS,
    progress: Progress = untold,
) -> Manifest:
    """Make sidecars and a manifest in `directory` of tars that are there, or elsewhere; see `index_directory`."""
    if split is not None:
        check_name(split, "the split's name")
    if threads < 1:
        raise ValueError(f"tars are read by {threads} threads; it has to be at least 1")
    if not (directory / MANIFEST_NAME).exists():
        with hashed_tars(paths, directory, tars=tars, threads=threads, progress=progress) as found:
            return _make_manifest(directory, [found[path.name] for path in paths], split)
    manifest = Manifest.read(directory)
    wrong = wrong_tars(manifest, directory)
    known = {info.name: info for group in manifest.schema.groups for info in manifest.series(group)}
    new = [path.name for path in paths if path.name not in known]
    progress(sum(info.num_bytes for name, info in known.items() if name not in wrong))
    wanted = [directory / name for name in sorted({*wrong, *new})]
    with hashed_tars(wanted, directory, tars=tars, threads=threads, progress=progress) as found:
        restore_sidecars(manifest, wrong, found)
        return add_groups(manifest, directory, {name: found[name] for name in new})


def refuse_compressed(place: object, names: Iterable[str]) -> None:
    """Raises ShardError if one of the names in a place is that of a compressed tar."""
    for name in names:
        if name.endswith(COMPRESSED_TARS):
            raise ShardError(
                f"{place}/{name} is a compressed tar: samples are read in place, so unpack it to a plain .tar, or move "
                "it away if it is none of the shards"
            )


def _make_manifest(directory: Path, found: Sequence[HashedShard], split: str | None) -> Manifest:
    series = sort_series(found)
    main = series.pop("", [])
    if not main:
        raise ShardError(
            f"{directory} holds shards of the field groups {', '.join(series)} alone: their main series is gone"
        )
    if empty := [shard.info.name for shard in main if not shard.scanned.keys and sidecar_of(shard) is None]:
        raise ShardError(f"shard {empty[0]} has no samples")
    remembered = remember(directory, len(main))
    indices = save_sidecars(main, "", remembered)
    groups = [group_of_tars(name, shards, indices, remembered) for name, shards in series.items()]
    provenance = {name: value for name, value in remembered.provenance.items() if name != "groups"}
    manifest = Manifest(
        split=split or remembered.split or _split_of(main),
        schema=indices[0].schema,
        shards=tuple(index.info for index in indices),
        label_names=remembered.label_names,
        provenance=provenance if remembered.schema is not None else {**INDEXED, **_views(main)},
        failures=remembered.failures,
    )
    manifest = with_groups(manifest, groups)
    manifest.write(directory)
    return manifest


def _split_of(main: Sequence[HashedShard]) -> str:
    found = {split_of_name(shard.info.name) for shard in main}
    return next(iter(found)) or "train" if len(found) == 1 else "train"


def _views(main: Sequence[HashedShard]) -> dict[str, Any]:
    """What a manifest records of the view, if all samples agree in it."""
    views = set[str | None]().union(*(shard.views for shard in main))
    return {"view": {"hash": next(iter(views))}} if len(views) == 1 and None not in views else {}
