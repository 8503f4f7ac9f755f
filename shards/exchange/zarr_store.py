"""Opening a Zarr cache of targets that others may have made: see `shards.exchange.zarr` for what it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.exchange.names import NAMES
from shards.format.beside import projection_name, projection_sha256
from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.parse import count, mapping, parse_json
from shards.format.publish import canonical_json

STORE_NAME, ARRAY_NAME, META_NAME = "targets.zarr", "targets", "meta.jsonl"
ATTRIBUTE = "reelshard"


class UnusableRowError(ShardError):
    """A row of a cache that is not what was written there."""


@dataclass(frozen=True)
class ZarrCache:
    """An open cache.

    Attributes:
        array: `[rows, N, D]`.
        rows: row by the name of its sample.
        teacher: what is known of the teacher.
        view: hash of the view, if it is known.
        projection: the teacher's projection, if there was one.
    """

    path: Path
    array: Any
    rows: Mapping[str, int]
    teacher: dict[str, Any] | None
    view: str | None
    projection: bytes | None

    def tokens(self, row: int) -> NDArray[Any]:
        """One row, `[N, D]`, little-endian.

        Raises:
            UnusableRowError: it cannot be read, was never written, or holds a value that is not finite.
        """
        try:
            tokens = np.asarray(self.array[row])
        except Exception as error:  # a codec's ways to fail are not listed anywhere
            raise UnusableRowError(f"{self.path}: row {row} cannot be read: {type(error).__name__}: {error}") from None
        if (tokens == self.array.fill_value).all():
            raise UnusableRowError(f"{self.path}: row {row} holds its fill value alone: it was never written")
        if tokens.dtype.kind == "f" and not np.isfinite(tokens).all():
            raise UnusableRowError(f"{self.path}: row {row} holds a value that is not finite")
        return tokens.astype(tokens.dtype.newbyteorder("<"), copy=False)


def open_cache(cache: Path) -> ZarrCache:
    """Open a cache and read what its lines say.

    Raises:
        MissingDataError: a part of it is not there.
        ShardError: a part is damaged, or parts do not fit together.
    """
    zarr = zarr_package()
    for name in (STORE_NAME, META_NAME):
        if not (cache / name).exists():
            raise MissingDataError(
                f"{cache} has no {name}: a Zarr cache is a folder with {STORE_NAME}/{ARRAY_NAME} and {META_NAME}"
            )
    inner = cache / STORE_NAME / ARRAY_NAME
    store = inner if inner.is_dir() else cache / STORE_NAME
    try:
        array = zarr.open_array(str(store), mode="r")
        attributes = parse_json(canonical_json(dict(array.attrs)))
    except Exception as error:  # zarr's ways to refuse metadata are not listed anywhere
        raise ShardError(f"{store} is not a readable Zarr array: {type(error).__name__}: {error}") from None
    if array.ndim != 3 or 0 in array.shape:
        raise ShardError(f"{store} is an array of shape {array.shape}; targets are [samples, tokens, width]")
    rows, views = _read_meta(cache / META_NAME, array.shape[0])
    about = attributes.get(ATTRIBUTE)
    about = about if isinstance(about, dict) else {}
    teacher = about.get("teacher") if isinstance(about.get("teacher"), dict) else None
    views |= {about["view_hash"]} if isinstance(about.get("view_hash"), str) else set()
    if len(views) > 1:
        raise ShardError(f"{cache} holds targets of several views: {', '.join(sorted(views))}")
    projection = None
    if teacher is not None and isinstance(teacher.get("projection"), dict):
        projection = read_projection(cache / projection_name(), teacher["projection"].get("sha256"))
    return ZarrCache(cache, array, rows, teacher, next(iter(views), None), projection)


def _read_meta(path: Path, num_rows: int) -> tuple[dict[str, int], set[str]]:
    """Row by sample, and the hashes of all views that the lines name."""
    rows: dict[str, int] = {}
    views: set[str] = set()
    lines = read_small(path).splitlines()
    seen: set[int] = set()
    explicit = 0
    for number, line in enumerate(lines):
        try:
            record = mapping(parse_json(line), "a line")
            explicit += "index" in record
            row = count(record.get("index", number), "the index", num_rows - 1)
            name = next((record[name] for name in NAMES if name in record), None)
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise ValueError("it needs a key, a video_id or an id")
            if row in seen or str(name) in rows:
                raise ValueError(f"sample {str(name)!r} or row {row} was named before")
        except ValueError as error:
            raise ShardError(f"{path}, line {number + 1}: {error}") from None
        seen.add(row)
        rows[str(name)] = row
        if isinstance(record.get("view_hash"), str):
            views.add(record["view_hash"])
    if explicit not in (0, len(lines)) or (not explicit and len(lines) != num_rows):
        raise ShardError(
            f"{path} has {len(lines)} lines, {explicit} with an index; the array has {num_rows} rows: give an index in "
            "every line, or a line for every row"
        )
    return rows, views


def read_projection(path: Path, expected: object) -> bytes:
    """Read a projection whose numbers have the sha256 `expected`.

    Raises:
        MissingDataError: it is not there.
        ShardError: it is damaged, or another one.
    """
    try:
        data = read_small(path)
        found = projection_sha256(data)
    except FileNotFoundError:
        raise MissingDataError(f"{path} is missing: the teacher's provenance speaks of it; restore it") from None
    except ValueError as error:
        raise ShardError(f"{path} is damaged: {error}; restore it") from None
    if found != expected:
        raise ShardError(f"{path} is another projection: sha256 {found}, expected {expected}; restore it")
    return data


def zarr_package() -> Any:
    """The package `zarr`, which is an extra.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise ValueError("a Zarr cache needs the package zarr: pip install 'reelshard[zarr]'") from None
    return zarr
