"""Something-Something v2: `<id>.webm` videos and JSON annotations, in either of the two official namings."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.build.item import Item, Source
from shards.errors import MissingDataError, ShardError

PREFIXES = ("", "something-something-v2-")
SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
VIDEO_SUFFIX = ".webm"

_EXPECTED = (
    "Something-Something v2 is expected as VIDEOS/<id>.webm and ANNOTATIONS/labels.json, train.json, validation.json, "
    'test.json (or with the prefix "something-something-v2-"). Get it from '
    "https://www.qualcomm.com/developer/software/something-something-v-2-dataset (free for research) "
    "and unpack all video parts as one: cat 20bn-something-something-v2-?? | tar zx"
)


def load_ssv2(videos: Path, annotations: Path, split: str) -> Source:
    """Read the annotations of one split.

    The class of a video is that of its template without the square brackets. An entry whose template is not in
    labels.json stays in the list, marked as `unknown_template`; the test split has no labels unless `test-answers.csv`
    is there.

    Args:
        videos: folder with `<id>.webm`.
        annotations: folder with the JSON files, or the JSON file of the split with labels.json beside it.
        split: "train", "validation" (or "val") or "test".

    Raises:
        ValueError: there is no such split.
        MissingDataError: a folder or file is not there.
        ShardError: a file is not what it should be.
    """
    if split not in SPLIT_NAMES:
        raise ValueError(f"Something-Something v2 has no split {split!r}; choose {', '.join(SPLIT_NAMES)}")
    if not videos.is_dir():
        raise MissingDataError(f"there is no folder of videos at {videos}. {_EXPECTED}")
    folder = annotations.parent if annotations.is_file() else annotations
    entries = _read_json(annotations if annotations.is_file() else _find(folder, f"{SPLIT_NAMES[split]}.json"), list)
    classes = _read_classes(_find(folder, "labels.json"))
    answers = _read_answers(folder) if split == "test" else {}
    items = tuple(_item(entry, classes, answers) for entry in entries)
    names = {number: name for name, number in classes.items()}
    return Source(
        kind="ssv2",
        root=videos,
        items=items,
        label_names=tuple(names.get(number, "") for number in range(max(names) + 1)),
        provenance={"split": SPLIT_NAMES[split]},
    )


def _find(folder: Path, name: str) -> Path:
    for prefix in PREFIXES:
        if (path := folder / f"{prefix}{name}").is_file():
            return path
    raise MissingDataError(f"there is no {name} in {folder}. {_EXPECTED}")


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ShardError(f"{path} is not JSON: {error}; download the annotations again") from None
    if not isinstance(content, kind):
        raise ShardError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}; {_EXPECTED}")
    return content


def _read_classes(path: Path) -> dict[str, int]:
    try:
        classes = {name: int(number) for name, number in _read_json(path, dict).items()}
    except (TypeError, ValueError) as error:
        raise ShardError(f'{path}: expected {{"class name": "number", ...}}: {error}') from None
    if not classes or min(classes.values()) < 0:
        raise ShardError(f"{path} must name at least one class, with numbers from 0 on")
    return classes


def _read_answers(folder: Path) -> dict[str, str]:
    """Read `id;label` lines of test-answers.csv, where it is there."""
    for prefix in PREFIXES:
        if (path := folder / f"{prefix}test-answers.csv").is_file():
            with path.open(newline="", encoding="utf-8") as file:
                return {row[0]: row[1] for row in csv.reader(file, delimiter=";") if len(row) == 2}
    return {}


def _item(entry: object, classes: Mapping[str, int], answers: Mapping[str, str]) -> Item:
    if not isinstance(entry, dict) or "id" not in entry:
        raise ShardError(f"an annotation must be an object with an id, got {str(entry)[:100]}")
    video_id = str(entry["id"])
    path = f"{video_id}{VIDEO_SUFFIX}"
    text = entry.get("label")
    template = entry.get("template", answers.get(video_id))
    if template is None:
        return Item(id=video_id, path=path, text=text)
    name = template.replace("[", "").replace("]", "")
    if name not in classes:
        problem = f"the template {template!r} is not in labels.json"
        return Item(id=video_id, path=path, text=text, problem=("unknown_template", problem))
    return Item(id=video_id, path=path, label=classes[name], label_name=name, text=text)
