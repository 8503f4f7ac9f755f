"""Where items come from: Something-Something v2, a CSV table, or a plain folder of videos."""

from __future__ import annotations

from pathlib import Path

from shards.builder.item import Source
from shards.builder.sources.chat import load_chats
from shards.builder.sources.folder import load_folder, load_table
from shards.builder.sources.ssv2 import find_annotations, load_ssv2

__all__ = ["load_chats", "load_folder", "load_ssv2", "load_table", "open_source"]

TABLE_SUFFIXES = {".csv", ".tsv"}


def open_source(videos: Path, annotations: Path | None, split: str) -> Source:
    """Open the source that the arguments describe.

    Args:
        videos: folder of videos.
        annotations: a .csv or .tsv table, or the folder (or split file) of SSv2 annotations. None looks for those of
            SSv2 beside the videos, and takes a plain folder where there are none.
        split: such as "train".

    Raises:
        MissingDataError: something is not there; the message says where to get it and the layout expected.
        ShardError: the annotations cannot be read.
    """
    annotations = annotations or find_annotations(videos)
    if annotations is None:
        return load_folder(videos)
    if annotations.suffix.lower() in TABLE_SUFFIXES:
        return load_table(annotations, videos, split)
    return load_ssv2(videos, annotations, split)
