"""WebVid's own list: `results_2M_train.csv` and the like, whose videos are `PAGE_DIR/VIDEOID.mp4`."""

from __future__ import annotations

import csv
from pathlib import Path

from shards.builder.item import Item, Source
from shards.format.errors import MissingDataError, ShardError

COLUMNS = ("videoid", "name", "page_dir")  # in any order, among others; `name` is the caption


def is_webvid(table: Path) -> bool:
    """Tell whether a file is such a list, by its first line."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return set(COLUMNS) <= set(next(csv.reader(file), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def load_webvid(table: Path, videos: Path) -> Source:
    """Read the list.

    Args:
        table: the file.
        videos: folder with `PAGE_DIR/VIDEOID.mp4`.

    Raises:
        MissingDataError: there is no such folder, or the list is empty.
        ShardError: a line does not say where its video is.
    """
    if not videos.is_dir():
        raise MissingDataError(f"there is no folder of videos at {videos}; WebVid's are in it as PAGE_DIR/VIDEOID.mp4")
    items = []
    with table.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            name, page = row["videoid"] or "", row["page_dir"] or ""
            if not name or set("/\\\0") & set(name) or page.startswith("/") or ".." in page.split("/"):
                where = f"{table}, video {name!r}"
                raise ShardError(f"{where}: page_dir is {page!r}; a folder and the id of a video are expected")
            path = f"{page}/{name}.mp4" if page else f"{name}.mp4"
            items.append(Item(id=name, path=path, text=row["name"], extra={"source": "webvid"}))
    if not items:
        raise MissingDataError(f"{table} lists no video")
    return Source(kind="webvid", root=videos, items=tuple(items))
