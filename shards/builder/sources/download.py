"""The folder that a download lies in: its files by name, wherever they lie there, those inside of its zips included."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from shards.builder.decode.zipped import list_members, read_text
from shards.builder.failure import Reason
from shards.builder.item import Item
from shards.builder.sources.folder import VIDEO_SUFFIXES
from shards.format.errors import ShardError
from shards.format.json_files import json_of


@dataclass(frozen=True)
class _File:
    path: str
    identity: object  # what is the same for copies of one file
    in_zip: bool


@dataclass(frozen=True)
class Download:
    """A folder of what was downloaded.

    Attributes:
        root: the folder.
        expected: where to get the data set and the layout it has, for messages.
    """

    root: Path
    expected: str

    @cached_property
    def _files(self) -> list[_File]:
        """All files, those that are unpacked first, each kind by path.

        Raises:
            ShardError: a zip cannot be read.
        """
        found: list[_File] = []
        zips: list[str] = []
        seen = set[str]()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back
                folders.clear()
                continue
            seen.add(real)
            links = {name for name in folders if Path(folder, name).is_symlink()}
            folders.sort(key=lambda name: (name in links, name))  # what is there before what leads there
            for name in names:
                path = Path(folder, name)
                relative = path.relative_to(self.root).as_posix()
                found.append(_File(relative, os.path.realpath(path), in_zip=False))
                if path.suffix.lower() == ".zip":
                    zips.append(relative)
        found.sort(key=lambda file: file.path)
        for archive in sorted(zips):
            found += [
                _File(f"{archive}/{member.name}", member.identity, in_zip=True)
                for member in list_members(self.root / archive)
            ]
        return found

    def find(self, *names: str) -> str | None:
        """Return the path of the first of these files that is there, wherever it lies; capital letters do not count."""
        by_name = {PurePosixPath(file.path).name.lower(): file.path for file in reversed(self._files)}
        return next((by_name[name.lower()] for name in names if name.lower() in by_name), None)

    def paths(self, suffix: str) -> list[str]:
        """Return the paths of the files that end so."""
        return [file.path for file in self._files if file.path.lower().endswith(suffix)]

    @cached_property
    def _videos(self) -> dict[str, list[_File]]:
        videos: dict[str, list[_File]] = {}
        for file in self._files:
            path = PurePosixPath(file.path)
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
                videos.setdefault(path.stem, []).append(file)
        return videos

    @property
    def num_videos(self) -> int:
        """Videos that are there."""
        return len(self._videos)

    @cached_property
    def _usual(self) -> tuple[str, str]:
        """Folder, or zip and folder, and suffix of most videos: where one that is missing should be."""
        places = Counter(str(PurePosixPath(files[0].path).parent) for files in self._videos.values())
        suffixes = Counter(PurePosixPath(files[0].path).suffix for files in self._videos.values())
        return places.most_common(1)[0][0], suffixes.most_common(1)[0][0]

    def video(self, video_id: str) -> tuple[str, tuple[Reason, str] | None]:
        """Return the path of a video, where it is or where it should be, and what is wrong if it is there twice."""
        files = self._videos.get(video_id, [])
        if not files:
            place, suffix = self._usual
            return str(PurePosixPath(place, f"{video_id}{suffix}")), None
        alike = [file for file in files if file.in_zip == files[0].in_zip]
        if len({file.identity for file in alike}) > 1:
            both = " and ".join(file.path for file in alike[:2])
            return files[0].path, ("duplicate_id", f"there are two videos of this id, {both}: which is meant?")
        return files[0].path, None

    def text(self, path: str) -> str:
        """Return the text of a file.

        Raises:
            ShardError: it cannot be read, or is not text.
        """
        return read_text(self.root, path)

    def json(self, path: str, kind: type) -> Any:
        """Return what a JSON file holds, a list or an object.

        Raises:
            ShardError: it is not JSON, or holds something else.
        """
        content = json_of(self.text(path), str(self.root / path))
        if not isinstance(content, kind):
            raise ShardError(
                f"{self.root / path} holds a {type(content).__name__}, expected a {kind.__name__}. {self.expected}"
            )
        return content

    def lines(self, path: str) -> list[str]:
        """Return the lines of a text file that hold anything, without blanks at both ends.

        Raises:
            ShardError: it cannot be read, or is not text.
        """
        return [line for line in map(str.strip, self.text(path).split("\n")) if line]

    def table(self, path: str, *columns: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file with a header, whose delimiter may be a semicolon.

        Raises:
            ShardError: it cannot be read, or lacks a column.
        """
        lines = self.text(path).splitlines()
        delimiter = ";" if lines and ";" in lines[0] else ","
        reader = csv.DictReader(lines, delimiter=delimiter)
        header = reader.fieldnames or []
        if absent := [column for column in columns if column not in header]:
            found = ", ".join(header)[:100] or "(none)"
            raise ShardError(f"{self.root / path} has the columns {found}, not {absent[0]}. {self.expected}")
        rows = [{column: (row[column] or "").strip() for column in columns} for row in reader]
        return [row for row in rows if any(row.values())]


def captioned_items(
    download: Download,
    ids: Iterable[str],
    captions: Mapping[str, Sequence[str]],
    where: str,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Item, ...]:
    """Return an item for each video, with its captions; one without any stays in the list, as `bad_annotation`.

    Args:
        download: where the videos are.
        ids: of the videos, in order.
        captions: of each video, in order; equal ones count as often as they are there.
        where: name of the file that the captions are from.
        extra: further annotations, by id.
    """
    items = []
    for video_id in ids:
        path, problem = download.video(video_id)
        texts = [text for caption in captions.get(video_id, ()) if (text := " ".join(caption.split()))]
        if not texts:
            problem = problem or ("bad_annotation", f"{where} has no caption of it")
        about = dict((extra or {}).get(video_id, {}))
        items.append(
            Item(
                id=video_id,
                path=path,
                text=texts[0] if texts else None,
                problem=problem,
                extra=about | ({"captions": texts} if texts else {}),
            )
        )
    return tuple(items)


def captions_of_rows(download: Download, path: str) -> dict[str, list[str]]:
    """Return the captions in a JSON list of `{"video_id": ..., "caption": one or several}`, by video, in order.

    Raises:
        ShardError: it is something else.
    """
    captions: dict[str, list[str]] = {}
    for row in download.json(path, list):
        text = row.get("caption") if isinstance(row, dict) else None
        texts = [text] if isinstance(text, str) else text
        if not (
            isinstance(texts, list)
            and all(isinstance(text, str) for text in texts)
            and is_video_id(row.get("video_id"))
        ):
            raise ShardError(
                f"{download.root / path}: an entry is an object with video_id and caption in quotes, got "
                f"{str(row)[:100]!r}. {download.expected}"
            )
        captions.setdefault(row["video_id"], []).extend(texts)
    return captions


def is_video_id(value: object) -> TypeGuard[str]:
    """Tell whether a value can be the name of a video without its suffix."""
    return isinstance(value, str) and bool(value) and value.isprintable() and not set(value) & set("/\\")
