"""Tars as other tools write them, whole and hostile; nothing in them is of ours."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LONG = "a-folder-with-a-long-name/" * 5


def npy(array: NDArray[np.generic]) -> bytes:
    """An array as `np.save` writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_tar(
    path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT
) -> Path:
    """A tar of these members, with owners, times and folders as a user's tar has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        folder = tarfile.TarInfo("./")
        folder.type, folder.mtime = tarfile.DIRTYPE, 1_700_000_000
        tar.addfile(folder)
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.uname = len(data), 1_700_000_000, 1000, "somebody"
            tar.addfile(info, io.BytesIO(data))
    return path


def pictures(first: int, count: int) -> dict[str, bytes]:
    """Samples as stock tools write them: a picture (of any bytes), a text, a class, an array."""
    members = {}
    for number in range(first, first + count):
        members[f"{number:05d}.jpg"] = bytes((number + place) % 256 for place in range(50 + 37 * number))
        members[f"{number:05d}.txt"] = f"picture {number}".encode()
        members[f"{number:05d}.cls"] = str(number % 3).encode()
        members[f"{number:05d}.emb.npy"] = npy(np.arange(5, dtype=np.float32) + number)
    return members


def sparse(path: Path) -> Path:
    """A tar with a member in GNU's sparse format 1.0, as `tar --sparse --format=posix` writes it."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.1/00000.bin")
        data = b"1\n0\n4\n".ljust(512, b"\0") + b"data"
        info.size = len(data)
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "00000.bin",
            "GNU.sparse.realsize": "100000",
        }
        tar.addfile(info, io.BytesIO(data))
    return path
