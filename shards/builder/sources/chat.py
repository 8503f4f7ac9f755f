"""Chats about videos, images or nothing, in JSONL or JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from shards.builder.item import Item, Source
from shards.builder.sources.chat_records import SHAPES, item_of
from shards.format.errors import MissingDataError, ShardError

JSON_SUFFIXES = (".jsonl", ".json")


def load_chats(annotations: Path, videos: Path | None = None) -> Source:
    """Read chats, one a line of JSONL, or a JSON file that is a list of them.

    Args:
        annotations: the file.
        videos: folder that paths are relative to; None is the file's own.

    Raises:
        MissingDataError: a file or folder is not there, or holds no chat.
        ShardError: the file is not JSON.
    """
    videos = videos or annotations.parent
    if not annotations.is_file():
        raise MissingDataError(f"there is no file of chats at {annotations}; {SHAPES}")
    if not videos.is_dir():
        raise MissingDataError(f"there is no folder of videos at {videos}; the paths of chats are relative to it")
    items = [item_of(record, f"{annotations.stem}-{number:08d}") for number, record in _records(annotations)]
    if not items:
        raise MissingDataError(f"{annotations} holds no chat; {SHAPES}")
    if all(item.problem for item in items):
        problem = items[0].problem
        assert problem is not None
        raise ShardError(f"{annotations}: no record is a chat; of the first one: {problem[1]}")
    return Source(kind="chat", root=videos, items=tuple(_told_apart(items)))


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Records with their numbers, from 0 on.

    Raises:
        ShardError: the file is not JSON, or not text.
    """
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(content, list):
                raise ShardError(f"{path} holds a {type(content).__name__}, expected a list of chats; {SHAPES}")
            yield from enumerate(content)
            return
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file):
                if line.strip():
                    yield number, _parse(line, path, number + 1)
    except UnicodeDecodeError as error:
        raise ShardError(f"{path} is not text in UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is not JSON: {error}; download it again") from None


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}, line {number}: it is not JSON: {error}; download it again") from None


def _told_apart(items: list[Item]) -> Iterator[Item]:
    """Number the chats of one id, as there are where ids name pictures; the very same chat twice stays one id."""
    several = {name for name, count in Counter(item.id for item in items).items() if count > 1}
    seen: dict[str, list[Item]] = {}
    for item in items:
        if item.id not in several:
            yield item
            continue
        others = seen.setdefault(item.id, [])
        place = others.index(item) if item in others else len(others)
        if place == len(others):
            others.append(item)
        yield item if place == 0 else replace(item, id=f"{item.id}-{place + 1}")
