"""SA-V as Meta gives it out: videos with JSON beside them (train), or folders of JPEGs and PNGs (val and test)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from shards.builder.item import Item, Source
from shards.format.errors import MissingDataError, ShardError
from shards.format.parse import check_name

Masklets = Literal["manual", "auto", "both"]
MASKLETS: tuple[Masklets, ...] = get_args(Masklets)
PICTURES, OBJECTS = "JPEGImages_24fps", "Annotations_6fps"
SPLITS = {"train": "sav_train", "validation": "sav_val", "val": "sav_val", "test": "sav_test"}

_PAGE = "https://ai.meta.com/datasets/segment-anything-video/"
_ANNOTATION = re.compile(r"(.+)_(manual|auto)\.json")
_PART = re.compile(r"sav_\d+")
_EXPECTED = (
    "SA-V is expected as sav_train/sav_NNN/<id>.mp4 with <id>_manual.json (and <id>_auto.json) beside it, and as "
    f"sav_val or sav_test with {PICTURES}/<id>/00000.jpg, {OBJECTS}/<id>/000/00000.png and the list sav_val.txt or "
    f"sav_test.txt, in the folder given as --videos or in one of these names in it. Get it from {_PAGE}"
)


def is_sav(folder: Path) -> bool:
    """Whether a folder is SA-V, or holds it: by the names of what lies in it and in its parts."""
    names = _names(folder)
    if set(SPLITS.values()) & names or {PICTURES, OBJECTS} <= names:
        return True
    parts = [folder, *(folder / name for name in sorted(filter(_PART.fullmatch, names)))]
    return any(_ANNOTATION.fullmatch(name) for part in parts for name in _names(part))


def load_sav(videos: Path, split: str, masklets: Masklets = "manual") -> Source:
    """List the videos of one split, by id. One without an annotation stays in the list, and fails.

    Args:
        videos: folder of a split, or of all of them.
        split: "train", "val" (or "validation") or "test"; of the folder of a split any name.
        masklets: of train: those of `_manual.json`, of `_auto.json`, or of both as far as they are there.

    Raises:
        ValueError: there are no such masklets.
        MissingDataError: something is not there.
        ShardError: a list of ids cannot be read.
    """
    if masklets not in MASKLETS:
        raise ValueError(f"masklets is {masklets!r}; choose {', '.join(MASKLETS)}")
    folder = _folder_of(videos, split)
    names = _names(folder)
    if {PICTURES, OBJECTS} & names:
        if masklets != "manual":
            raise ValueError(f"{folder} has manual masklets alone: leave --masklets out")
        items, layout = tuple(_of_frames(folder, names)), "frames"
    else:
        items, layout = tuple(_of_videos(folder, masklets)), "videos"
    if not items:
        raise MissingDataError(f"there is no video in {folder}. {_EXPECTED}")
    provenance = {"split": split, "layout": layout, "masklets": masklets}
    return Source(kind="sav", root=folder, items=items, provenance=provenance)


def _names(folder: Path) -> set[str]:
    """Names of what is in a folder; none where it is not one."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _folder_of(videos: Path, split: str) -> Path:
    if not videos.is_dir():
        raise MissingDataError(f"there is no folder {videos}. {_EXPECTED}")
    name = SPLITS.get(split)
    if name is not None and (videos / name).is_dir():
        return videos / name
    if held := sorted(set(SPLITS.values()) & _names(videos)):
        found = f"{videos} holds {', '.join(held)}, not {name or f'a split {split!r}'}"
        raise MissingDataError(f"{found}. {_EXPECTED}")
    if not is_sav(videos):
        raise MissingDataError(f"there is no SA-V in {videos}. {_EXPECTED}")
    return videos


def _of_videos(folder: Path, masklets: Masklets) -> Iterator[Item]:
    """An item for each video and each annotation, by id."""
    annotations: dict[str, dict[str, str]] = defaultdict(dict)  # path without suffix -> kind -> path
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in files:
            path = (Path(where) / name).relative_to(folder).as_posix()
            if name.endswith(".mp4"):
                annotations.setdefault(path.removesuffix(".mp4"), {})
            elif found := _ANNOTATION.fullmatch(name):
                stem = path[: -len(name)] + found[1]
                annotations[stem][found[2]] = path
    kinds = ("manual", "auto") if masklets == "both" else (masklets,)
    for stem in sorted(annotations, key=lambda stem: (Path(stem).name, stem)):
        video_id, path = Path(stem).name, f"{stem}.mp4"
        found_here = {kind: annotations[stem][kind] for kind in kinds if kind in annotations[stem]}
        if found_here:
            yield Item(id=video_id, path=path, extra={"annotations": found_here})
        else:
            needed = " or ".join(f"{video_id}_{kind}.json" for kind in kinds)
            problem = f"it has no annotation: there is no {needed} beside it"
            yield Item(id=video_id, path=path, problem=("bad_annotation", problem))


def _of_frames(folder: Path, names: set[str]) -> Iterator[Item]:
    """An item for each id of the list; without a list, for each folder of objects."""
    for missing in {PICTURES, OBJECTS} - names:
        raise MissingDataError(f"there is no {missing} in {folder}. {_EXPECTED}")
    lists = [name for name in ("sav_val.txt", "sav_test.txt") if name in names]
    if len(lists) > 1:
        raise ShardError(f"{folder} holds {' and '.join(lists)}, but is one split: take the other's list out")
    if not lists:
        raise MissingDataError(f"there is no list of ids in {folder}. {_EXPECTED}")
    try:
        ids = [line.strip() for line in (folder / lists[0]).read_text(encoding="utf-8-sig").splitlines()]
        ids = [check_name(video_id, "an id") for video_id in ids if video_id]
    except ValueError as error:
        raise ShardError(f"{folder / lists[0]} is no list of ids, one a line: {error}") from None
    for video_id in ids:
        yield Item(id=video_id, path=f"{PICTURES}/{video_id}", extra={"objects": f"{OBJECTS}/{video_id}"})
