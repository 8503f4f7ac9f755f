"""A plain folder of videos, or a table (CSV, TSV) that lists them with labels or captions."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from shards.builder.item import Item, Source
from shards.format.errors import MissingDataError, ShardError

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # noqa: SIM905
)
_COLUMNS = {"path": ("path", "video", "file"), "label": ("label", "class"), "text": ("text", "caption")}
_TABLE = "a table needs a header line with a column 'path' and, optionally, 'id', 'label', 'text' and 'split'"


def load_folder(videos: Path) -> Source:
    """List the videos of a folder, subfolders included, by name.

    Where every video lies in a subfolder, the first subfolder is its class, as in `VIDEOS/jumping/a.mp4`.

    Raises:
        MissingDataError: there is no such folder, or no video in it.
    """
    if not videos.is_dir():
        raise MissingDataError(f"there is no folder of videos at {videos}; give the folder that holds them as --videos")
    files = (path for path in videos.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    paths = sorted(path.relative_to(videos).as_posix() for path in files)
    if not paths:
        raise MissingDataError(
            f"there is no video in {videos}; looked for files ending in {', '.join(sorted(VIDEO_SUFFIXES))}. "
            "For Something-Something v2 give its annotations folder too; --source ssv2 (ucf101, msrvtt, msvd) says "
            "where to get a data set and how it lies there"
        )
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    classes = sorted({parts[0] for parts in folders}) if all(folders) else []
    items = tuple(
        Item(id=name, path=path, label=classes.index(parts[0]), label_name=parts[0])
        if classes
        else Item(id=name, path=path)
        for name, path, parts in zip(_names(paths), paths, folders, strict=True)
    )
    return Source(kind="folder", root=videos, items=items, label_names=tuple(classes))


def load_table(table: Path, videos: Path, split: str) -> Source:
    """Read a CSV (or TSV) file with a header.

    Columns: `path` (or `video`, `file`), relative to `videos`; optionally `id`, `label` (or `class`; numbers or names),
    `text` (or `caption`) and `split`. Classes are numbered over the whole table, so splits agree.

    Raises:
        MissingDataError: the table is not there, or has no row of this split.
        ShardError: the table cannot be read.
    """
    if not table.is_file():
        raise MissingDataError(f"there is no table at {table}; {_TABLE}")
    if not videos.is_dir():
        raise MissingDataError(f"there is no folder of videos at {videos}; the table's paths are relative to it")
    rows = _read_rows(table)
    classes, numbered = _classes(row.get("label") for row in rows)
    chosen = [row for row in rows if row.get("split", split) == split]
    if not chosen:
        splits = sorted({row.get("split", "") for row in rows})
        raise MissingDataError(f"{table} has no row of split {split!r}; its splits are {', '.join(splits) or 'none'}")
    names = _names([row["path"] for row in chosen])
    items = tuple(_table_item(row, name, classes, numbered) for row, name in zip(chosen, names, strict=True))
    return Source(kind="table", root=videos, items=items, label_names=tuple(classes))


def _names(paths: Sequence[str]) -> list[str]:
    """Name videos by their path without suffix; where two would share a key, by the path with suffix."""
    short = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    count = Counter(Item(id=name, path="").key for name in short)
    return [name if count[Item(id=name, path="").key] == 1 else path for name, path in zip(short, paths, strict=True)]


def _read_rows(table: Path) -> list[dict[str, str]]:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        header = list(reader.fieldnames or [])
        rename = {name: column for column, names in _COLUMNS.items() for name in names if name in header}
        if "path" not in rename.values():
            raise ShardError(f"{table} has the columns {', '.join(header) or '(none)'}; {_TABLE}")
        rows = [{rename.get(name, name): value for name, value in row.items() if name and value} for row in reader]
    for number, row in enumerate(rows, start=2):
        if "path" not in row:
            raise ShardError(f"{table}, line {number}: the path is empty")
    return rows


def _classes(labels: Iterable[str | None]) -> tuple[list[str], bool]:
    """Return class names by number, and whether the labels were numbers already."""
    found = {label for label in labels if label is not None}
    if found and all(label.isdecimal() for label in found):
        return [str(number) for number in range(max(map(int, found)) + 1)], True
    return sorted(found), False


def _table_item(row: dict[str, str], name: str, classes: Sequence[str], numbered: bool) -> Item:
    label = row.get("label")
    number = None if label is None else int(label) if numbered else classes.index(label)
    return Item(
        id=row.get("id", name),
        path=row["path"],
        label=number,
        label_name=None if number is None else classes[number],
        text=row.get("text"),
    )
