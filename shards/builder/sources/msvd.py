"""MSVD (YouTube2Text): 1,970 clips with 18 to 81 captions each, by the lists of train, validation and test."""

from __future__ import annotations

import re
from pathlib import Path

from shards.builder.item import Source
from shards.builder.sources.download import Download, captioned_items, captions_of_rows, is_video_id
from shards.format.errors import MissingDataError, ShardError

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_JOINED, _ALL = "captions_msvd.json", "AllVideoDescriptions.txt"
_SOURCE_VIDEO = re.compile(r"(.+)_\d+_\d+")
_EXPECTED = (
    "MSVD is expected as ROOT with MSVD_Videos.zip (as it is, or unpacked) and msvd_train.json, msvd_val.json and "
    "msvd_test.json, all from https://huggingface.co/datasets/friedrichor/MSVD "
    "(https://huggingface.co/datasets/friedrichor/MSVD/resolve/main/MSVD_Videos.zip); instead of these files also with "
    f"train_list.txt, val_list.txt, test_list.txt and {_ALL} or {_JOINED}"
)


def is_msvd(names: set[str]) -> bool:
    """Tell whether file names, in lower case, are those of a download of MSVD."""
    known = {_JOINED.lower(), _ALL.lower(), "youtubeclips", "youtubeclips.tar", "youtubeclips.zip"}
    return bool(names & known) or any(name.startswith("msvd_") for name in names)


def load_msvd(root: Path, split: str) -> Source:
    """Read the clips of one split with all their captions.

    A clip that a list names and that is not there stays in the list, and fails in the build. `extra["group"]` is the id
    of the longer video that a clip was cut out of.

    Args:
        root: the download, with its zip of videos or what is in it, and the annotations, in folders of any name.
        split: "train", "validation" (or "val") or "test".

    Raises:
        ValueError: there is no such split.
        MissingDataError: videos or annotations are not there; the message says where to get them and the layout.
        ShardError: a file is not what it should be.
    """
    if split not in _SPLITS:
        raise ValueError(f"MSVD has no split {split!r}; choose {', '.join(_SPLITS)}")
    if not root.is_dir():
        raise MissingDataError(f"there is no folder {root}. {_EXPECTED}")
    download = Download(root, _EXPECTED)
    name = _SPLITS[split]
    if path := download.find(f"msvd_{name}.json"):
        captions, where = captions_of_rows(download, path), path
    else:
        captions, where = _listed_captions(download, f"{name}_list.txt")
    if not captions:
        raise ShardError(f"{root / where} names no video. {_EXPECTED}")
    if not download.num_videos:
        raise MissingDataError(f"there is no video in {root} or in a zip there{_say_tar(download)}. {_EXPECTED}")
    groups = {video_id: {"group": cut[1]} for video_id in captions if (cut := _SOURCE_VIDEO.fullmatch(video_id))}
    return Source(
        kind="msvd",
        root=root,
        items=captioned_items(download, captions, captions, where, groups),
        provenance={"split": "validation" if name == "val" else name},
    )


def _say_tar(download: Download) -> str:
    tars = download.paths(".tar")
    return f"; {tars[0]} has to be unpacked first (tar xf {tars[0]})" if tars else ""


def _listed_captions(download: Download, name: str) -> tuple[dict[str, list[str]], str]:
    path = download.find(name)
    if path is None:
        raise MissingDataError(
            f"there is neither msvd_{name.partition('_')[0]}.json nor {name} in {download.root}. {_EXPECTED}"
        )
    ids = download.lines(path)
    if strange := [video_id for video_id in ids if not is_video_id(video_id)]:
        raise ShardError(f"{download.root / path}: {strange[0][:100]!r} is no id of a video. {_EXPECTED}")
    if where := download.find(_JOINED):
        captions = _joined_captions(download, where)
    elif where := download.find(_ALL):
        captions = _described(download, where)
    else:
        raise MissingDataError(f"there are no captions in {download.root}: neither {_ALL} nor {_JOINED}. {_EXPECTED}")
    return {video_id: captions.get(video_id, []) for video_id in ids}, where


def _joined_captions(download: Download, path: str) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = download.json(path, dict)
    for video_id, texts in captions.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ShardError(
                f'{download.root / path}: expected {{"video id": ["caption", ...]}}, got {str(texts)[:100]!r} for '
                f"{video_id!r}. {_EXPECTED}"
            )
    return captions


def _described(download: Download, path: str) -> dict[str, list[str]]:
    """Captions of `AllVideoDescriptions.txt`: lines `id caption` behind a head whose lines begin with "#"."""
    captions: dict[str, list[str]] = {}
    for line in download.lines(path):
        video_id, _, text = line.partition(" ")
        if not line.startswith("#"):
            captions.setdefault(video_id, []).append(text)
    return captions
