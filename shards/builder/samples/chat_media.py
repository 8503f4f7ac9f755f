"""What a chat is about, as an item names it: a video, images, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shards.builder.decode.decoders import VideoDecoder
from shards.builder.decode.stream_facts import SourceFile, read_source_file
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.base import blame
from shards.builder.samples.pictures import Frames, JpegWriter, frames_of_images, frames_of_video


def read_frames(
    root: Path, item: Item, writer: JpegWriter, decoder: VideoDecoder
) -> tuple[Frames | None, SourceFile | None]:
    """Decode the video of an item, or its images; None where it has neither.

    An item's path is its video, or its only image; `extra["images"]` lists several.

    Raises:
        BuildFailure: with the reason, when a file is not what it should be, or there are more images than frames are
            kept.
    """
    images = item.extra.get("images")
    if images is not None:
        return _images(root, images, writer)
    if not item.path:
        return None, None
    source = read_source_file(root / item.path)
    with blame(source):
        return frames_of_video(root / item.path, source, writer, decoder), source


def _images(root: Path, paths: Sequence[str], writer: JpegWriter) -> tuple[Frames, SourceFile | None]:
    most = writer.view.max_frames
    if most is not None and len(paths) > most:
        found = f"it has {len(paths)} images, and view.max_frames keeps {most}: an answer may be about any of them"
        raise BuildFailure("bad_annotation", found)
    sources = [read_source_file(root / path) for path in paths]
    source = sources[0] if len(sources) == 1 else None
    return frames_of_images([(root / path).read_bytes() for path in paths], writer), source
