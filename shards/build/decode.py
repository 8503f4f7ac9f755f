"""One video to one clip: decord by default, PyAV where decord cannot or cannot be trusted.

Frame choice and resizing are the view's, so both decoders give the same clip. Everything is opened per clip and with
one thread: small clips gain nothing from more, and a decoder carried over a fork hangs.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from shards.build.failure import BuildFailure
from shards.build.probe import Probe, SourceFile, probe_video, read_source_file
from shards.build.view import ViewSpec

Decoder = Literal["auto", "decord", "pyav"]
# decord converts deeper pixels (10 bit) wrongly; these it converts exactly as PyAV does.
_DECORD_PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuv444p"}
_DECORD_FRAME_PIXELS = 4096 * 2304  # decord holds all frames of a clip at their full size
_LOST_FRAMES = 0.05  # this share of the packets may give no frame: leading frames of an open group are no damage

Frames = dict[int, NDArray[np.uint8]]  # source frame number -> u8 [size, size, 3]


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A clip and where it came from.

    Attributes:
        frames: u8 [T, H, W, 3].
        frame_indices: T source frame numbers.
        timestamps_seconds: T times relative to the first frame of the video.
        num_source_frames: frames in the video.
        decoder: "decord" or "pyav".
        source: size and digest of the file.
    """

    frames: NDArray[np.uint8]
    frame_indices: tuple[int, ...]
    timestamps_seconds: tuple[float, ...]
    num_source_frames: int
    decoder: str
    source: SourceFile


class _FewerFramesError(Exception):
    """The stream ended without an error after `num_frames` frames."""

    def __init__(self, num_frames: int) -> None:
        super().__init__(num_frames)
        self.num_frames = num_frames


def decode_clip(path: Path, view: ViewSpec, decoder: Decoder = "auto") -> DecodedClip:
    """Decode the view of one video.

    Args:
        path: the video file.
        view: which frames, at which size.
        decoder: "auto" takes decord, and PyAV where decord is missing, fails or looks wrong.

    Raises:
        BuildFailure: with the reason, when the file cannot give this view.
    """
    source = read_source_file(path)
    return decode_source(path, source, view, decoder)


def decode_source(path: Path, source: SourceFile, view: ViewSpec, decoder: Decoder = "auto") -> DecodedClip:
    """Decode the view of a video whose size and digest are known; else as `decode_clip`."""
    probe = probe_video(path, source.num_bytes)
    indices = view.frame_indices(probe.num_frames)
    if decoder != "pyav" and (frames := _decode_decord(path, probe, indices, view, forced=decoder == "decord")):
        num_frames, used = probe.num_frames, "decord"
    else:
        num_frames, frames, used = *_decode_pyav_counted(path, probe.num_frames, view), "pyav"
        indices = view.frame_indices(num_frames)
    return DecodedClip(
        frames=np.stack([frames[i] for i in indices]),
        frame_indices=tuple(indices),
        timestamps_seconds=tuple(probe.timestamps_seconds[i] for i in indices),
        num_source_frames=num_frames,
        decoder=used,
        source=source,
    )


@functools.cache
def _decord() -> ModuleType | None:
    if importlib.util.find_spec("decord") is None:  # there is a wheel for x86-64 only
        return None
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # errors reach us as exceptions
    return decord  # type: ignore[no-any-return]


def decoder_versions() -> dict[str, str | None]:
    """Return the versions of the decoders at hand; None for one that is not installed."""
    decord = _decord()
    return {"decord": decord.__version__ if decord else None, "pyav": av.__version__}


def _decode_decord(path: Path, probe: Probe, indices: Sequence[int], view: ViewSpec, *, forced: bool) -> Frames | None:
    """Return the frames, or None where PyAV has to judge: decord failed, or may have repeated or dropped frames."""
    decord = _decord()
    fits = probe.pixel_format in _DECORD_PIXEL_FORMATS and probe.frame_pixels <= _DECORD_FRAME_PIXELS
    if decord is None or not (forced or fits):
        return None
    wanted = sorted(set(indices))
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) != probe.num_frames:
            return None
        pixels = reader.get_batch(wanted).asnumpy()
    except (decord.DECORDError, RuntimeError):
        return None
    if not forced and any(np.array_equal(pixels[i], pixels[i + 1]) for i in range(len(wanted) - 1)):
        return None  # a still video, or decord handing out one frame again and again
    return {i: view.resize(frame) for i, frame in zip(wanted, pixels, strict=True)}


def _decode_pyav_counted(path: Path, num_packets: int, view: ViewSpec) -> tuple[int, Frames]:
    """Decode with PyAV; where a few packets give no frame, choose again among the frames that there are."""
    try:
        return num_packets, _decode_pyav(path, num_packets, view.frame_indices(num_packets), view)
    except _FewerFramesError as fewer:
        num_frames = _accept_fewer(fewer.num_frames, num_packets)
    return num_frames, _decode_pyav(path, num_frames, view.frame_indices(num_frames), view)


def _decode_pyav(path: Path, num_frames: int, indices: Sequence[int], view: ViewSpec) -> Frames:
    wanted, last = set(indices), max(indices)
    frames: Frames = {}
    seen = 0
    reformatter = VideoReformatter()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            for seen, frame in enumerate(container.decode(stream), start=1):
                if seen - 1 in wanted:
                    rgb = np.asarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
                    frames[seen - 1] = view.resize(np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90)))
                if seen > last:
                    return frames
    except av.FFmpegError as error:
        raise BuildFailure("decode_error", f"{seen} of {num_frames} frames decode, then: {error.strerror}") from error
    raise _FewerFramesError(seen)


def _accept_fewer(decoded: int, expected: int) -> int:
    if decoded < expected - max(2, _LOST_FRAMES * expected):
        raise BuildFailure("truncated", f"{decoded} frames decode of the {expected} in the file, with no error")
    return decoded
