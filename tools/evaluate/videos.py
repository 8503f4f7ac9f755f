"""Ordinary video files as clips of one view, decoded ahead; what is wrong with a file costs that file only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.builder import BuildConfig, ClipKind, Item, Source, ViewSpec, load_folder
from shards.builder.decode.isolate import DecodePool
from shards.builder.plan import make_plan
from shards.format.errors import MissingDataError

if TYPE_CHECKING:
    from shards.builder.prepare import Outcome

AHEAD = 4  # clips a decoder is ahead of the encoder


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video file.

    Attributes:
        path: as the user finds it.
        folder: name of the folder that it lies in, which may be its class.
        clips: u8 `[V, T, H, W, 3]`, the clips that the view takes; None where the file cannot give them.
        problem: why not, in one line.
    """

    path: str
    folder: str
    clips: NDArray[np.uint8] | None = None
    problem: str = ""


def find_videos(path: Path) -> Source:
    """A video file, or all of a folder and its subfolders.

    Raises:
        MissingDataError: there is no such file, or no video in the folder.
    """
    if path.is_file():
        return Source(kind="file", root=path.parent, items=(Item(id=path.name, path=path.name),))
    if not path.is_dir():
        raise MissingDataError(f"there is no video or folder {path}; give a video file, or a folder of them")
    return load_folder(path)


def read_videos(source: Source, view: ViewSpec, workers: int | None) -> Iterator[Video]:
    """Decode videos, in the source's order, each in a process that may crash or hang without harm."""
    config = BuildConfig(layout="frames", workers=workers)
    kind = ClipKind.of(view, config)
    plan = make_plan(source, kind, config, split="videos")
    pool = DecodePool(plan, config.num_workers)
    items = iter(source.items)
    try:
        ahead: deque[Future[Outcome]] = deque(
            pool.submit(0, item) for item in islice(items, AHEAD * config.num_workers)
        )
        while ahead:
            outcome = ahead.popleft().result()
            ahead.extend(pool.submit(0, item) for item in islice(items, 1))
            yield _video(source.root, kind, outcome)
    finally:
        pool.shutdown()


def _video(root: Path, kind: ClipKind, outcome: Outcome) -> Video:
    path = root / outcome.item.path
    if outcome.failure is not None:
        problem = f"{outcome.failure.reason}: {outcome.failure.message}"
        return Video(path=str(path), folder=path.parent.name, problem=problem)
    assert outcome.prepared is not None
    return Video(path=str(path), folder=path.parent.name, clips=np.asarray(kind.teacher_rows(outcome.prepared)))
