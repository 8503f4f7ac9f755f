"""Does a data set hold the frames that it says? Decodes samples again from their videos and compares.

Checksums hold what was written; this holds that the right thing was written. Builders before version 2 read by decord's
random access, which gives other frames than asked for behind open groups of pictures, without an error.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shards.builder.decode.decoders import DecodedClip, decode_views, take_frames
from shards.builder.decode.pyav_reader import RGB, decode_frames
from shards.builder.decode.stream_facts import read_stream_facts
from shards.builder.decode.view import ViewSpec
from shards.builder.failure import BuildFailure
from shards.builder.recheck_masks import compare_masked, refuse_folders
from shards.builder.samples.frames import FramesKind
from shards.builder.sources.locate import OpenVideo, VideoFinder
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.layout import tubes_to_clip
from shards.progress import Progress, untold

Clip = NDArray[np.uint8]  # [T, H, W, 3], or one frame of it

_Compare = Callable[[ShardDataset, int, Mapping[str, Any], OpenVideo, ViewSpec], str | None]

SEED = 0  # of which samples are taken
_TIME_SECONDS = 1e-3
_ALIKE = 8.0  # levels: what other versions of the libraries may make of the same frame, on average over its pixels
_NEARER = 0.5  # another frame is the stored one if it is so much nearer than the one that is due


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """What was found.

    Attributes:
        num_checked: samples that were decoded again.
        wrong: a line for each sample that holds other frames than it says.
        changed: a line for each sample whose video is no longer the one it was built from.
        missing: a line for each sample whose video was not found.
        checked_by_decoder: samples that were decoded again, by the decoder that read them for the build.
        wrong_by_decoder: likewise, of those that are wrong.
    """

    num_checked: int
    wrong: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    checked_by_decoder: Mapping[str, int]
    wrong_by_decoder: Mapping[str, int]

    @property
    def is_sound(self) -> bool:
        """Every sample that could be compared is right, and there was one."""
        return self.num_checked > 0 and not self.wrong

    def describe(self) -> str:
        """Return what was found as one line."""
        others = [
            f"{count} {what}"
            for count, what in (
                (len(self.changed), "could not be compared, since their videos have changed"),
                (len(self.missing), "could not be compared, since their videos were not found"),
            )
            if count
        ]
        if not self.num_checked:
            return "; ".join(["no sample was decoded again", *others])
        found = f"{self.num_checked} samples decoded again"
        if not self.wrong:
            return "; ".join([f"{found}: all hold the frames that they say", *others])
        shares = ", ".join(
            f"{self.wrong_by_decoder.get(decoder, 0)} of {count} read by {decoder}"
            for decoder, count in self.checked_by_decoder.items()
        )
        found += f": {len(self.wrong)} do not hold what they say ({shares}); the data set was built wrong"
        cure = "its samples have to be made again: run `reelshard build` into an empty folder"
        return "; ".join([found, cure, *others])


@dataclass(frozen=True)
class _Verdict:
    kind: Literal["right", "wrong", "changed", "missing"]
    decoder: str
    line: str = ""


def check_sources(
    dataset: ShardDataset,
    finder: VideoFinder,
    count: int,
    *,
    threads: int = 4,
    progress: Progress = untold,
) -> SourceReport:
    """Decode `count` samples again, taken at random but the same at each call.

    Args:
        dataset: what was built.
        finder: of the videos that it was built from.
        count: at most all samples.
        threads: videos decoded at the same time.
        progress: called with (samples done, of which wrong) since its last call.

    Raises:
        ShardError: the data set does not say how its clips were cut out of videos, or its bytes are damaged.
    """
    view, compare = recorded_view(dataset), _compare_clip if "clip" in dataset.schema else _compare_frames
    if "masks" in dataset.schema:
        refuse_folders(dataset)
        compare = partial(compare_masked, look_alike=_look_alike)
    numbers = sorted(np.random.default_rng(SEED).choice(len(dataset), count, replace=False).tolist())
    verdicts: list[_Verdict] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for verdict in pool.map(lambda number: _check(dataset, number, finder, view, compare), numbers):
                verdicts.append(verdict)
                progress(1, int(verdict.kind == "wrong"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    checked = [verdict for verdict in verdicts if verdict.kind in ("right", "wrong")]
    return SourceReport(
        num_checked=len(checked),
        wrong=_lines(verdicts, "wrong"),
        changed=_lines(verdicts, "changed"),
        missing=_lines(verdicts, "missing"),
        checked_by_decoder=_count(checked),
        wrong_by_decoder=_count([verdict for verdict in checked if verdict.kind == "wrong"]),
    )


def recorded_view(dataset: ShardDataset) -> ViewSpec:
    """Return the view that a data set was built with.

    Raises:
        ShardError: it does not say, or this version cuts clips in another way.
    """
    spec = dataset.manifest.provenance.get("view")
    kinds = {field.name: field.kind for field in dataset.schema}
    beside = (kinds.get("times"), kinds.get("masks"))
    holds_pictures = kinds.get("clip") == "array" or (
        kinds.get("frames") == "packed" and beside in (("rows", None), (None, "packed"))
    )
    if not isinstance(spec, dict) or not holds_pictures or "json" not in kinds:
        raise ShardError(
            f"{dataset.directory} was not built from videos by `reelshard build`: it has no view, clips or frames or "
            "metadata to compare with its sources"
        )
    return ViewSpec.from_json(spec)


def _lines(verdicts: Sequence[_Verdict], kind: str) -> tuple[str, ...]:
    return tuple(verdict.line for verdict in verdicts if verdict.kind == kind)


def _count(verdicts: Sequence[_Verdict]) -> dict[str, int]:
    return dict(sorted(Counter(verdict.decoder for verdict in verdicts).items()))


def _check(dataset: ShardDataset, number: int, finder: VideoFinder, view: ViewSpec, compare: _Compare) -> _Verdict:
    key, decoder = dataset.key(number), "unknown"
    try:
        about = dataset.metadata(number)
        decoder = str(about.get("decoder", decoder))
        video = finder.find(key, about)
        if video is None:
            return _Verdict("missing", decoder, f"sample {key}: its video was not found")
        if not video.is_same:
            was = f"{about['source_bytes']} bytes, digest {about['source_xxh3_128']}"
            now = f"{video.source.num_bytes} bytes, digest {video.source.xxh3_128}"
            line = f"sample {key}: {video.root / video.path} has changed since the build: it had {was}, has {now}"
            return _Verdict("changed", decoder, line)
        with video.opened() as opened:
            problem = compare(dataset, number, about, opened, view)
    except BuildFailure as failure:
        problem = f"its video is refused today ({failure})"
    except ShardError as error:
        problem = str(error)
    line = "" if problem is None else f"sample {key} (read by {decoder}): {problem}"
    return _Verdict("wrong" if problem else "right", decoder, line)


def _stored_clip(dataset: ShardDataset, number: int, view: ViewSpec) -> Clip:
    clip = np.asarray(dataset.read(number, "clip"))
    if dataset.schema["clip"].layout == "tubes":
        clip = tubes_to_clip(clip, view.size // clip.shape[3])
    if clip.shape != view.clip_shape:
        raise ShardError(f"{dataset.directory}: clips are {clip.shape}, its view gives {view.clip_shape}")
    return clip


def _compare_frames(
    dataset: ShardDataset, number: int, about: Mapping[str, Any], video: OpenVideo, view: ViewSpec
) -> str | None:
    """Return what is wrong with a sample of JPEG frames, or None; JPEGs are compared by what they look like."""
    kind = FramesKind(view=view, quality=_quality(dataset))
    taken = take_frames(video.path, video.source, view, "pyav", kind.encode)
    due, times = list(taken.frame_indices), np.asarray(dataset.read(number, "times"))
    stored: Any = dataset.read(number, "frames")
    if about.get("frame_indices") != due or len(stored) != len(due):
        says = f"it says frames {_listed(about.get('frame_indices'))}, holds {len(stored)}"
        return f"{says}, its view takes {_listed(due)}"
    if len(times) != len(due) or not np.allclose(times, taken.timestamps_seconds, rtol=1e-6, atol=_TIME_SECONDS):
        return f"it says times {_listed(times.tolist())}, its frames are shown at {_listed(taken.timestamps_seconds)}"
    for frame, held, expected in zip(due, stored, taken.pictures, strict=True):
        if held != expected and not _look_alike(held, expected):
            return f"what it holds as frame {frame} does not look like frame {frame} of the video"
    return None


def _quality(dataset: ShardDataset) -> int:
    sample = dataset.manifest.provenance.get("sample")
    quality = sample.get("quality") if isinstance(sample, dict) else None
    if not isinstance(quality, int):
        raise ShardError(f"{dataset.directory} does not say the quality of its frames; they cannot be compared")
    return quality


def _look_alike(held: bytes, expected: bytes) -> bool:
    try:
        ours, theirs = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (held, expected))
    except (UnidentifiedImageError, OSError):
        return False
    return ours.shape == theirs.shape and _distance(ours, theirs) <= _ALIKE


def _compare_clip(
    dataset: ShardDataset, number: int, about: Mapping[str, Any], video: OpenVideo, view: ViewSpec
) -> str | None:
    """Return what is wrong with a sample that is a clip, or None."""
    stored = _stored_clip(dataset, number, view)
    clips, number_of_view = decode_views(video.path, video.source, view), about.get("view_index", 0)
    if number_of_view not in range(len(clips)):
        return f"it says that it is view {number_of_view!r} of {len(clips)}"
    clip = clips[number_of_view]
    due = list(clip.frame_indices)
    held = (
        due
        if np.array_equal(stored, clip.frames)
        else _recognise(stored, clip, video.path, lambda frame: view.cut(frame)[number_of_view % view.crops])
    )
    if not held == due == about.get("frame_indices"):
        says = _listed(about.get("frame_indices"))
        return f"it says frames {says}, holds {_listed(held)}, its view takes {_listed(due)}"
    times = about.get("timestamps")
    if not isinstance(times, list) or not np.allclose(times, clip.timestamps_seconds, rtol=0, atol=_TIME_SECONDS):
        return f"it says times {_listed(times)}, its frames are shown at {_listed(clip.timestamps_seconds)}"
    return None


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
