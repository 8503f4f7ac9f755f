"""The source of chats that a command line names: JSONL, JSON, parquet, or a table of captions."""

from __future__ import annotations

from pathlib import Path

from shards.builder.item import Source
from shards.builder.sources.chat import JSON_SUFFIXES, load_chats
from shards.builder.sources.chat_parquet import PARQUET, load_chat_parquet
from shards.builder.sources.folder import load_table
from shards.format.errors import MissingDataError

OFFICIAL = (
    "Nothing is downloaded here. Official pages: OpenVid-1M https://huggingface.co/datasets/nkp37/OpenVid-1M, The "
    "Cauldron https://huggingface.co/datasets/HuggingFaceM4/the_cauldron, SmolTalk "
    "https://huggingface.co/datasets/HuggingFaceTB/smoltalk, WebVid https://github.com/m-bain/webvid (which no longer "
    "hands out its list)"
)
_LAYOUTS = (
    "chats are a .jsonl or .json file, .parquet files (or a folder of them), or a .csv or .tsv of captions, given as "
    "--annotations, with the videos and images that they name below --videos; or tars of others, given as --tars"
)
_TABLES = (".csv", ".tsv")


def open_chats(videos: Path, annotations: Path | None, split: str) -> Source:
    """Open the source that the arguments describe.

    Args:
        videos: folder that the paths of videos and images are relative to.
        annotations: the file of chats, or a folder of parquet files; None looks for one in `videos`.
        split: of a table that has several.

    Raises:
        MissingDataError: something is not there; the message names the layouts expected and where sets are to be had.
        ShardError: a file cannot be read.
    """
    annotations = annotations or _find(videos)
    suffix = annotations.suffix.lower()
    try:
        if suffix in _TABLES:
            return load_table(annotations, videos, split)
        if suffix == PARQUET or annotations.is_dir():
            return load_chat_parquet(annotations)
        if suffix in JSON_SUFFIXES:
            return load_chats(annotations, videos)
    except MissingDataError as error:
        raise MissingDataError(f"{error}. {OFFICIAL}") from None
    raise MissingDataError(f"{annotations} is none of the files that chats come in: {_LAYOUTS}. {OFFICIAL}")


def _find(videos: Path) -> Path:
    """The one file of chats in a folder, or the folder itself where it holds parquet."""
    if not videos.is_dir():
        raise MissingDataError(f"there is no folder {videos}: {_LAYOUTS}. {OFFICIAL}")
    found = sorted(path for path in videos.iterdir() if path.suffix.lower() in (*JSON_SUFFIXES, *_TABLES))
    if len(found) == 1:
        return found[0]
    if not found and next(videos.rglob(f"*{PARQUET}"), None) is not None:
        return videos
    names = ", ".join(path.name for path in found[:5]) or "none"
    raise MissingDataError(
        f"{videos} has to hold one file of chats, or it is named; found: {names}. {_LAYOUTS}. {OFFICIAL}"
    )
