"""Reading files that others may have put there: regular ones only, so that nothing waits for a pipe or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from shards.format.errors import ShardError

MAX_SMALL_BYTES = 1 << 30  # a manifest of five million shards, or the sidecar of ten million samples


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Raises:
        FileNotFoundError: there is nothing.
        ShardError: there is a folder, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ShardError(f"{os.fspath(path)} is not a file, but a folder, a pipe or a device")
    return os.fdopen(descriptor, "rb")


def read_small(path: Path) -> bytes:
    """The contents of a file that has to fit into memory.

    Raises:
        FileNotFoundError: there is none.
        ShardError: it is not a regular file, or larger than any of ours.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_SMALL_BYTES:
            raise ShardError(f"{path} has {size} bytes; a file of its kind has at most {MAX_SMALL_BYTES}")
        return file.read()
