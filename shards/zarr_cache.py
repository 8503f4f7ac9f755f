"""Targets as a Zarr cache (`targets.zarr`, `meta.jsonl`) and back, for tools that know nothing of shards.

`targets.zarr` is one array f16 `[num_samples, N, D]`, a chunk per sample, tokens in the order i = t * S + s. Line k of
`meta.jsonl` is the JSON of row k: the sample's own, and its `key`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.dataset import ShardDataset
from shards.errors import MissingDataError, ShardError
from shards.index import ShardInfo
from shards.layout import target_to_tubes, tubes_to_target
from shards.manifest import Manifest, shard_name
from shards.publish import canonical_json
from shards.schema import Field, Layout, Schema
from shards.writer import ShardWriter

ARRAY_NAME, META_NAME = "targets.zarr", "meta.jsonl"
Report = Callable[[int, int], None]


def export_targets(
    dataset: ShardDataset, directory: Path, *, field: str = "target", report: Report | None = None
) -> None:
    """Write the targets of a data set as a Zarr cache; `directory` appears whole or not at all.

    Args:
        dataset: read sample by sample, with checksums.
        directory: must not exist.
        field: the array field to export, in the tubes layout or `[N, D]`.
        report: called with (samples done, 0).

    Raises:
        ValueError: the field is not one of targets.
        ShardError: `directory` is there already, or a sample is damaged.
    """
    zarr = _zarr()
    description = dataset.schema[field]
    if description.shape is None or len(description.shape) not in (2, 3):
        raise ValueError(f"field {field} has shape {description.shape}; targets are [N, D], or [S, T', D] in tubes")
    if directory.exists():
        raise ShardError(f"{directory} is there already; give a new folder")
    temporary = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        shape = (len(dataset), description.num_positions * _times(description), description.shape[-1])
        array = zarr.create_array(
            str(temporary / ARRAY_NAME), shape=shape, chunks=(1, *shape[1:]), dtype=description.dtype, compressors=None
        )
        with (temporary / META_NAME).open("wb") as meta:
            for number in range(len(dataset)):
                array[number] = _tokens(dataset.read(number, field))
                record = dataset.metadata(number) if "json" in dataset.schema else {}
                meta.write(canonical_json(record | {"key": dataset.key(number)}) + b"\n")
                if report:
                    report(number + 1, 0)
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def import_targets(
    cache: Path, dataset: ShardDataset, *, group: str = "zarr", tubes: bool = True, report: Report | None = None
) -> Manifest:
    """Add the targets of a Zarr cache to a data set of clips, as a field group: the clips' shards are not touched.

    Args:
        cache: folder with `targets.zarr` and `meta.jsonl`; a line's `key`, `video_id` or `id` names the sample.
        dataset: the clips; must not have a target yet.
        group: name of the new tar series.
        tubes: write the tubes layout (the clips' number of positions), else `[N, D]`.
        report: called with (samples done, 0).

    Returns:
        The new manifest, already written.

    Raises:
        MissingDataError: a part of the cache, or the targets of a sample, are not there.
        ShardError: the data set has a target already.
    """
    if "target" in dataset.schema:
        raise ShardError(f"{dataset.directory} has a target already; import into a data set built with --teacher none")
    array, rows = _open_cache(cache)
    clip = dataset.schema["clip"]
    positions = clip.num_positions if tubes and clip.layout == "tubes" else None
    example = _laid_out(array[0], positions)
    layout: Layout = "tubes" if positions else "plain"
    field = Field(name="target", dtype=example.dtype.str, shape=example.shape, layout=layout, group=group)
    count, number, infos = dataset.num_shards, 0, list[ShardInfo]()
    for shard in range(count):
        path = dataset.directory / shard_name(dataset.manifest.split, shard, count, group)
        with ShardWriter(path, Schema((field,))) as writer:
            for key in dataset.index(shard).keys:
                if key not in rows:
                    raise MissingDataError(f"{cache} has no targets for sample {key!r}")
                writer.write(key, {"target": _laid_out(array[rows[key]], positions)})
                number += 1
                if report:
                    report(number, 0)
        infos.append(writer.info)
    old = dataset.manifest
    manifest = replace(
        old,
        schema=Schema((*old.schema.fields, field)),
        groups={**old.groups, group: tuple(infos)},
        provenance={**old.provenance, "imported_targets": {"cache": cache.name, "dtype": field.dtype}},
    )
    manifest.write(dataset.directory)
    return manifest


def _open_cache(cache: Path) -> tuple[Any, Mapping[str, int]]:
    zarr = _zarr()
    for name in (ARRAY_NAME, META_NAME):
        if not (cache / name).exists():
            raise MissingDataError(f"{cache} has no {name}: a Zarr cache is a folder with {ARRAY_NAME} and {META_NAME}")
    array = zarr.open_array(str(cache / ARRAY_NAME), mode="r")
    lines = (cache / META_NAME).read_text(encoding="utf-8").splitlines()
    if array.ndim != 3 or len(lines) != array.shape[0]:
        raise ShardError(f"{cache}: {len(lines)} lines of {META_NAME} do not describe an array of shape {array.shape}")
    rows = {}
    for row, line in enumerate(lines):
        record = json.loads(line)
        names = [str(record[key]) for key in ("key", "video_id", "id") if key in record]
        if not names:
            raise ShardError(f"{cache / META_NAME}, line {row + 1}: needs a key, a video_id or an id")
        rows[names[0]] = row
    return array, rows


def _times(field: Field) -> int:
    return 1 if field.shape is None or len(field.shape) == 2 else field.shape[1]


def _tokens(target: NDArray[Any] | bytes) -> NDArray[Any]:
    array = np.asarray(target)
    return tubes_to_target(array) if array.ndim == 3 else array


def _laid_out(tokens: NDArray[Any], positions: int | None) -> NDArray[Any]:
    return tokens if positions is None else target_to_tubes(tokens, len(tokens) // positions)


def _zarr() -> Any:
    try:
        import zarr
    except ImportError:
        raise ValueError("a Zarr cache needs the package zarr: pip install 'reelshard[zarr]'") from None
    return zarr
