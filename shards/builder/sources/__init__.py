"""Where items come from: known data sets as they are downloaded, a CSV table, or a plain folder of videos."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from shards.builder.item import Source
from shards.builder.sources.chat import load_chats
from shards.builder.sources.folder import load_folder, load_table
from shards.builder.sources.msrvtt import PROTOCOLS, is_msrvtt, load_msrvtt
from shards.builder.sources.msvd import is_msvd, load_msvd
from shards.builder.sources.sav import MASKLETS, Masklets, is_sav, load_sav
from shards.builder.sources.ssv2 import find_annotations, load_ssv2
from shards.builder.sources.ucf101 import FOLDS, is_ucf101, load_ucf101

__all__ = [
    "FOLDS",
    "MASKLETS",
    "PROTOCOLS",
    "SOURCES",
    "load_chats",
    "load_folder",
    "load_msrvtt",
    "load_msvd",
    "load_sav",
    "load_ssv2",
    "load_table",
    "load_ucf101",
    "open_source",
]

SourceName = Literal["ucf101", "msrvtt", "msvd", "sav", "ssv2", "table", "folder"]
SOURCES: tuple[SourceName, ...] = get_args(SourceName)
TABLE_SUFFIXES = {".csv", ".tsv"}


def open_source(
    videos: Path,
    annotations: Path | None,
    split: str,
    *,
    source: str | None = None,
    fold: int | None = None,
    protocol: str | None = None,
    masklets: Masklets | None = None,
) -> Source:
    """Open the source that the arguments describe.

    Args:
        videos: folder of videos; of UCF101, MSR-VTT and MSVD that of the whole download.
        annotations: a .csv or .tsv table, or the folder (or split file) of SSv2 annotations. None looks for those of
            SSv2 beside the videos.
        split: such as "train".
        source: one of SOURCES; None takes the data set whose files are there, and a plain folder where there are none.
        fold: of UCF101; None is 1.
        protocol: of MSR-VTT; None is "9k".
        masklets: of SA-V; None is "manual".

    Raises:
        ValueError: there is no such source, or an argument has no meaning for it.
        MissingDataError: something is not there; the message says where to get it and the layout expected.
        ShardError: the annotations cannot be read.
    """
    if source is not None and source not in SOURCES:
        raise ValueError(f"there is no source {source!r}; choose {', '.join(SOURCES)}")
    name = source or _recognise(videos, annotations)
    options = (("a fold is", fold, "ucf101"), ("a protocol is", protocol, "msrvtt"), ("masklets are", masklets, "sav"))
    for option, given, of in options:
        if given is not None and name != of:
            raise ValueError(f"{option} of the source {of}, not of {name}: leave it out")
    whole: dict[str, Callable[[], Source]] = {  # what finds its annotations in the folder of videos
        "ucf101": lambda: load_ucf101(videos, split, 1 if fold is None else fold),
        "msrvtt": lambda: load_msrvtt(videos, split, protocol or PROTOCOLS[0]),
        "msvd": lambda: load_msvd(videos, split),
        "sav": lambda: load_sav(videos, split, masklets or MASKLETS[0]),
        "folder": lambda: load_folder(videos),
    }
    if name in whole:
        if annotations is not None:
            where = "in the folder of videos: leave --annotations out"
            raise ValueError(f"the source {name} finds its annotations {where}")
        return whole[name]()
    if name == "table":
        if annotations is None:
            raise ValueError("the source table needs its .csv or .tsv file: give it as --annotations")
        return load_table(annotations, videos, split)
    return load_ssv2(videos, annotations or find_annotations(videos) or videos, split)


def _recognise(videos: Path, annotations: Path | None) -> SourceName:
    """Which data set it is, by the names of its files.

    Raises:
        ValueError: there are those of several.
    """
    if annotations is not None:
        return "table" if annotations.suffix.lower() in TABLE_SUFFIXES else "ssv2"
    if find_annotations(videos) is not None:
        return "ssv2"
    names = _names(videos)
    found: list[SourceName] = []
    if is_ucf101(videos):
        found.append("ucf101")
    if is_msrvtt(names):
        found.append("msrvtt")
    if is_msvd(names):
        found.append("msvd")
    if is_sav(videos):
        found.append("sav")
    if len(found) > 1:
        raise ValueError(f"{videos} holds files of {' and '.join(found)}: say which by --source")
    return found[0] if found else "folder"


def _names(folder: Path) -> set[str]:
    """Names of what is in a folder, in lower case; none where it is not one."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name.lower() for entry in entries}
    except OSError:
        return set()
