"""Changes of a data set's files by somebody who computes all digests anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash

Record = dict[str, Any]
HUGE = 10**30
COLUMNS = ("offsets", "sizes", "checksums")


def write_manifest(directory: Path, change: Callable[[Record], object]) -> None:
    """Change the manifest and give it the digest that belongs to it."""
    path = directory / "dataset.json"
    record = json.loads(path.read_bytes())
    change(record)
    body = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    record["digest"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    path.write_bytes(json.dumps(record).encode("utf-8", "surrogatepass"))


def write_sidecar(path: Path, change: Callable[[Record], object]) -> None:
    """Change a sidecar's body and give it the digest that belongs to it."""
    body = msgpack.unpackb(msgpack.unpackb(path.read_bytes())["body"])
    change(body)
    packed = msgpack.packb(body)
    path.write_bytes(msgpack.packb({"format": 1, "digest": xxhash.xxh3_128_hexdigest(packed), "body": packed}))


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: list[Any] = [
    None,
    True,
    -1,
    HUGE,
    1.5,
    "x",
    "",
    [],
    {},
    [1],
    {"a": 1},
    deep(50),
    deep(100),
    "\ud800",
    "a" * 10_000,
]


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in paths_in(item, (*path, key)))]


def put(record: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = value


def as_u64(numbers: list[int]) -> bytes:
    return np.array(numbers, "<u8").tobytes()
