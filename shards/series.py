"""Tar series of tars that were read: which tar is of which, the sidecars of one, and whether it is a field group."""

from __future__ import annotations

from collections.abc import Sequence

from shards.foreign import common_schema, fits
from shards.format.beside_group import group_provenance
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.index import ShardIndex, index_path, load_index, save_index
from shards.groups import Group, refuse_other_keys, series_of_names
from shards.hashed import HashedShard, make_index
from shards.remembered import Remembered

INDEXED = {"source": "indexed tars"}


def sort_series(found: Sequence[HashedShard]) -> dict[str, list[HashedShard]]:
    """Shards by group: as their sidecars say, or else as their names do, if they hold other members than the rest."""
    by_name = {shard.info.name: shard for shard in found}
    said = {name: index.group for name, shard in by_name.items() if (index := sidecar_of(shard)) is not None}
    named = series_of_names(by_name)
    main = by_name[named[""][0]]
    series: dict[str, list[HashedShard]] = {}
    for group, names in named.items():
        is_group = group and not _members(by_name[names[0]]) & _members(main)
        for name in names:
            series.setdefault(said.get(name, group if is_group else ""), []).append(by_name[name])
    return series


def _members(shard: HashedShard) -> set[str]:
    return set(shard.scanned.rows[0]) if shard.scanned.rows else set()


def sidecar_of(shard: HashedShard) -> ShardIndex | None:
    """What an earlier run left beside a tar, if it can be read."""
    try:
        return load_index(index_path(shard.scanned.path))
    except (MissingDataError, DamagedShardError):
        return None


def save_sidecars(shards: Sequence[HashedShard], group: str, remembered: Remembered) -> list[ShardIndex]:
    """Make and save the sidecars of a series.

    Fields are those of sidecars that are there, or else what is remembered, where all tars have them.

    Raises:
        DamagedShardError: a tar is not the one that its sidecar describes.
    """
    found = [sidecar_of(shard) for shard in shards]
    known = {index.schema for index in found if index is not None}
    if not known and (fields := remembered.fields(group)) is not None:
        known = {fields}
    schema = known.pop() if len(known) == 1 else None
    if schema is None or not all(fits(shard.scanned, schema) for shard in shards):
        schema = common_schema([shard.scanned for shard in shards], group)
    indices = []
    for shard, sidecar in zip(shards, found, strict=True):
        index = make_index(shard, schema)
        if sidecar is not None and sidecar.info != index.info:
            raise DamagedShardError(
                f"the tar is not the one that its sidecar describes: digest {index.info.digest}, expected "
                f"{sidecar.info.digest}; restore the tar, or delete the sidecar if the tar is right",
                shard=shard.info.name,
            )
        if sidecar is None or sidecar.encode() != index.encode():
            save_index(index, shard.scanned.path)
        indices.append(index)
    return indices


def group_of_tars(
    name: str, shards: Sequence[HashedShard], main: Sequence[ShardIndex], remembered: Remembered
) -> Group:
    """A field group of tars that were found; their sidecars are saved.

    Raises:
        ShardError: there are not as many shards as in the main series, or their samples are others.
    """
    about = group_provenance(shards[0].scanned.path.parent, name)
    if len(shards) != len(main):
        cure = "restore what is missing, or move the group away"
        if about is not None:
            cure = "finish it by the same `reelshard add-field`, or take it away with `reelshard drop-field`"
        raise ShardError(f"the field group {name!r} has {len(shards)} shards, the main series has {len(main)}: {cure}")
    indices = save_sidecars(shards, name, remembered)
    for index, other in zip(indices, main, strict=True):
        refuse_other_keys(name, index, other)
    about = about or remembered.about(name)
    if remembered.fields(name) is None:
        about = about or INDEXED
    return Group(name, indices[0].schema.fields, tuple(index.info for index in indices), about)
