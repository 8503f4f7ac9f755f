"""Chats in parquet, as the Hub has The Cauldron (`images`, `texts`) and SmolTalk (`messages`, `source`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from shards.builder.item import Item, Source
from shards.builder.sources.chat_records import item_of
from shards.format.errors import MissingDataError, ShardError

PARQUET = ".parquet"
_SAID = ("id", "messages", "conversations", "texts", "caption", "source")
_EXPECTED = "columns of chats are `messages` (SmolTalk), or `images` and `texts` (The Cauldron)"
_ROWS = 1024


def find_parquet(place: Path) -> list[Path]:
    """The parquet files of a folder and those below it, by name; or the file itself.

    Raises:
        MissingDataError: there is none.
    """
    files = [place] if place.is_file() else sorted(place.rglob(f"*{PARQUET}"))
    if not files:
        raise MissingDataError(f"there is no {PARQUET} file in {place}; {_EXPECTED}")
    return files


def load_chat_parquet(place: Path) -> Source:
    """Read the chats of a parquet file, or of all in a folder; images are read when a sample is built.

    Raises:
        MissingDataError: there is no such file.
        ShardError: a file is not parquet, or has other columns; or pyarrow is not installed.
    """
    files = find_parquet(place)
    root = place if place.is_dir() else place.parent
    items = tuple(item for file in files for item in _items(file, file.relative_to(root)))
    if not items:
        raise MissingDataError(f"{place} holds no chat; {_EXPECTED}")
    return Source(kind="chat_parquet", root=root, items=items)


def _items(file: Path, name: Path) -> Iterator[Item]:
    opened = open_parquet(file)
    columns = [column for column in _SAID if column in opened.schema_arrow.names]
    if not {"messages", "conversations", "texts", "caption"}.intersection(columns):
        found = ", ".join(opened.schema_arrow.names)
        raise ShardError(f"{file} has the columns {found}; {_EXPECTED}")
    with_images = "images" in opened.schema_arrow.names
    stem, number = name.with_suffix("").as_posix(), 0
    for batch in opened.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
        for row in batch.to_pylist():
            item = item_of(_record(row), f"{stem}-{number:06d}")
            if with_images:
                item = replace(item, path=name.as_posix(), extra={**item.extra, "row": number})
            yield item
            number += 1


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what it leaves empty; of pairs that name a source each, that of the first."""
    record = {column: value for column, value in row.items() if value is not None}
    texts = record.get("texts")
    if "source" not in record and isinstance(texts, list) and texts and isinstance(texts[0], dict):
        record |= {"source": texts[0]["source"]} if texts[0].get("source") else {}
    return record


def images_of_row(file: Path, row: int) -> list[bytes]:
    """The images of a row as they are encoded. Only its row group is read.

    Raises:
        ShardError: the file is not what it was, or pyarrow is not installed.
    """
    opened = open_parquet(file)
    first = 0
    for group in range(opened.num_row_groups):
        count = opened.metadata.row_group(group).num_rows
        if row < first + count:
            column = opened.read_row_group(group, columns=["images"], use_threads=False).column("images")
            images = column[row - first].as_py() or []
            return [image["bytes"] or b"" if isinstance(image, dict) else image for image in images]
        first += count
    raise ShardError(f"{file} has {first} rows, row {row} is wanted: it has changed")


def open_parquet(file: Path) -> Any:
    """Open a parquet file.

    Raises:
        MissingDataError: it is not there.
        ShardError: it is not parquet, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ShardError(
            f"{file} is parquet, for which pyarrow is needed: pip install 'reelshard[parquet]', or convert it to JSONL"
        ) from None
    try:
        return parquet.ParquetFile(file)
    except FileNotFoundError:
        raise MissingDataError(f"there is no file {file}") from None
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise ShardError(f"{file} is not readable parquet: {' '.join(str(error).split())}") from None
