"""The view: which frames of a video, at which size. Frozen and hashed: the student must see what the teacher saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.builder.failure import BuildFailure
from shards.format.errors import ShardError
from shards.format.views import hash_of_view

VIEW_VERSION = 1  # raise it when the same spec would give other pixels

Sampling = Literal["uniform", "stride", "every", "fps"]
Geometry = Literal["crop", "squash", "whole"]
_OF_ONE_LENGTH = ("uniform", "stride")
LOWEST_QUALITY, HIGHEST_QUALITY = 1, 95  # of JPEGs; above, Pillow's grow and look no better
_TIME_SHARE = 1e-6  # of the distance between two wanted times: what rounding may make of a frame's time


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """Which frames are taken of a video, and how each is cut out. Scaling is bilinear, antialiased.

    Attributes:
        num_frames: frames in a clip, T; of "uniform" and "stride".
        sampling: "uniform" takes the middle frame of T equal parts of the video; "stride" takes every `stride`-th frame
            of a window in the middle of the video; "every" takes every `stride`-th frame of the whole video; "fps"
            takes the frames shown nearest to the times 0, 1 / fps, 2 / fps, ... to the video's end, each once.
        stride: distance between frames in source frames; of "stride" and "every".
        size: side of a square picture in pixels; of "crop" and "squash".
        short_side: of "crop", the length of the short side before the crop in pixels, None meaning `size`; of "whole",
            the most that a short side may have.
        short_video: what to do with a video shorter than a clip: "pad" repeats its last frame, "refuse" records it as
            `too_few_frames`; of "uniform" and "stride".
        fps: frames in a second; of "fps".
        max_frames: of "every" and "fps", the most frames; of more, so many are taken at equal distances. None takes
            all.
        geometry: "crop" scales the short side to `short_side` and keeps the centre `size` x `size`, with the exact
            aspect ratio; "squash" scales the picture to `size` x `size`, whatever its aspect ratio; "whole" keeps all
            of it, smaller where its short side is longer than `short_side`.
        clips: of "uniform" and "stride", clips of a video, which show it at different times.
        crops: of "crop", squares cut out of each frame: of more than one the first lies at one end of the long side,
            the last at the other, as in multi-crop tests.
        quality: of the JPEGs that the teacher sees, too, from 1 to 95; of samples that say so.

    Raises:
        ValueError: a value is out of range.
    """

    num_frames: int = 16
    sampling: Sampling = "uniform"
    stride: int = 2
    size: int = 224
    short_side: int | None = None
    short_video: Literal["pad", "refuse"] = "pad"
    fps: float = 1.0
    max_frames: int | None = None
    geometry: Geometry = "crop"
    clips: int = 1
    crops: int = 1
    quality: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride", "size", "short_side", "max_frames", "clips", "crops"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"view.{name} is {value}; it must be at least 1")
        for name, choices in (("sampling", get_args(Sampling)), ("geometry", get_args(Geometry))):
            if getattr(self, name) not in choices:
                allowed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
                raise ValueError(f"view.{name} is {getattr(self, name)!r}; choose {allowed}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"view.fps is {self.fps}; give the frames in a second, more than 0")
        if self.max_frames is not None and self.sampling in _OF_ONE_LENGTH:
            raise ValueError(
                f"view.max_frames is {self.max_frames}, but {self.sampling!r} takes view.num_frames of each video: "
                "leave it out, or choose view.sampling 'every' or 'fps'"
            )
        if self.geometry == "squash" and self.short_side is not None:
            raise ValueError(
                f"view.short_side is {self.short_side}, but 'squash' scales to view.size x view.size: leave it out"
            )
        if self.geometry == "crop" and self.short_side is not None and self.short_side < self.size:
            raise ValueError(
                f"view.short_side is {self.short_side}, smaller than view.size {self.size}; "
                "give a short side of at least the crop size, or leave it out"
            )
        if self.clips > 1 and self.sampling not in _OF_ONE_LENGTH:
            raise ValueError(
                f"view.clips is {self.clips}, but {self.sampling!r} takes frames of a whole video: leave it out, or "
                "choose view.sampling 'uniform' or 'stride'"
            )
        if self.crops > 1 and self.geometry != "crop":
            raise ValueError(f"view.crops is {self.crops}, but {self.geometry!r} crops nothing: leave it out")
        if self.quality is not None:
            check_quality(self.quality, "view.quality")
        if self.short_video not in ("pad", "refuse"):
            raise ValueError(f"view.short_video is {self.short_video!r}; choose 'pad' or 'refuse'")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of a clip, [T, H, W, 3].

        Raises:
            ValueError: videos differ in it.
        """
        if self.sampling not in _OF_ONE_LENGTH:
            raise ValueError(
                f"view.sampling {self.sampling!r} takes more frames of longer videos, and a clip has view.num_frames: "
                "choose 'uniform' or 'stride'"
            )
        if self.geometry == "whole":
            raise ValueError("view.geometry 'whole' keeps the shape of each video, and clips have one: choose 'crop'")
        return (self.num_frames, self.size, self.size, 3)

    @property
    def num_views(self) -> int:
        """Clips of one video that become samples: view v is crop `v % crops` of clip `v // crops`."""
        return self.clips * self.crops

    def to_json(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as a JSON object."""
        spec: dict[str, Any] = {"version": VIEW_VERSION, "sampling": self.sampling, "resize": "bilinear-antialiased"}
        if self.sampling in _OF_ONE_LENGTH:
            spec |= {"num_frames": self.num_frames, "short_video": self.short_video}
        else:
            spec |= {"max_frames": self.max_frames}
        if self.sampling in ("stride", "every"):
            spec["stride"] = self.stride
        if self.sampling == "fps":
            spec["fps"] = float(self.fps)
        if self.quality is not None:
            spec["quality"] = self.quality
        if self.num_views > 1:
            spec |= {"clips": self.clips, "crops": self.crops}
        if self.geometry == "crop":  # as specs were before there was another one
            place = "centre" if self.crops == 1 else "along the long side"
            return spec | {"size": self.size, "short_side": self.short_side or self.size, "crop": place}
        if self.geometry == "squash":
            return spec | {"geometry": "squash", "size": self.size}
        return spec | {"geometry": "whole", "short_side": self.short_side}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> ViewSpec:
        """Return the view that `to_json` described.

        Raises:
            ShardError: it is another version's, or not a view.
        """
        names = cls.__dataclass_fields__
        try:
            view = cls(**{name: spec[name] for name in names if name in spec})
        except (TypeError, ValueError) as error:
            raise ShardError(f"the view that was built with is not understood: {error}") from None
        if view.to_json() != {name: value for name, value in spec.items() if name != "hash"}:
            raise ShardError(f"the view that was built with is one of another version: {dict(spec)}")
        return view

    @property
    def hash(self) -> str:
        """sha256 (hex) of the canonical JSON of the spec."""
        return hash_of_view(self.to_json())

    def frame_indices(self, num_source_frames: int, seconds: Sequence[float] = ()) -> list[int]:
        """Return the source frames that are taken, in order, one at least; of several clips, clip after clip.

        Args:
            num_source_frames: frames in the video, at least 1.
            seconds: when each is shown, never falling; "fps" needs it.

        Raises:
            BuildFailure: the video is shorter than a clip and `short_video` is "refuse".
        """
        if self.sampling == "every":
            return self._capped(range(0, num_source_frames, self.stride))
        if self.sampling == "fps":
            return self._capped(_at_rate(seconds, self.fps))
        step = 1 if self.sampling == "uniform" else self.stride
        span = (self.num_frames - 1) * step + 1
        if num_source_frames < span:
            if self.short_video == "refuse":
                raise BuildFailure("too_few_frames", f"the video has {num_source_frames} frames, a clip spans {span}")
            return [min(i * step, num_source_frames - 1) for i in range(self.num_frames)] * self.clips
        if self.sampling == "uniform":
            return self._between(num_source_frames)
        return [start + i * step for start in self._starts(num_source_frames, span) for i in range(self.num_frames)]

    def _between(self, num_source_frames: int) -> list[int]:
        """Clips that take turns: their frames lie 1 / clips of a part apart, and those of one are the parts' middles.

        Of two clips, one takes the beginnings of the parts, the other their middles, as VideoMAE's and TSN's tests do.
        """
        twice = 2 * self.clips
        offsets = [(2 * clip + self.clips % 2) for clip in range(self.clips)]  # in 1 / twice of a part
        parts = range(self.num_frames)
        return [num_source_frames * (twice * i + at) // (twice * self.num_frames) for at in offsets for i in parts]

    def _starts(self, num_source_frames: int, span: int) -> list[int]:
        """Where the windows begin: in the middle of equal parts of the video, or spread over it where those are short.

        These are V-JEPA's segments, with the middle of each where its training draws a window.
        """
        part, clips = num_source_frames // self.clips, range(self.clips)
        if part >= span:
            return [clip * num_source_frames // self.clips + (part - span) // 2 for clip in clips]
        return [clip * (num_source_frames - span) // (self.clips - 1) for clip in clips]

    def _capped(self, frames: Sequence[int]) -> list[int]:
        if self.max_frames is None or len(frames) <= self.max_frames:
            return list(frames)
        return _middles(frames, self.max_frames)

    def resize(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Scale one frame, and crop it.

        Only the pixels inside the crop are computed: the resampler gets the crop as a window of the source, and still
        looks beyond the window's edge where its filter reaches there.

        Args:
            frame: u8 [H, W, 3], C-contiguous.

        Returns:
            u8 [size, size, 3]; of "whole" the frame's own shape, or a smaller one.
        """
        height, width = frame.shape[:2]
        if self.geometry == "crop":
            return self._crop(frame, 0.5)
        if self.geometry == "squash":
            return _scaled(frame, (self.size, self.size))
        shrink = max(1.0, min(height, width) / (self.short_side or math.inf))
        return _scaled(frame, (round(width / shrink), round(height / shrink))) if shrink > 1 else frame

    def cut(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut all crops out of one frame: u8 [crops, size, size, 3], from the left or the top on."""
        if self.crops == 1:
            return self.resize(frame)[None]
        return np.stack([self._crop(frame, crop / (self.crops - 1)) for crop in range(self.crops)])

    def _crop(self, frame: NDArray[np.uint8], along: float) -> NDArray[np.uint8]:
        """Cut the square at a place along the long side, from 0 to 1, and in the middle of the short one."""
        height, width = frame.shape[:2]
        window = self.size * min(height, width) / (self.short_side or self.size)
        across, down = (along, 0.5) if width >= height else (0.5, along)
        left, top = max(0.0, (width - window) * across), max(0.0, (height - window) * down)
        box = (left, top, min(float(width), left + window), min(float(height), top + window))
        return _scaled(frame, (self.size, self.size), box)


def check_quality(quality: int, what: str) -> None:
    """Refuse a quality that JPEGs do not have.

    Raises:
        ValueError: Naming `what` it is.
    """
    if not LOWEST_QUALITY <= quality <= HIGHEST_QUALITY:
        raise ValueError(f"{what} is {quality}; JPEGs have {LOWEST_QUALITY} to {HIGHEST_QUALITY}")


def refuse_quality(view: ViewSpec) -> None:
    """Refuse a quality of JPEGs in the view of samples that have none, or have it elsewhere.

    Raises:
        ValueError: there is one.
    """
    if view.quality is not None:
        raise ValueError(f"view.quality is {view.quality}, but it is not the view that says it here: leave it out")


def _scaled(
    frame: NDArray[np.uint8], size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, box=box))


def _middles(frames: Sequence[int], count: int) -> list[int]:
    """The middle ones of `count` equal parts."""
    return [frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count)]


def _at_rate(seconds: Sequence[float], fps: float) -> list[int]:
    """The frames that are nearest to a multiple of 1 / fps; of two, the earlier one.

    A frame is nearest to the times from the middle between it and the one before to the middle to the next: it is taken
    if a multiple lies there. The last one is taken to be followed by another as far away as the one before.
    """
    times = np.asarray(seconds, np.float64) - seconds[0]
    steps = np.diff(times, prepend=0)
    borders = times + np.append(steps[1:], steps[-1]) / 2
    passed = np.floor(borders * fps + _TIME_SHARE)  # the multiples up to each border, without 0
    taken: list[int] = np.flatnonzero(np.diff(passed, prepend=-1) > 0).tolist()
    return taken
