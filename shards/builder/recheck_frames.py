"""Does a sample hold the frames that it says? Its clip or its frames, made again from its video and compared."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shards.builder.decode.decoders import DecodedClip, decode_views, take_frames
from shards.builder.decode.pyav_reader import RGB, decode_frames
from shards.builder.decode.stream_facts import read_stream_facts
from shards.builder.decode.view import ViewSpec
from shards.builder.samples.frames import FramesKind
from shards.builder.sources.locate import OpenVideo
from shards.codecs import codec_of
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.layout import tubes_to_clip
from shards.format.schema import Field

Clip = NDArray[np.uint8]  # [T, H, W, 3], or one frame of it

_TIME_SECONDS = 1e-3
_ALIKE = 8.0  # levels: what other versions of the libraries may make of the same frame, on average over its pixels
_NEARER = 0.5  # another frame is the stored one if it is so much nearer than the one that is due


def compare_frames(
    dataset: ShardDataset, number: int, about: Mapping[str, Any], video: OpenVideo, view: ViewSpec
) -> str | None:
    """Return what is wrong with a sample of JPEG frames, or None; JPEGs are compared by what they look like.

    Raises:
        BuildFailure: the video is refused today.
        ShardError: the stored bytes are damaged, or the set does not say the quality of its frames.
    """
    kind = FramesKind(view=view, quality=_quality(dataset))
    taken = take_frames(video.path, video.source, view, "pyav", kind.writer)
    due, times = list(taken.frame_indices), np.asarray(dataset.read(number, "times"))
    stored: Any = dataset.read(number, "frames")
    if about.get("frame_indices") != due or len(stored) != len(due):
        says = f"it says frames {_listed(about.get('frame_indices'))}, holds {len(stored)}"
        return f"{says}, its view takes {_listed(due)}"
    if len(times) != len(due) or not np.allclose(times, taken.timestamps_seconds, rtol=1e-6, atol=_TIME_SECONDS):
        return f"it says times {_listed(times.tolist())}, its frames are shown at {_listed(taken.timestamps_seconds)}"
    for frame, held, expected in zip(due, stored, taken.pictures, strict=True):
        if held != expected and not look_alike(held, expected):
            return f"what it holds as frame {frame} does not look like frame {frame} of the video"
    return None


def _quality(dataset: ShardDataset) -> int:
    sample = dataset.manifest.provenance.get("sample")
    quality = sample.get("quality") if isinstance(sample, dict) else None
    if not isinstance(quality, int):
        raise ShardError(f"{dataset.directory} does not say the quality of its frames; they cannot be compared")
    return quality


def look_alike(held: bytes, expected: bytes) -> bool:
    """Whether two pictures are the same but for what other versions of the libraries make of them."""
    try:
        ours, theirs = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (held, expected))
    except (UnidentifiedImageError, OSError):
        return False
    return ours.shape == theirs.shape and _distance(ours, theirs) <= _ALIKE


def compare_clip(
    dataset: ShardDataset, number: int, about: Mapping[str, Any], video: OpenVideo, view: ViewSpec
) -> str | None:
    """Return what is wrong with a sample that is a clip, or None.

    Raises:
        BuildFailure: the video is refused today.
        ShardError: the stored bytes are damaged, or of another shape than the view gives.
    """
    stored = _stored_clip(dataset, number, view)
    clips, number_of_view = decode_views(video.path, video.source, view), about.get("view_index", 0)
    if number_of_view not in range(len(clips)):
        return f"it says that it is view {number_of_view!r} of {len(clips)}"
    clip = clips[number_of_view]
    due = list(clip.frame_indices)
    held = (
        due
        if np.array_equal(stored, _as_decoded(dataset.schema["clip"], clip.frames))
        else _recognise(stored, clip, video.path, lambda frame: view.cut(frame)[number_of_view % view.crops])
    )
    if not held == due == about.get("frame_indices"):
        says = _listed(about.get("frame_indices"))
        return f"it says frames {says}, holds {_listed(held)}, its view takes {_listed(due)}"
    times = about.get("timestamps")
    if not isinstance(times, list) or not np.allclose(times, clip.timestamps_seconds, rtol=0, atol=_TIME_SECONDS):
        return f"it says times {_listed(times)}, its frames are shown at {_listed(clip.timestamps_seconds)}"
    return None


def _stored_clip(dataset: ShardDataset, number: int, view: ViewSpec) -> Clip:
    clip = np.asarray(dataset.read(number, "clip"))
    if dataset.schema["clip"].layout == "tubes":
        clip = tubes_to_clip(clip, view.size // clip.shape[3])
    if clip.shape != view.clip_shape:
        raise ShardError(f"{dataset.directory}: clips are {clip.shape}, its view gives {view.clip_shape}")
    return clip


def _as_decoded(field: Field, frames: Clip) -> Clip:
    """Frames as they come back from the codec of a field; its squares of four pixels lie alike in both layouts."""
    if field.codec is None:
        return frames
    codec = codec_of(field.codec)
    return codec.decode(codec.encode(frames), "|u1", frames.shape)


def _recognise(stored: Clip, clip: DecodedClip, path: Path, cut: Callable[[Clip], Clip]) -> list[int | None]:
    """Return which frame of its video each stored frame is; None for one that looks like none of them."""
    distances = [_distance(ours, theirs) for ours, theirs in zip(stored, clip.frames, strict=True)]
    nearest: list[tuple[float, int]] = [(math.inf, -1)] * len(stored)
    timeline, rgb = read_stream_facts(path, clip.source.num_bytes).timeline, RGB()
    decoded: list[int] = []
    with closing(decode_frames(path, timeline)) as frames:
        for packet, frame in frames:
            decoded.append(packet)
            picture = cut(rgb.convert(frame))
            for place in np.flatnonzero(distances):
                nearest[place] = min(nearest[place], (_distance(stored[place], picture), packet))
    numbers = {packet: number for number, packet in enumerate(timeline.settle(decoded).packets)}
    held: list[int | None] = []
    for due, distance, (least, packet) in zip(clip.frame_indices, distances, nearest, strict=True):
        if distance == 0 or _NEARER * distance <= least:
            held.append(due if distance <= _ALIKE else None)
        else:
            held.append(numbers[packet])
    return held


def _distance(one: Clip, other: Clip) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _listed(values: object) -> str:
    """Return numbers in words, and what should be numbers as it is."""
    if not isinstance(values, list | tuple):
        return repr(values)
    return " ".join("?" if value is None else str(value) for value in values)
