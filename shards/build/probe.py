"""What a video file contains, learnt from its container and packets without decoding a frame."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import xxhash
from av.container import InputContainer
from av.video.stream import VideoStream

from shards.build.container import declared_bytes
from shards.build.failure import BuildFailure

_DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_READ_BYTES = 1 << 20
MAX_FRAME_PIXELS = 7680 * 4320  # 8K; a frame is 100 MB as RGB


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """Identity of a source file, so that two copies of a data set can be compared."""

    num_bytes: int
    xxh3_128: str


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The video stream of one file.

    Attributes:
        num_frames: video packets in the file; one packet is one frame shown.
        timestamps_seconds: time of every frame in display order, relative to the first.
        pixel_format: FFmpeg's name, such as "yuv420p".
        frame_pixels: width x height, as the container says.
    """

    num_frames: int
    timestamps_seconds: tuple[float, ...]
    pixel_format: str
    frame_pixels: int


def read_source_file(path: Path) -> SourceFile:
    """Return size and digest of a file.

    Raises:
        BuildFailure: the file is missing, empty or unreadable.
    """
    digest, num_bytes = xxhash.xxh3_128(), 0
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
                num_bytes += len(chunk)
    except FileNotFoundError:
        raise BuildFailure("missing_file", "there is no such file") from None
    except OSError as error:
        raise BuildFailure("open_error", f"the file cannot be read: {error.strerror}") from error
    if num_bytes == 0:
        raise BuildFailure("empty_file", "the file has 0 bytes")
    return SourceFile(num_bytes=num_bytes, xxh3_128=digest.hexdigest())


def probe_video(path: Path, file_bytes: int) -> Probe:
    """Read the container and the packet table of a video.

    Args:
        path: the video.
        file_bytes: its size.

    Raises:
        BuildFailure: it is not a video, or it ends before its container says it does.
    """
    declared = declared_bytes(path)
    if declared is not None and declared > file_bytes:
        raise BuildFailure("truncated", f"the file has {file_bytes} bytes, its container declares {declared}")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise BuildFailure("open_error", "the file has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:  # PyAV's types do not say so: an unknown codec has none
                raise BuildFailure("open_error", "FFmpeg has no decoder for its video stream")
            frame_pixels = _check_dimensions(stream.codec_context.width, stream.codec_context.height)
            pts = _packet_times(container, stream)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            expected = _expected_seconds(container, stream)
            pixel_format = stream.codec_context.pix_fmt or ""
            timestamps = _timestamps(pts, stream.time_base, rate)
    except av.FFmpegError as error:
        raise BuildFailure("open_error", f"FFmpeg cannot open it: {error.strerror}") from error
    _check_duration(timestamps, rate, expected)
    return Probe(
        num_frames=len(timestamps), timestamps_seconds=timestamps, pixel_format=pixel_format, frame_pixels=frame_pixels
    )


def _check_dimensions(width: int, height: int) -> int:
    if width < 1 or height < 1 or width * height > MAX_FRAME_PIXELS:
        allowed = f"1 to {MAX_FRAME_PIXELS / 1e6:.0f} megapixels are allowed"
        raise BuildFailure("bad_dimensions", f"the frames are {width} x {height} px; {allowed}")
    return width * height


def _packet_times(container: InputContainer, stream: VideoStream) -> list[int | None]:
    """Demux the whole stream; an error in the middle ends it, and the duration check then tells what is missing."""
    times: list[int | None] = []
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
    except av.FFmpegError:
        if not times:
            raise
    return times


def _timestamps(pts: list[int | None], time_base: Fraction | None, rate: Fraction) -> tuple[float, ...]:
    known = sorted(time for time in pts if time is not None)
    if time_base is None or len(known) < len(pts) or len(set(known)) < len(known):
        return tuple(round(float(i / rate), 6) for i in range(len(pts)))
    return tuple(round(float((time - known[0]) * time_base), 6) for time in known)


def _expected_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return how long the video says it is; the container's duration counts where it holds nothing else."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if tag := _DURATION_TAG.fullmatch(stream.metadata.get("DURATION", "").strip()):
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _check_duration(timestamps: tuple[float, ...], rate: Fraction, expected: float | None) -> None:
    if not timestamps:
        raise BuildFailure("decode_error", "the video stream has no frames")
    if expected is None:
        return
    present = timestamps[-1] + float(1 / rate)
    if present < expected - max(2.5 / float(rate), 0.05 * expected):
        raise BuildFailure(
            "truncated", f"{len(timestamps)} frames cover {present:.2f} s of {expected:.2f} s declared by the container"
        )
