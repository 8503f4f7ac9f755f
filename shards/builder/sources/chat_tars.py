"""Chats in tars of others, as video2dataset and img2dataset leave them: `KEY.mp4` or `KEY.jpg`, `KEY.txt`, `KEY.json`.

The tars are scanned once, without their videos, and a sample's video is read where it lies. The scan is strict: a tar
that is damaged or was cut off is an error, and never a shorter list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from shards.builder.item import Item, Source
from shards.builder.sources.chat_records import item_of
from shards.builder.sources.folder import VIDEO_SUFFIXES
from shards.foreign import Found, scan_shard
from shards.format.errors import MissingDataError, ShardError
from shards.format.files import open_regular
from shards.threads import thread_pool

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_TEXT_BYTES = 16 << 20
_THREADS = 8
_SAID = ("messages", "conversations", "texts", "instruction", "output", "system_prompt", "caption", "source")
_EXPECTED = "a sample is KEY.mp4 or KEY.jpg, and its caption KEY.txt, or `caption` in KEY.json (or chats: `messages`)"


def load_chat_tars(tars: Sequence[Path], root: Path) -> Source:
    """Read the chats of tars.

    Args:
        tars: the files.
        root: a folder that they are all in.

    Raises:
        MissingDataError: one is not there, or there is no sample.
        ShardError: one is damaged, or holds something else.
    """
    with thread_pool(_THREADS) as pool:
        found = list(pool.map(lambda tar: list(_items(tar, tar.relative_to(root).as_posix())), tars))
    items = tuple(item for some in found for item in some)
    if not items:
        raise MissingDataError(f"there is no sample in {', '.join(map(str, tars[:3]))}; {_EXPECTED}")
    if all(item.problem for item in items):
        assert items[0].problem is not None
        raise ShardError(f"no sample of {tars[0]} is a chat; of the first one: {items[0].problem[1]}; {_EXPECTED}")
    return Source(kind="chat_tars", root=root, items=items)


def _items(tar: Path, name: str) -> Iterator[Item]:
    scanned = scan_shard(tar)
    with open_regular(tar) as file:
        for key, row in zip(scanned.keys, scanned.rows, strict=True):
            said = _said(file, row, key)
            members = _members(row)
            if len(members) > 1 and f".{members[0][0].rpartition('.')[2].lower()}" in VIDEO_SUFFIXES:
                found = f"a chat is about one video, or about images; this one has {len(members)} videos"
                said = replace(said, problem=("bad_annotation", found))
            extra = {**said.extra, "members": members} if members else said.extra
            yield replace(said, path=name if members else "", extra=extra)


def _members(row: dict[str, Found]) -> list[list[Any]]:
    """Suffix, offset and size of a sample's videos, or else of its images, by name: 10 behind 9."""
    places = [(PurePosixPath(f"x.{suffix}").suffix.lower(), suffix, found.member) for suffix, found in row.items()]
    for wanted in (VIDEO_SUFFIXES, IMAGE_SUFFIXES):
        found = sorted(((name, member) for suffix, name, member in places if suffix in wanted), key=_in_order)
        if found:
            return [[name, member.offset, member.size] for name, member in found]
    return []


def _in_order(found: tuple[str, Any]) -> list[tuple[int, str]]:
    """Numbers in a name by what they are worth."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", found[0])]


def _said(file: BinaryIO, row: dict[str, Found], key: str) -> Item:
    """What is said of a sample: the chat of its JSON, or its caption, from the .txt where that says anything."""
    record: dict[str, Any] = {}
    try:
        if "json" in row:
            about = json.loads(_text(file, row["json"]))
            record = {name: about[name] for name in _SAID if name in about}
        if "txt" in row and (caption := _text(file, row["txt"]).strip()):
            record["caption"] = caption
    except (ValueError, TypeError, RecursionError) as error:
        return Item(id=key, path="", problem=("bad_annotation", f"what is said of it cannot be read: {error}"))
    return item_of(record, key)


def _text(file: BinaryIO, found: Found) -> str:
    """Raises: ValueError: it is not text, or too long."""
    if found.member.size > MAX_TEXT_BYTES:
        raise ValueError(f"{found.member.name} has {found.member.size} bytes, a text at most {MAX_TEXT_BYTES}")
    file.seek(found.member.offset)
    return file.read(found.member.size).decode("utf-8")
