"""A data set that has its manifest: sidecars that were lost are made again, and further field groups taken up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shards.foreign import fits
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.index import ShardInfo, index_path, load_index, save_index
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.groups import series_of_names, with_groups
from shards.hashed import HashedShard, make_index
from shards.remembered import Remembered
from shards.series import group_of_tars, sidecar_of


def wrong_tars(manifest: Manifest, directory: Path) -> dict[str, tuple[str, ShardInfo]]:
    """The tars of a data set whose sidecars are lost or of others: group and line of the manifest, by name."""
    return {
        info.name: (group, info)
        for group in manifest.schema.groups
        for info in manifest.series(group)
        if not _is_right(manifest, directory / info.name, group, info)
    }


def _is_right(manifest: Manifest, path: Path, group: str, info: ShardInfo) -> bool:
    try:
        index = load_index(index_path(path))
    except (MissingDataError, DamagedShardError):
        return False
    return index.info == info and index.schema == manifest.schema.of_group(group)


def restore_sidecars(
    manifest: Manifest, wrong: Mapping[str, tuple[str, ShardInfo]], found: Mapping[str, HashedShard]
) -> None:
    """Make sidecars again.

    Args:
        manifest: of the data set.
        wrong: the tars, as of `wrong_tars`.
        found: what was read of them, by name.

    Raises:
        DamagedShardError: a tar is not the one of the manifest.
    """
    for name, (group, info) in wrong.items():
        shard, schema = found[name], manifest.schema.of_group(group)
        if not fits(shard.scanned, schema):
            raise DamagedShardError(
                "the tar is not the one of the manifest: it has other members; restore it, or build it again",
                shard=name,
            )
        index = make_index(shard, schema)
        if index.info != info:
            raise DamagedShardError(
                f"the tar is not the one of the manifest: digest {index.info.digest}, expected {info.digest}; "
                "restore it, or build it again",
                shard=name,
            )
        save_index(index, shard.scanned.path)


def add_groups(manifest: Manifest, directory: Path, new: Mapping[str, HashedShard]) -> Manifest:
    """Take up field groups that the manifest does not know of.

    Args:
        manifest: of the data set; its sidecars are there.
        directory: where it is.
        new: tars that it does not name.

    Raises:
        ShardError: they are no field group of it.
    """
    if not new:
        return manifest
    main = [load_index(index_path(directory / info.name)) for info in manifest.shards]
    names = series_of_names([*(info.name for info in manifest.shards), *new])
    group_of = {name: group for group, series in names.items() for name in series}
    series: dict[str, list[HashedShard]] = {}
    for name, shard in sorted(new.items()):
        sidecar = sidecar_of(shard)
        group = sidecar.group if sidecar else group_of[name]
        if not group or group in manifest.groups:
            raise ShardError(
                f"{directory / name} is not in {MANIFEST_NAME}, and is no field group of it: move it away, or delete "
                f"{MANIFEST_NAME} to index all tars anew"
            )
        series.setdefault(group, []).append(shard)
    try:
        groups = [group_of_tars(name, shards, main, Remembered()) for name, shards in series.items()]
        manifest = with_groups(manifest, groups)
    except ValueError as error:
        raise ShardError(f"{directory}: the field group {', '.join(series)} cannot be added: {error}") from None
    manifest.write(directory)
    return manifest
