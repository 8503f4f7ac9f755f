"""The view: which frames of a video, at which size. Frozen and hashed: the student must see what the teacher saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.builder.failure import BuildFailure
from shards.format.errors import ShardError

VIEW_VERSION = 1  # raise it when the same spec would give other pixels


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """How a clip is cut out of a video.

    The short side is scaled to `short_side` pixels (bilinear, antialiased) and the centre `size` x `size` is kept. Both
    axes have the same scale, so the aspect ratio is exact.

    Attributes:
        num_frames: frames in a clip, T.
        sampling: "uniform" takes the middle frame of T equal parts of the video; "stride" takes every `stride`-th frame
            of a window in the middle of the video.
        stride: distance between frames in source frames; used by "stride" only.
        size: side of the square crop in pixels.
        short_side: length of the short side before the crop in pixels; None means `size`.
        short_video: what to do with a video shorter than a clip: "pad" repeats its last frame, "refuse" records it as
            `too_few_frames`.

    Raises:
        ValueError: a value is out of range.
    """

    num_frames: int = 16
    sampling: Literal["uniform", "stride"] = "uniform"
    stride: int = 2
    size: int = 224
    short_side: int | None = None
    short_video: Literal["pad", "refuse"] = "pad"

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"view.{name} is {getattr(self, name)}; it must be at least 1")
        if self.short_side is not None and self.short_side < self.size:
            raise ValueError(
                f"view.short_side is {self.short_side}, smaller than view.size {self.size}; "
                "give a short side of at least the crop size, or leave it out"
            )
        if self.sampling not in ("uniform", "stride"):
            raise ValueError(f"view.sampling is {self.sampling!r}; choose 'uniform' or 'stride'")
        if self.short_video not in ("pad", "refuse"):
            raise ValueError(f"view.short_video is {self.short_video!r}; choose 'pad' or 'refuse'")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of a clip, [T, H, W, 3]."""
        return (self.num_frames, self.size, self.size, 3)

    def to_json(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as a JSON object."""
        spec: dict[str, Any] = {
            "version": VIEW_VERSION,
            "num_frames": self.num_frames,
            "sampling": self.sampling,
            "size": self.size,
            "short_side": self.short_side or self.size,
            "short_video": self.short_video,
            "resize": "bilinear-antialiased",
            "crop": "centre",
        }
        if self.sampling == "stride":
            spec["stride"] = self.stride
        return spec

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> ViewSpec:
        """Return the view that `to_json` described.

        Raises:
            ShardError: it is another version's, or not a view.
        """
        names = ("num_frames", "sampling", "size", "short_side", "short_video", "stride")
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
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def frame_indices(self, num_source_frames: int) -> list[int]:
        """Return the T source frames of the clip, in order.

        Args:
            num_source_frames: frames in the video, at least 1.

        Raises:
            BuildFailure: the video is shorter than a clip and `short_video` is "refuse".
        """
        step = 1 if self.sampling == "uniform" else self.stride
        span = (self.num_frames - 1) * step + 1
        if num_source_frames < span:
            if self.short_video == "refuse":
                raise BuildFailure("too_few_frames", f"the video has {num_source_frames} frames, a clip spans {span}")
            return [min(i * step, num_source_frames - 1) for i in range(self.num_frames)]
        if self.sampling == "uniform":
            return [(2 * i + 1) * num_source_frames // (2 * self.num_frames) for i in range(self.num_frames)]
        start = (num_source_frames - span) // 2
        return [start + i * step for i in range(self.num_frames)]

    def resize(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Scale and crop one frame.

        Only the pixels inside the crop are computed: the resampler gets the crop as a window of the source, and still
        looks beyond the window's edge where its filter reaches there.

        Args:
            frame: u8 [H, W, 3], C-contiguous.

        Returns:
            u8 [size, size, 3].
        """
        height, width = frame.shape[:2]
        window = self.size * min(height, width) / (self.short_side or self.size)
        left, top = max(0.0, (width - window) / 2), max(0.0, (height - window) / 2)
        box = (left, top, min(float(width), left + window), min(float(height), top + window))
        image = Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image)
