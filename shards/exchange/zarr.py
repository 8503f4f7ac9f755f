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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.builder.add_group import AT_ONCE, add_group, refuse_taken
from shards.builder.build import BuildSummary
from shards.dataset import ShardDataset
from shards.drop_group import drop_group
from shards.exchange.names import match_samples, refuse_unmatched
from shards.exchange.zarr_rows import ZarrKind, items_of_rows
from shards.exchange.zarr_store import (
    ARRAY_NAME,
    ATTRIBUTE,
    META_NAME,
    STORE_NAME,
    UnusableRowError,
    open_cache,
    read_projection,
    zarr_package,
)
from shards.format.beside import projection_name, teacher_of
from shards.format.errors import ShardError
from shards.format.layout import tubes_to_target
from shards.format.manifest import Manifest, check_folder, refuse_url
from shards.format.parse import check_name
from shards.format.publish import canonical_json, temporary_path
from shards.format.schema import Field
from shards.format.views import refuse_other_views, view_hash
from shards.payload import StoredValue
from shards.progress import Progress, untold

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
    progress: Progress = untold,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Add the targets of a Zarr cache as the field `target` to a data set of clips that has none; see `add_zarr`.

    Returns:
        The new manifest, already written.

    Raises:
        ShardError: the data set has a target already, or as of `add_zarr`.
    """
    dataset.refuse_elsewhere()
    check_name(group, "the group's name")
    check_folder(cache)
    if "target" in dataset.schema and dataset.schema["target"].group != group:
        raise ShardError(f"{dataset.directory} has a target already; import into a data set built with --teacher none")
    add_zarr(dataset, group, cache, field="target", progress=progress, say=say)
    return Manifest.read(dataset.directory)


def add_zarr(
    dataset: ShardDataset,
    group: str,
    cache: Path,
    *,
    field: str | None = None,
    tubes: bool = True,
    progress: Progress = untold,
    say: Callable[[str], None] = lambda line: None,
) -> BuildSummary:
    """Add the targets of a Zarr cache to a data set of clips, as a field group: the clips' shards are not touched.

    Args:
        dataset: the clips; must not have the field yet.
        group: name of the new tar series.
        cache: folder with `targets.zarr` and `meta.jsonl`; a line's `key`, `video_id` or `id` names the sample.
        field: name of the new field; None takes that of the group.
        tubes: write the tubes layout (the clips' number of positions), else `[N, D]`.
        progress: called with (samples done, 0) since its last call.
        say: takes a line for the user: whether the views could be compared.

    Raises:
        ValueError: the group's or the field's name is not allowed.
        MissingDataError: a part of the cache, or the targets of a sample, are not there.
        ShardError: the data set has such a field already, or the cache is damaged, of another view or another geometry.
    """
    field = group if field is None else field
    refuse_taken(dataset, group, [field])
    check_folder(cache)
    opened = open_cache(cache)
    say(refuse_other_views({str(dataset.directory): view_hash(dataset.manifest), str(cache): opened.view}))
    matched = match_samples(dataset, opened.rows)
    refuse_unmatched(str(cache), "no targets", dataset, matched)
    items = items_of_rows(dataset, [opened.rows[name] for name in matched if name is not None])
    kind = ZarrKind.of(opened, dataset, group, field, tubes=tubes)
    files = {} if opened.projection is None else {projection_name(): opened.projection}
    try:
        return add_group(dataset, group, kind, items, AT_ONCE, files=files, progress=progress)
    except UnusableRowError:  # what the rows before it were is not to be trusted either
        drop_group(dataset.directory, group)
        raise


def _times(field: Field) -> int:
    return 1 if len(field.fixed_shape) == 2 else field.fixed_shape[1]


def _tokens(target: StoredValue) -> NDArray[Any]:
    array = np.asarray(target)
    return tubes_to_target(array) if array.ndim == 3 else array
