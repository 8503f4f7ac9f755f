"""`reelshard index`: sidecars and a manifest for tars made elsewhere, which stay as they are.

In a folder that has a manifest already, sidecars that are lost or unreadable are made again. Field groups are found by
their sidecars, or by their names: tars `SPLIT.GROUP-00000-of-00002.tar` beside `SPLIT-00000-of-00002.tar` that hold
other members of the same samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.foreign import ScannedShard, common_schema, fits, make_index, scan_shard
from shards.format.beside import (
    FAILURES_NAME,
    PLAN_NAME,
    planned_schema,
    planned_shards,
    provenance_of,
    read_failures,
    read_plan,
)
from shards.format.beside_group import group_provenance
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.index import ShardIndex, ShardInfo, index_path, load_index, save_index
from shards.format.manifest import COMPRESSED_TARS, MANIFEST_NAME, Manifest, check_folder
from shards.format.parse import check_name, mapping, parse_json
from shards.format.schema import Schema
from shards.groups import Group, refuse_other_keys, series_of_names, split_of_name, with_groups
from shards.progress import Progress, untold

INDEXED = {"source": "indexed tars"}


def index_directory(directory: Path, *, split: str | None = None, progress: Progress = untold) -> Manifest:
    """Give every `*.tar` in `directory` a sidecar, and the folder a manifest.

    Args:
        directory: where the tars are, and where sidecars and manifest go.
        split: the split's name in the manifest; None takes it from the tars' names, or else "train".
        progress: called with (shards done, 0) since its last call.

    Returns:
        The manifest, already written.

    Raises:
        MissingDataError: no tars there.
        DamagedShardError: a tar is damaged; nothing is made of a damaged one.
        UnsafeMemberError: a link, a path outside of the archive, a pickle.
        ShardError: samples differ in their members, tars are compressed, or a field group is not whole.
    """
    check_folder(directory)
    if split is not None:
        check_name(split, "the split's name")
    _refuse_compressed(directory)
    paths = sorted(directory.glob("*.tar"))
    if not paths:
        raise MissingDataError(f"no .tar files in {directory}: give the folder that holds the shards")
    if (directory / MANIFEST_NAME).exists():
        manifest = Manifest.read(directory)
        _restore_sidecars(manifest, directory)
        return _add_groups(manifest, directory, paths)
    scanned = []
    for path in paths:
        scanned.append(scan_shard(path))
        progress(1)
    return _make_manifest(directory, scanned, split)


def _refuse_compressed(directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        if path.name.endswith(COMPRESSED_TARS):
            raise ShardError(
                f"{path} is a compressed tar: samples are read in place, so unpack it to a plain .tar, or move it away "
                "if it is none of the shards"
            )


def _make_manifest(directory: Path, scanned: Sequence[ScannedShard], split: str | None) -> Manifest:
    series = _series(scanned)
    main = series.pop("", [])
    if not main:
        raise ShardError(
            f"{directory} holds shards of the field groups {', '.join(series)} alone: their main series is gone"
        )
    if empty := [shard.path.name for shard in main if not shard.keys and _sidecar(shard) is None]:
        raise ShardError(f"shard {empty[0]} has no samples")
    view = _SeenView()
    plan = _finished_plan(directory, len(main))
    indices = _indices(main, "", view.see, plan)
    groups = [_group(name, shards, indices) for name, shards in series.items()]
    failures = read_failures(directory / FAILURES_NAME) if plan and (directory / FAILURES_NAME).exists() else []
    manifest = Manifest(
        split=split or (plan["split"] if plan else _split_of(main)),
        schema=indices[0].schema,
        shards=tuple(index.info for index in indices),
        provenance=provenance_of(plan) if plan else {**INDEXED, **view.provenance},
        failures=dict(sorted(Counter(failure["reason"] for failure in failures).items())),
    )
    manifest = with_groups(manifest, groups)
    manifest.write(directory)
    return manifest


def _finished_plan(directory: Path, num_shards: int) -> dict[str, Any] | None:
    """The plan of a build whose manifest was lost; None for tars made elsewhere.

    Raises:
        ShardError: the build was not finished.
    """
    try:
        plan = read_plan(directory / PLAN_NAME)
    except MissingDataError:
        return None
    if planned_shards(plan) != num_shards:
        raise ShardError(
            f"{directory} holds {num_shards} of the {planned_shards(plan)} shards of its {PLAN_NAME}: run the same "
            f"`reelshard build` again to finish it, or delete {PLAN_NAME} to index what is there"
        )
    return plan


def _split_of(main: Sequence[ScannedShard]) -> str:
    found = {split_of_name(shard.path.name) for shard in main}
    return next(iter(found)) or "train" if len(found) == 1 else "train"


def _series(scanned: Sequence[ScannedShard]) -> dict[str, list[ScannedShard]]:
    """Shards by group: as their sidecars say, or else as their names do, if they hold other members than the rest."""
    by_name = {shard.path.name: shard for shard in scanned}
    said = {name: index.group for name, shard in by_name.items() if (index := _sidecar(shard)) is not None}
    named = series_of_names(by_name)
    main = by_name[named[""][0]]
    series: dict[str, list[ScannedShard]] = {}
    for group, names in named.items():
        is_group = group and not _members(by_name[names[0]]) & _members(main)
        for name in names:
            series.setdefault(said.get(name, group if is_group else ""), []).append(by_name[name])
    return series


def _members(shard: ScannedShard) -> set[str]:
    return set(shard.rows[0]) if shard.rows else set()


def _sidecar(shard: ScannedShard) -> ShardIndex | None:
    """What an earlier run left beside a tar, if it can be read."""
    try:
        return load_index(index_path(shard.path))
    except (MissingDataError, DamagedShardError):
        return None


def _indices(
    shards: Sequence[ScannedShard],
    group: str,
    see: Callable[[str, bytes], None] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> list[ShardIndex]:
    """Make and save the sidecars of a series.

    Fields are those of sidecars that are there, or else of the build's plan, where all tars have them.

    Raises:
        DamagedShardError: a tar is not the one that its sidecar describes.
    """
    found = [_sidecar(shard) for shard in shards]
    known = {index.schema for index in found if index is not None}
    if plan is not None and not known:
        known = {planned_schema(plan)}
    schema = known.pop() if len(known) == 1 else None
    if schema is None or not all(fits(shard, schema) for shard in shards):
        schema = common_schema(shards, group)
    indices = []
    for shard, sidecar in zip(shards, found, strict=True):
        index = make_index(shard, schema, see)
        if sidecar is not None and sidecar.info != index.info:
            raise DamagedShardError(
                f"the tar is not the one that its sidecar describes: digest {index.info.digest}, expected "
                f"{sidecar.info.digest}; restore the tar, or delete the sidecar if the tar is right",
                shard=shard.path.name,
            )
        if sidecar is None or sidecar.encode() != index.encode():
            save_index(index, shard.path)
        indices.append(index)
    return indices


def _group(name: str, shards: Sequence[ScannedShard], main: Sequence[ShardIndex]) -> Group:
    """A field group of tars that were found.

    Raises:
        ShardError: there are not as many shards as in the main series, or their samples are others.
    """
    about = group_provenance(shards[0].path.parent, name)
    if len(shards) != len(main):
        cure = "restore what is missing, or move the group away"
        if about is not None:
            cure = "finish it by the same `reelshard add-field`, or take it away with `reelshard drop-field`"
        raise ShardError(f"the field group {name!r} has {len(shards)} shards, the main series has {len(main)}: {cure}")
    indices = _indices(shards, name)
    for index, other in zip(indices, main, strict=True):
        refuse_other_keys(name, index, other)
    return Group(name, indices[0].schema.fields, tuple(index.info for index in indices), about or INDEXED)


def _restore_sidecars(manifest: Manifest, directory: Path) -> None:
    """Make the missing sidecars of a data set, if its tars are those of the manifest."""
    for group in manifest.schema.groups:
        schema = manifest.schema.of_group(group)
        for info in manifest.series(group):
            path = directory / info.name
            if _is_right(path, info, schema):
                continue
            shard = scan_shard(path)
            if not fits(shard, schema):
                raise DamagedShardError(
                    "the tar is not the one of the manifest: it has other members; restore it, or build it again",
                    shard=path.name,
                )
            index = make_index(shard, schema)
            if index.info != info:
                raise DamagedShardError(
                    f"the tar is not the one of the manifest: digest {index.info.digest}, expected {info.digest}; "
                    "restore it, or build it again",
                    shard=path.name,
                )
            save_index(index, path)


def _is_right(path: Path, info: ShardInfo, schema: Schema) -> bool:
    try:
        index = load_index(index_path(path))
    except (MissingDataError, DamagedShardError):
        return False
    return index.info == info and index.schema == schema


def _add_groups(manifest: Manifest, directory: Path, paths: Iterable[Path]) -> Manifest:
    """Take up field groups that the manifest does not know of.

    Raises:
        ShardError: there are tars that are neither in the manifest nor a field group of it.
    """
    known = {info.name for group in manifest.schema.groups for info in manifest.series(group)}
    new = [scan_shard(path) for path in paths if path.name not in known]
    if not new:
        return manifest
    main = [load_index(index_path(directory / info.name)) for info in manifest.shards]
    names = series_of_names([*(info.name for info in manifest.shards), *(shard.path.name for shard in new)])
    group_of = {name: group for group, series in names.items() for name in series}
    series: dict[str, list[ScannedShard]] = {}
    for shard in new:
        sidecar = _sidecar(shard)
        group = sidecar.group if sidecar else group_of[shard.path.name]
        if not group or group in manifest.groups:
            raise ShardError(
                f"{shard.path} is not in {MANIFEST_NAME}, and is no field group of it: move it away, or delete "
                f"{MANIFEST_NAME} to index all tars anew"
            )
        series.setdefault(group, []).append(shard)
    try:
        manifest = with_groups(manifest, [_group(name, shards, main) for name, shards in series.items()])
    except ValueError as error:
        raise ShardError(f"{directory}: the field group {', '.join(series)} cannot be added: {error}") from None
    manifest.write(directory)
    return manifest


class _SeenView:
    """Collects the view hashes that the JSON members of our own builder hold."""

    def __init__(self) -> None:
        self._hashes: set[str | None] = set()

    def see(self, field: str, data: bytes) -> None:
        """Take note of one member."""
        if field == "json":
            try:
                found = mapping(parse_json(data), "it").get("view_hash")
            except ValueError:
                found = None
            self._hashes.add(found if isinstance(found, str) else None)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a manifest records of the view, if all samples agree in it."""
        return (
            {"view": {"hash": next(iter(self._hashes))}} if len(self._hashes) == 1 and None not in self._hashes else {}
        )
