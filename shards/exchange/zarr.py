"""Targets as a Zarr cache and back, for tools that know nothing of shards.

CACHE/targets.zarr/targets   one array `[num_samples, N, D]`, a chunk per sample, compressed, Zarr v2 or v3; tokens in
                             the order t * S + s. A `targets.zarr` that is the array itself is read as well.
CACHE/meta.jsonl             one JSON object per row: its `index` (the line's number where it is left out), a `key`,
                             `video_id` or `id` that names the sample, and what else is known of it
CACHE/projection.npy         the teacher's projection, where it had one

Attributes of the array keep the view and the teacher, so that both survive the way out and back in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.dataset import ShardDataset
from shards.exchange.zarr_store import (
    ARRAY_NAME,
    ATTRIBUTE,
    META_NAME,
    STORE_NAME,
    ZarrCache,
    open_cache,
    read_projection,
    zarr_package,
)
from shards.format.beside import projection_name, teacher_of
from shards.format.errors import MissingDataError, ShardError
from shards.format.index import ShardInfo, index_path
from shards.format.layout import target_to_tubes, tubes_to_target
from shards.format.manifest import Manifest, check_folder, refuse_url, shard_name
from shards.format.parse import check_name
from shards.format.publish import canonical_json, publish_bytes, temporary_path
from shards.format.schema import Field, Layout, Schema
from shards.format.views import refuse_other_views, view_hash
from shards.groups import Group, with_groups
from shards.payload import StoredValue
from shards.progress import Progress, untold
from shards.writer import ShardWriter

ZarrFormat = Literal[2, 3]


def export_targets(
    dataset: ShardDataset,
    directory: Path,
    *,
    field: str = "target",
    zarr_format: ZarrFormat = 3,
    progress: Progress = untold,
) -> None:
    """Write the targets of a data set as a Zarr cache; `directory` appears whole or not at all.

    Args:
        dataset: read sample by sample, with checksums.
        directory: must not exist.
        field: the array field to export, in the tubes layout or `[N, D]`.
        zarr_format: version of the format; 2 for readers older than zarr 3.
        progress: called with (samples done, 0) since its last call.

    Raises:
        ValueError: the field is not one of targets.
        ShardError: `directory` is there already, a sample is damaged, or the projection is gone.
    """
    zarr = zarr_package()
    description = dataset.schema[field]
    if not description.is_array or len(description.fixed_shape) not in (2, 3):
        raise ValueError(f"field {field} has shape {description.shape}; targets are [N, D], or [S, T', D] in tubes")
    refuse_url(directory)
    if directory.exists():
        raise ShardError(f"{directory} is there already; give a new folder")
    projection = _projection_of(dataset, description.group)
    temporary = temporary_path(directory)
    temporary.mkdir(parents=True)
    try:
        shape = (len(dataset), description.num_positions * _times(description), description.fixed_shape[-1])
        group = zarr.open_group(str(temporary / STORE_NAME), mode="w", zarr_format=zarr_format)
        array = group.create_array(ARRAY_NAME, shape=shape, chunks=(1, *shape[1:]), dtype=description.dtype)
        array.attrs[ATTRIBUTE] = _about(dataset, description)
        with (temporary / META_NAME).open("wb") as meta:
            for number in range(len(dataset)):
                array[number] = _tokens(dataset.read(number, field))
                record = dataset.metadata(number) if "json" in dataset.schema else {}
                meta.write(canonical_json(record | {"index": number, "key": dataset.key(number)}) + b"\n")
                progress(1)
        if projection is not None:
            (temporary / projection_name()).write_bytes(projection)
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _about(dataset: ShardDataset, field: Field) -> dict[str, Any]:
    return {
        "dataset": dataset.digest,
        "field": field.name,
        "teacher": teacher_of(dataset.manifest, field.group),
        "view_hash": view_hash(dataset.manifest),
    }


def _projection_of(dataset: ShardDataset, group: str) -> bytes | None:
    """The projection that made the targets of a series, compared with the manifest; None where there was none."""
    teacher = teacher_of(dataset.manifest, group)
    if teacher is None or not isinstance(teacher.get("projection"), dict):
        return None
    return read_projection(dataset.directory / projection_name(group), teacher["projection"].get("sha256"))


def import_targets(
    cache: Path,
    dataset: ShardDataset,
    *,
    group: str = "zarr",
    tubes: bool = True,
    progress: Progress = untold,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Add the targets of a Zarr cache to a data set of clips, as a field group: the clips' shards are not touched.

    Args:
        cache: folder with `targets.zarr` and `meta.jsonl`; a line's `key`, `video_id` or `id` names the sample.
        dataset: the clips; must not have a target yet.
        group: name of the new tar series.
        tubes: write the tubes layout (the clips' number of positions), else `[N, D]`.
        progress: called with (samples done, 0) since its last call.
        say: takes a line for the user: whether the views could be compared.

    Returns:
        The new manifest, already written.

    Raises:
        ValueError: the group's name is not allowed.
        MissingDataError: a part of the cache, or the targets of a sample, are not there.
        ShardError: the data set has a target already, or the cache is damaged, of another view or another geometry.
    """
    check_name(group, "the group's name")
    check_folder(cache)
    manifest = dataset.manifest
    if "target" in dataset.schema or group in manifest.groups:
        raise ShardError(f"{dataset.directory} has a target already; import into a data set built with --teacher none")
    opened = open_cache(cache)
    say(refuse_other_views({str(dataset.directory): view_hash(manifest), str(cache): opened.view}))
    rows = [_row_of(opened, dataset, number) for number in range(len(dataset))]
    positions = _positions(opened, dataset, tubes)
    example = _laid_out(opened.tokens(rows[0]), positions)
    layout: Layout = "tubes" if positions else "plain"
    try:
        field = Field(name="target", dtype=example.dtype.str, shape=example.shape, layout=layout, group=group)
    except ValueError as error:
        raise ShardError(f"{cache}: {error}") from None
    infos = _write_group(dataset, field, (_laid_out(opened.tokens(row), positions) for row in rows), progress)
    if opened.projection is not None:
        publish_bytes(dataset.directory / projection_name(group), opened.projection)
    about = {"source": "zarr cache", "cache": cache.name, "teacher": opened.teacher, "view_hash": opened.view}
    manifest = with_groups(manifest, [Group(group, (field,), infos, about)])
    manifest.write(dataset.directory)
    return manifest


