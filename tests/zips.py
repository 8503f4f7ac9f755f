"""Zips of a few members for tests, and what is read out of them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from shards.builder import Item, Source
from shards.builder.decode.zipped import local_file
from shards.builder.failure import BuildFailure


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in members.items():
            out.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def listed(root: Path, *paths: str) -> Source:
    return Source(kind="table", root=root, items=tuple(Item(id=Path(path).stem, path=path) for path in paths))


def read(root: Path, path: str) -> bytes:
    with local_file(root, path) as file:
        return file.read_bytes()


def failure(root: Path, path: str) -> BuildFailure:
    with pytest.raises(BuildFailure) as caught, local_file(root, path):
        raise AssertionError(path)
    assert "\n" not in caught.value.message
    assert str(root) not in caught.value.message  # the same line wherever the data lies
    return caught.value
