"""Something-Something v2: `<id>.webm` videos and JSON annotations, in either of the two official namings."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.builder.item import Item, Source
from shards.format.errors import MissingDataError, ShardError
from shards.format.json_files import read_json

PREFIXES = ("", "something-something-v2-")
SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
VIDEO_SUFFIX = ".webm"
LABELS_FOLDER = "labels"

_OFFICIAL = "https://www.qualcomm.com/developer/software/something-something-v-2-dataset"
_EXPECTED = (
    "Something-Something v2 is expected as VIDEOS/<id>.webm and train.json, validation.json, test.json and labels.json "
    f'(or with the prefix "{PREFIXES[1]}") in VIDEOS itself, in VIDEOS/{LABELS_FOLDER} or in the folder given as '
    f"annotations. Get it from {_OFFICIAL} (free for research; its files: {_OFFICIAL}/downloads) and unpack all video "
    "parts as one: "
    "cat 20bn-something-something-v2-?? | tar zx"
)


def find_annotations(folder: Path) -> Path | None:
    """Return where in a folder of videos the annotations of SSv2 lie: the folder itself, `labels` in it, or None."""
    names = [f"{name}.json" for name in sorted(set(SPLIT_NAMES.values()))]
    for place in (folder, folder / LABELS_FOLDER):
        if any(_look(place, name) for name in names) and any(folder.glob(f"*{VIDEO_SUFFIX}")):
            return place
    return None


def load_ssv2(videos: Path, annotations: Path, split: str) -> Source:
    """Read the annotations of one split.

    The class of a video is that of its template without the square brackets. An entry whose template is not in
    labels.json stays in the list, marked as `unknown_template`. Without labels.json no video has a class; those of the
    test split have one only where `test-answers.csv` is there.

    Args:
        videos: folder with `<id>.webm`.
        annotations: folder with the JSON files, or with `labels` in which they are, or the JSON file of the split with
            labels.json beside it.
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
    file = annotations if annotations.is_file() else _find(annotations, f"{SPLIT_NAMES[split]}.json")
    entries = _read(file, list)
    labels = _look(file.parent, "labels.json")
    classes = _read_classes(labels) if labels else None
    answers = _read_answers(file.parent) if split == "test" else {}
    strange = [entry for entry in entries if not _is_annotation(entry)]
    if strange:
        found = str(strange[0])[:100]
        raise ShardError(f"{file}: an annotation is an object with an id in quotes, got {found!r}; {_EXPECTED}")
    items = tuple(_item(entry, classes, answers) for entry in entries)
    names = {number: name for name, number in (classes or {}).items()}
    return Source(
        kind="ssv2",
        root=videos,
        items=items,
        label_names=tuple(names.get(number, "") for number in range(max(names, default=-1) + 1)),
        provenance={"split": SPLIT_NAMES[split]},
        notes=() if labels else (_unlabelled(file.parent),),
    )


def _unlabelled(folder: Path) -> str:
    return (
        f"there is no labels.json in {folder}, so the data set is built without labels; the file comes with the "
        f"annotations of {_OFFICIAL}"
    )


def _look(folder: Path, name: str) -> Path | None:
    return next((path for prefix in PREFIXES if (path := folder / f"{prefix}{name}").is_file()), None)


def _find(folder: Path, name: str) -> Path:
    if path := _look(folder, name) or _look(folder / LABELS_FOLDER, name):
        return path
    raise MissingDataError(f"there is no {name} in {folder}. {_EXPECTED}")


def _read(path: Path, kind: type) -> Any:
    content = read_json(path, "download the annotations again")
    if not isinstance(content, kind):
        raise ShardError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}; {_EXPECTED}")
    return content


def _read_classes(path: Path) -> dict[str, int]:
    try:
        classes = {name: int(number) for name, number in _read(path, dict).items()}
    except (TypeError, ValueError) as error:
        raise ShardError(f'{path}: expected {{"class name": "number", ...}}: {error}') from None
    if not classes or min(classes.values()) < 0:
        raise ShardError(f"{path} must name at least one class, with numbers from 0 on")
    return classes


def _read_answers(folder: Path) -> dict[str, str]:
    """Read `id;label` lines of test-answers.csv, where it is there."""
    path = _look(folder, "test-answers.csv")
    if path is None:
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row[0]: row[1] for row in csv.reader(file, delimiter=";") if len(row) == 2}


def _is_annotation(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or "/" in entry["id"]:
        return False
    return all(isinstance(entry.get(name, ""), str) for name in ("label", "template"))


def _item(entry: Mapping[str, Any], classes: Mapping[str, int] | None, answers: Mapping[str, str]) -> Item:
    video_id = entry["id"]
    path = f"{video_id}{VIDEO_SUFFIX}"
    text = entry.get("label")
    template = entry.get("template", answers.get(video_id))
    if template is None or classes is None:
        return Item(id=video_id, path=path, text=text)
    name = template.replace("[", "").replace("]", "")
    if name not in classes:
        problem = f"the template {template!r} is not in labels.json"
        return Item(id=video_id, path=path, text=text, problem=("unknown_template", problem))
    return Item(id=video_id, path=path, label=classes[name], label_name=name, text=text)
