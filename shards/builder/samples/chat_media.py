"""What a chat is about, wherever an item says that it lies: a file, a part of a tar, a row of a parquet file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from shards.builder.decode.decoders import VideoDecoder
from shards.builder.decode.stream_facts import SourceFile, read_source_file
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.base import blame
from shards.builder.samples.pictures import Frames, JpegWriter, frames_of_images, frames_of_video
from shards.builder.sources.chat_parquet import images_of_row
from shards.builder.sources.folder import VIDEO_SUFFIXES
from shards.format.errors import ShardError


def read_frames(
    root: Path, item: Item, writer: JpegWriter, decoder: VideoDecoder
) -> tuple[Frames | None, SourceFile | None]:
    """Decode the video of an item, or its images; None where it has neither.

    The path of an item is its video, unless `extra` says otherwise: `images` are paths, `members` parts of the tar that
    the path names, `row` a row of the parquet file.

    Raises:
        BuildFailure: with the reason, when a file is not what it should be, or there are more images than frames are
            kept.
    """
    extra = item.extra
    if "images" in extra:
        paths = [root / path for path in extra["images"]]
        sources = [read_source_file(path) for path in paths]
        return _images([path.read_bytes() for path in paths], writer, sources)
    if "members" in extra:
        pieces = [_member(root / item.path, offset, size) for _, offset, size in extra["members"]]
        sources = [_source_of(piece) for piece in pieces]
        if f".{extra['members'][0][0].rpartition('.')[2].lower()}" not in VIDEO_SUFFIXES:
            return _images(pieces, writer, sources)
        with blame(sources[0]), _as_file(pieces[0]) as path:
            return frames_of_video(path, sources[0], writer, decoder), sources[0]
    if "row" in extra:
        pieces = _row(root / item.path, extra["row"])
        return _images(pieces, writer, [_source_of(piece) for piece in pieces]) if pieces else (None, None)
    if not item.path:
        return None, None
    source = read_source_file(root / item.path)
    with blame(source):
        return frames_of_video(root / item.path, source, writer, decoder), source


def _images(
    images: Sequence[bytes], writer: JpegWriter, sources: Sequence[SourceFile]
) -> tuple[Frames, SourceFile | None]:
    """Of several images no single file is the source."""
    most = writer.view.max_frames
    if most is not None and len(images) > most:
        found = f"it has {len(images)} images, and view.max_frames keeps {most}: an answer may be about any of them"
        raise BuildFailure("bad_annotation", found)
    return frames_of_images(images, writer), sources[0] if len(sources) == 1 else None


def _row(file: Path, row: Any) -> list[bytes]:
    try:
        return images_of_row(file, row)
    except ShardError as error:
        raise BuildFailure("open_error", str(error).replace(str(file), file.name)) from error


def _member(tar: Path, offset: int, size: int) -> bytes:
    try:
        with tar.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except FileNotFoundError:
        raise BuildFailure("missing_file", "there is no such tar") from None
    except OSError as error:
        raise BuildFailure("open_error", f"the tar cannot be read: {error.strerror}") from error
    if len(data) < size:
        raise BuildFailure("truncated", f"the tar ends after {len(data)} of the {size} bytes of this member")
    return data


def _source_of(data: bytes) -> SourceFile:
    if not data:
        raise BuildFailure("empty_file", "it has 0 bytes")
    return SourceFile(num_bytes=len(data), xxh3_128=xxhash.xxh3_128_hexdigest(data))


@contextmanager
def _as_file(data: bytes) -> Iterator[Path]:
    """A file of these bytes, in memory where that can be: it goes with the process, however that ends."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as temporary:
            temporary.write(data)
            temporary.flush()
            yield Path(temporary.name)
        return
    descriptor = os.memfd_create("reelshard-video")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
