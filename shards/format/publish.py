"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from shards.format.errors import ShardError

TEMPORARY_SUFFIX = ".tmp"


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other writer uses.

    Raises:
        ShardError: `path` may not be replaced, see `publish_file`.
    """
    _refuse_what_is_no_file(path)
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def publish_file(temporary: Path, path: Path) -> None:
    """Give a finished, synced temporary file its name, and make the name itself durable.

    Raises:
        ShardError: `path` is there and is no regular file. A rename would take the place of a device, a pipe or a link.
    """
    _refuse_what_is_no_file(path)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _refuse_what_is_no_file(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise ShardError(f"{path} is a link, and nothing is written through links: give the path it points to")
    if not stat.S_ISREG(mode):
        raise ShardError(f"{path} is a folder, a device or a pipe; only a regular file is replaced: give another name")


def publish_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`: a reader sees the old file or the new one, never a part."""
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish_file(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling for one value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def publish_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON (sorted keys, indented), whole or not at all."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    publish_bytes(path, text.encode() + b"\n")


def remove_temporaries(directory: Path) -> int:
    """Delete what killed writers left in `directory`; returns how many files that were."""
    stale = list(directory.glob(f"*{TEMPORARY_SUFFIX}"))
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)