def _write_group(
    dataset: ShardDataset, field: Field, targets: Iterator[NDArray[Any]], progress: Progress
) -> tuple[ShardInfo, ...]:
    """Write the series, the targets of all samples in order; after an exception nothing of it stays."""
    count, infos = dataset.num_shards, list[ShardInfo]()
    try:
        for shard in range(count):
            path = dataset.directory / shard_name(dataset.manifest.split, shard, count, field.group)
            with ShardWriter(path, Schema((field,))) as writer:
                for key in dataset.index(shard).keys:
                    writer.write(key, {field.name: next(targets)})
                    progress(1)
            infos.append(writer.info)
    except BaseException:
        for info in infos:
            (dataset.directory / info.name).unlink(missing_ok=True)
            index_path(dataset.directory / info.name).unlink(missing_ok=True)
        raise
    return tuple(infos)


def _positions(cache: ZarrCache, dataset: ShardDataset, tubes: bool) -> int | None:
    """Positions of a frame where the targets go into tubes, else None."""
    clip = dataset.schema["clip"]
    if not tubes or clip.layout != "tubes" or not clip.is_array or len(clip.fixed_shape) < 2:
        return None
    positions, times = clip.fixed_shape[:2]
    if cache.array.shape[1] != positions * times:
        raise ShardError(
            f"{cache.path} has {cache.array.shape[1]} tokens a sample, the clips of {dataset.directory} have "
            f"{times} times x {positions} positions = {times * positions}: the cache is of another geometry"
        )
    return positions


def _row_of(cache: ZarrCache, dataset: ShardDataset, number: int) -> int:
    """The row of a sample, by its key or else by its video's id."""
    key = dataset.key(number)
    if key in cache.rows:
        return cache.rows[key]
    video = dataset.metadata(number).get("video_id") if "json" in dataset.schema else None
    if str(video) not in cache.rows:
        raise MissingDataError(f"{cache.path} has no targets for sample {key!r}")
    return cache.rows[str(video)]


def _times(field: Field) -> int:
    return 1 if len(field.fixed_shape) == 2 else field.fixed_shape[1]


def _tokens(target: StoredValue) -> NDArray[Any]:
    array = np.asarray(target)
    return tubes_to_target(array) if array.ndim == 3 else array


def _laid_out(tokens: NDArray[Any], positions: int | None) -> NDArray[Any]:
    return tokens if positions is None else target_to_tubes(tokens, len(tokens) // positions)
