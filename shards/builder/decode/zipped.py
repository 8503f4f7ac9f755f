"""Files inside of zips. An item's path may lead into one, as in `MSRVTT_Videos.zip/video/video7.mp4`.

A member is copied into a scratch file that has no name, so it is gone with whoever holds it, a killed decoder too, and
nothing is ever written where an archive says. The zip's own CRC is compared on the way.
"""

from __future__ import annotations

import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from shards.builder.failure import BuildFailure
from shards.format.errors import ShardError

MAX_MEMBER_BYTES = 8 << 30
_MAX_RATIO = 100  # of a large member: videos hardly get smaller in a zip, bombs a thousandfold
_SMALL_BYTES = 64 << 20
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 0x1  # a bit of a member's flags
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in a zip.

    Attributes:
        name: its path there.
        identity: CRC and size: members that share them are the same file.
    """

    name: str
    identity: tuple[int, int]


def list_members(archive: Path) -> list[Member]:
    """Return the files in a zip, without what desktops hide there.

    Raises:
        ShardError: it is no whole zip, or not one that could be trusted.
    """
    infos = _open(archive).infolist()
    return [Member(info.filename, (info.CRC, info.file_size)) for info in infos if _is_plain(info)]


@contextmanager
def local_file(root: Path, path: str) -> Iterator[Path]:
    """Yield a file that programs can open: `root / path`, or what a zip on the way holds under the rest of the path.

    Raises:
        BuildFailure: the zip has no such member, or it cannot be read as it was written.
    """
    inside = enter_zip(root, path)
    if inside is None:
        yield root / path
        return
    with _scratch_file() as file:
        _copy(*inside, file)
        yield Path(f"/proc/self/fd/{file.fileno()}")


def enter_zip(root: Path, path: str) -> tuple[Path, str] | None:
    """Return the zip that a path leads into and the name in it; None where it leads through folders only."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1], start=1):
        if part.lower().endswith(".zip") and (archive := root / "/".join(parts[:number])).is_file():
            return archive, "/".join(parts[number:])
    return None


def read_text(root: Path, path: str) -> str:
    """Return a text file of a download, in a folder or in a zip: UTF-8, with or without a byte order mark.

    Raises:
        ShardError: it cannot be read, or is not text.
    """
    try:
        with local_file(root, path) as file:
            return file.read_text(encoding="utf-8-sig")
    except (BuildFailure, OSError, UnicodeDecodeError) as error:
        raise ShardError(f"{root / path} cannot be read as text: {error}; download it again") from None


def has_content(root: Path, path: str) -> bool:
    """Tell whether a file, or a member of a zip, has any bytes.

    Raises:
        OSError: it is not there.
    """
    inside = enter_zip(root, path)
    if inside is None:
        return (root / path).stat().st_size > 0
    try:
        return _info(*inside).file_size > 0
    except (BuildFailure, ShardError) as error:
        raise FileNotFoundError(str(error)) from None


def _open(archive: Path) -> zipfile.ZipFile:
    """Open a zip once in a process, and again when it has changed.

    Raises:
        ShardError: it is no whole zip, or not one that could be trusted.
    """
    found = archive.stat()
    return _opened(archive, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _opened(archive: Path, num_bytes: int, modified_ns: int) -> zipfile.ZipFile:
    try:
        opened = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise ShardError(
            f"{archive} ({num_bytes} bytes) cannot be read as a zip: {error}; download it again, whole"
        ) from None
    names = [info.orig_filename for info in opened.infolist()]
    if hostile := [name for name in names if _is_hostile(name)]:
        raise ShardError(
            f"{archive} has a member named {hostile[0][:100]!r}, which no official archive has: nothing of it is used; "
            "download it again from its official place"
        )
    last = 0
    for info in sorted(opened.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < last:
            raise ShardError(
                f"{archive}: the member {info.filename[:100]!r} overlaps another, as in zips that are made to grow "
                "without end; download it again from its official place"
            )
        last = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size
    return opened


def _is_hostile(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or not name.isprintable()


def _is_plain(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return not (info.is_dir() or hidden or stat.S_ISLNK(info.external_attr >> 16))


def _info(archive: Path, name: str) -> zipfile.ZipInfo:
    found = _by_name(_open(archive)).get(name, 0)
    if isinstance(found, zipfile.ZipInfo):
        return found
    if found:
        raise BuildFailure("duplicate_id", f"{archive.name} has {found} members named {name!r}: which is meant?")
    raise BuildFailure("missing_file", f"{archive.name} has no member {name!r}")


@lru_cache(maxsize=8)
def _by_name(opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo | int]:
    """Members by name; the number of those that share it where it is not one."""
    counts = Counter(info.filename for info in opened.infolist())
    return {info.filename: info if counts[info.filename] == 1 else counts[info.filename] for info in opened.infolist()}


def _copy(archive: Path, name: str, file: IO[bytes]) -> None:
    try:
        info = _info(archive, name)
    except ShardError as error:  # it has changed since the plan was made
        raise BuildFailure("open_error", str(error).replace(str(archive), archive.name)) from None
    _refuse_strange(archive, info)
    try:
        with _open(archive).open(info) as member:
            while chunk := member.read(_COPY_BYTES):
                _write(file, chunk)
        if file.tell() != info.file_size:
            raise EOFError(f"it has {file.tell()} of {info.file_size} bytes")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise BuildFailure("open_error", f"its bytes in {archive.name} cannot be read: {found}") from None


def _scratch_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="reelshard-", buffering=0)
    except OSError as error:
        raise _no_room(error) from None


def _write(file: IO[bytes], chunk: bytes) -> None:
    left = memoryview(chunk)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> BuildFailure:
    cure = "set TMPDIR to a folder with room, and build again with --retry-failures"
    return BuildFailure("open_error", f"there is no room to take it out of its zip: {error.strerror}; {cure}")


def _refuse_strange(archive: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise BuildFailure("open_error", f"it is encrypted in {archive.name}; no official archive is")
    small = max(_SMALL_BYTES, _MAX_RATIO * info.compress_size)
    if info.file_size > min(MAX_MEMBER_BYTES, small):
        sizes = f"{info.compress_size} bytes that say they are {info.file_size} unpacked"
        raise BuildFailure("open_error", f"{archive.name} holds it as {sizes}: that is no video")
