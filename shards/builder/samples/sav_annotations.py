"""What SA-V's JSON says of a video: the masks of its objects in every fourth frame, as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.builder.failure import BuildFailure
from shards.format.parse import count, entry, mapping, parse_json, sequence, spell

STEP, RATE = 4, 24  # video frames from one annotated frame to the next, and in a second
AUTO_IDS = 1_000_000  # what is added to the ids of automatic masklets, so that no manual one has them
MAX_JSON_BYTES = 1 << 30
MAX_FRAMES, MAX_SIDE = 1_000_000, 65_535
_ON_TIME = 0.25  # of the distance between frames: how far one may be from its place


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The masks of a video.

    Attributes:
        size: height and width of the video.
        num_video_frames: frames in the video.
        ids: of its objects.
        masks: annotated frame -> object -> RLE, not read yet.
    """

    size: tuple[int, int]
    num_video_frames: int
    ids: tuple[int, ...]
    masks: Sequence[Sequence[Mapping[str, Any]]]


def read_annotation(manual: Path | None, auto: Path | None) -> Annotation:
    """Read one file or both; the ids of automatic masklets begin at `AUTO_IDS`.

    Raises:
        BuildFailure: `missing_file` or `bad_annotation`: there is none, or it is not what SA-V writes.
    """
    found = [_read(path, first) for path, first in ((manual, 0), (auto, AUTO_IDS)) if path is not None]
    assert found
    if len(found) == 1:
        return found[0]
    one, two = found
    for what, ours, theirs in (
        ("frames of the video", one.num_video_frames, two.num_video_frames),
        ("height and width", one.size, two.size),
        ("annotated frames", len(one.masks), len(two.masks)),
    ):
        if ours != theirs:
            raise BuildFailure("bad_annotation", f"manual and automatic masklets differ in {what}: {ours} and {theirs}")
    masks = [[*ours, *theirs] for ours, theirs in zip(one.masks, two.masks, strict=True)]
    return Annotation(size=one.size, num_video_frames=one.num_video_frames, ids=one.ids + two.ids, masks=masks)


def _read(path: Path, first_id: int) -> Annotation:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BuildFailure("bad_annotation", f"{path.name} has more than {MAX_JSON_BYTES} bytes")
        data = path.read_bytes()
    except FileNotFoundError:
        raise BuildFailure("missing_file", f"there is no {path.name} beside the video") from None
    except OSError as error:
        raise BuildFailure("open_error", f"{path.name} cannot be read: {error.strerror}") from None
    try:
        return _parse(mapping(parse_json(data), "it"), first_id)
    except ValueError as error:
        raise BuildFailure("bad_annotation", f"{path.name}: {' '.join(str(error).split())[:200]}") from None


def _parse(about: dict[str, Any], first_id: int) -> Annotation:
    """Check all but the masks.

    Raises:
        ValueError: it is not what SA-V writes.
    """
    num_video_frames = _whole(about, "video_frame_count", MAX_FRAMES)
    size = _whole(about, "video_height", MAX_SIDE), _whole(about, "video_width", MAX_SIDE)
    given = sequence(entry(about, "masklet_id", "it"), "masklet_id")
    ids = tuple(first_id + count(_integral(value), "an id of masklet_id", AUTO_IDS - 1) for value in given)
    if len(set(ids)) < len(ids):
        raise ValueError(f"masklet_id names an object twice: {spell(ids)}")
    masks = sequence(entry(about, "masklet", "it"), "masklet")
    for number, objects in enumerate(masks):
        if not isinstance(objects, list) or len(objects) != len(ids):
            found = len(objects) if isinstance(objects, list) else type(objects).__name__
            raise ValueError(f"annotated frame {number} has {found} masks, masklet_id has {len(ids)} objects")
    if STEP * (len(masks) - 1) >= num_video_frames:
        raise ValueError(
            f"it has {len(masks)} annotated frames, the last of which would be frame {STEP * (len(masks) - 1)} of "
            f"{num_video_frames}"
        )
    return Annotation(size=size, num_video_frames=num_video_frames, ids=ids, masks=masks)


def _whole(about: dict[str, Any], name: str, most: int) -> int:
    """A whole number from 1 on, which SA-V writes as a float."""
    return max(1, count(_integral(entry(about, name, "it")), name, most))


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, kw_only=True)
class AnnotatedFrames:
    """Every fourth frame of a video, as many as are annotated, by presentation time.

    Where the file has as many frames as the annotation counts, a frame's number is its place. Where it lost some, the
    others are known by their times, if all lie where frames of a constant rate do, the first and the last included.

    Attributes:
        num_annotated: how many.
        num_video_frames: frames in the video when it was annotated.
    """

    num_annotated: int
    num_video_frames: int

    def frame_indices(self, num_source_frames: int, seconds: Sequence[float] = ()) -> list[int]:
        """Return the places of the annotated frames among those of the file.

        Raises:
            BuildFailure: one of them is not in the file, or it cannot be told which are.
        """
        wanted = range(0, STEP * self.num_annotated, STEP)
        if num_source_frames == self.num_video_frames:
            return list(wanted)
        counts = f"the file has {num_source_frames} frames, its annotation counts {self.num_video_frames}"
        places = (np.asarray(seconds, np.float64) - seconds[0]) * RATE
        numbers = np.rint(places)
        on_time = np.abs(places - numbers).max() <= _ON_TIME and (np.diff(numbers) >= 1).all()
        if not on_time or numbers[-1] != self.num_video_frames - 1:
            raise BuildFailure("not_exact", f"{counts}, and their times do not tell which of them are annotated")
        place_of = {int(number): place for place, number in enumerate(numbers)}
        lost = [number for number in wanted if number not in place_of]
        if lost:
            raise BuildFailure("decode_error", f"{counts}; frame {lost[0]}, which is annotated, is not among them")
        return [place_of[number] for number in wanted]
