"""Does a sample with masks hold the frames and the masks that it says? Made again from its video, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from shards.builder.decode.view import ViewSpec
from shards.builder.item import Item
from shards.builder.recheck_frames import look_alike
from shards.builder.samples.sav import SavKind
from shards.builder.sources.locate import OpenVideo
from shards.dataset import ShardDataset
from shards.format.errors import ShardError


def refuse_folders(dataset: ShardDataset) -> None:
    """Refuse a set whose frames were no video.

    Raises:
        ShardError: they were not.
    """
    source = dataset.manifest.provenance.get("source")
    if isinstance(source, Mapping) and source.get("layout") == "frames":
        raise ShardError(
            f"{dataset.directory} was built from folders of JPEGs and PNGs, not from videos: look into it by "
            "`reelshard verify --content`"
        )


def compare_masked(
    dataset: ShardDataset, number: int, about: Mapping[str, Any], video: OpenVideo, view: ViewSpec
) -> str | None:
    """Return what is wrong with a sample of the kind `sav`, or None; its annotations lie beside its video.

    Raises:
        BuildFailure: the video is refused today.
        ShardError: the sample does not say what it was annotated by.
    """
    named = about.get("annotations")
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named.values()):
        raise ShardError("it does not say which annotations it was made from")
    beside = {kind: PurePosixPath(name).name for kind, name in named.items()}
    item = Item(id=dataset.key(number), path=video.path.name, extra={"annotations": beside})
    made = SavKind(view=view, least_frames=1).prepare(video.path.parent, item)
    stored: dict[str, Any] = {name: dataset.read(number, name) for name in ("frames", "masks")}
    due = made.facts["frame_indices"]
    if about.get("frame_indices") != due or any(len(pieces) != len(due) for pieces in stored.values()):
        counts = f"{len(stored['frames'])} frames and {len(stored['masks'])} with masks"
        return f"it holds {counts}, {len(due)} are annotated"
    for place, frame in enumerate(due):
        held, expected = bytes(stored["frames"][place]), made.blobs["frames"][place]
        assert isinstance(expected, bytes)
        if held != expected and not look_alike(held, expected):
            return f"what it holds as frame {frame} does not look like frame {frame} of the video"
        if bytes(stored["masks"][place]) != made.blobs["masks"][place]:
            return f"its masks of frame {frame} are not those of the annotation"
    return None
