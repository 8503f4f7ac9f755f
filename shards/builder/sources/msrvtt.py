"""MSR-VTT by the protocols 9k and 7k: those videos to train with, and the 1,000 pairs of 1k-A to test with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shards.builder.item import Source
from shards.builder.sources.download import Download, captioned_items, captions_of_rows, is_video_id
from shards.format.errors import MissingDataError, ShardError

PROTOCOLS = ("9k", "7k")

_SPLITS = ("train", "test")
_TEST_LIST = "MSRVTT_JSFUSION_test.csv"
_CAPTIONS = ("MSRVTT_data.json", "MSR_VTT.json", "train_val_videodatainfo.json", "test_videodatainfo.json")
_EXPECTED = (
    "MSR-VTT is expected as ROOT with MSRVTT_Videos.zip (as it is, or unpacked) and msrvtt_train_9k.json, "
    "msrvtt_train_7k.json and msrvtt_test_1k.json, all from https://huggingface.co/datasets/friedrichor/MSR-VTT "
    "(https://huggingface.co/datasets/friedrichor/MSR-VTT/resolve/main/MSRVTT_Videos.zip); instead of these files "
    f"also with {_CAPTIONS[0]}, {_CAPTIONS[1]} or the two videodatainfo.json, and the lists {_TEST_LIST}, "
    "MSRVTT_train.9k.csv, MSRVTT_train.7k.csv"
)


def is_msrvtt(names: set[str]) -> bool:
    """Tell whether file names, in lower case, are those of a download of MSR-VTT."""
    known = {name.lower() for name in (*_CAPTIONS, _TEST_LIST)}
    return bool(names & known) or any(name.startswith(("msrvtt_", "msrvtt.")) for name in names)


def load_msrvtt(root: Path, split: str, protocol: str = "9k") -> Source:
    """Read the videos of one split with all their captions.

    A video that a list names and that is not there stays in the list, and fails in the build. The test split is 1k-A of
    both protocols, with the one caption that it gives each video.

    Args:
        root: the download, with its zip of videos or what is in it, and the annotations, in folders of any name.
        split: "train" or "test".
        protocol: "9k" (all videos but those of the test) or "7k", of the train split.

    Raises:
        ValueError: there is no such split or protocol.
        MissingDataError: videos or annotations are not there; the message says where to get them and the layout.
        ShardError: a file is not what it should be.
    """
    if split not in _SPLITS:
        raise ValueError(f"MSR-VTT has no split {split!r} in the protocol {protocol}; choose {' or '.join(_SPLITS)}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"MSR-VTT has no protocol {protocol!r}; choose {' or '.join(PROTOCOLS)}")
    if not root.is_dir():
        raise MissingDataError(f"there is no folder {root}. {_EXPECTED}")
    download = Download(root, _EXPECTED)
    if split == "train":
        captions, where = _train_captions(download, protocol)
    else:
        captions, where = _test_captions(download)
    if not captions:
        raise ShardError(f"{root / where} names no video. {_EXPECTED}")
    if not download.num_videos:
        raise MissingDataError(f"there is no video in {root} or in a zip there. {_EXPECTED}")
    return Source(
        kind="msrvtt",
        root=root,
        items=captioned_items(download, captions, captions, where),
        provenance={"split": split, "protocol": f"train-{protocol}" if split == "train" else "1k-A"},
    )


def _train_captions(download: Download, protocol: str) -> tuple[dict[str, list[str]], str]:
    if path := download.find(f"msrvtt_train_{protocol}.json"):
        return captions_of_rows(download, path), path
    captions, where = _all_captions(download)
    if path := download.find(f"MSRVTT_train.{protocol}.csv"):
        ids = [row["video_id"] for row in download.table(path, "video_id")]
    elif protocol == "9k" and (path := download.find(_TEST_LIST)):  # by its definition: all others
        held_out = {row["video_id"] for row in download.table(path, "video_id")}
        ids = [video_id for video_id in captions if video_id not in held_out]
    else:
        raise MissingDataError(
            f"there is neither msrvtt_train_{protocol}.json nor MSRVTT_train.{protocol}.csv in {download.root}. "
            f"{_EXPECTED}"
        )
    _check_ids(download, path, ids)
    return {video_id: captions.get(video_id, []) for video_id in ids}, where


def _test_captions(download: Download) -> tuple[dict[str, list[str]], str]:
    if path := download.find(_TEST_LIST):
        rows = download.table(path, "video_id", "sentence")
        _check_ids(download, path, [row["video_id"] for row in rows])
        captions: dict[str, list[str]] = {}
        for row in rows:
            captions.setdefault(row["video_id"], []).append(row["sentence"])
        return captions, path
    if path := download.find("msrvtt_test_1k.json"):
        return captions_of_rows(download, path), path
    raise MissingDataError(f"there is neither msrvtt_test_1k.json nor {_TEST_LIST} in {download.root}. {_EXPECTED}")


def _check_ids(download: Download, path: str, ids: list[str]) -> None:
    if strange := [video_id for video_id in ids if not is_video_id(video_id)]:
        raise ShardError(f"{download.root / path}: {strange[0][:100]!r} is no id of a video. {download.expected}")


def _all_captions(download: Download) -> tuple[dict[str, list[str]], str]:
    """Captions of every video that the annotations of all splits know, by video, in the order of their ids.

    Raises:
        MissingDataError: there are none.
        ShardError: they are not what they should be.
    """
    first, second, *two = _CAPTIONS
    whole = download.find(first, second)
    paths = [whole] if whole else [path for name in two if (path := download.find(name))]
    if not paths:
        raise MissingDataError(f"there are no captions in {download.root}: no {' or '.join(_CAPTIONS)}. {_EXPECTED}")
    captions: dict[str, list[str]] = {}
    for path in paths:
        content = download.json(path, dict)
        for _, video_id, caption in _sentences(download, path, content):
            captions.setdefault(video_id, []).append(caption)
    return dict(sorted(captions.items(), key=lambda pair: (len(pair[0]), pair[0]))), " and ".join(paths)


def _sentences(download: Download, path: str, content: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """Number, video and text of each caption, by number: in the official form, or in COCO's."""
    names = ("sentences", "sen_id", "video_id") if "sentences" in content else ("annotations", "id", "image_id")
    found = content.get(names[0])
    rows: list[tuple[int, str, str]] = []
    for row in found if isinstance(found, list) else [None]:
        number, video_id, caption = map(row.get, (*names[1:], "caption")) if isinstance(row, dict) else (None,) * 3
        if not (isinstance(number, int) and is_video_id(video_id) and isinstance(caption, str)):
            raise ShardError(
                f"{download.root / path}: expected a list {names[0]!r} of objects with {names[1]}, {names[2]} and "
                f"caption. {_EXPECTED}"
            )
        rows.append((number, video_id, caption))
    return sorted(rows)
