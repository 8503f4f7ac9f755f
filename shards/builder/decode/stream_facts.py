"""What a video file contains, learnt from its container and packets without decoding a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import xxhash
from av.container import InputContainer
from av.packet import Packet as StoredPacket
from av.video.stream import VideoStream

from shards.builder.decode.container import declared_bytes
from shards.builder.decode.timeline import Packet, Timeline
from shards.builder.failure import BuildFailure

_DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_MATROSKA = "matroska,webm"
_READ_BYTES = 1 << 20
_WITHOUT_PTS = {"avi", "asf"}  # they store when a frame is decoded, not when it is shown
_WITHOUT_DURATION = {"mpeg", "mpegts"}  # FFmpeg estimates one from what is there
_REORDERS = 8  # FFmpeg's AV_CODEC_PROP_REORDER
_VP8_SHOWN = 0x10  # a bit of a VP8 packet's first byte
MAX_FRAME_PIXELS = 7680 * 4320  # 8K; a frame is 100 MB as RGB


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """Identity of a source file, so that two copies of a data set can be compared."""

    num_bytes: int
    xxh3_128: str


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """The video stream of one file.

    Attributes:
        timeline: its packets, and with them its frames and their times.
        container: FFmpeg's name of the container format, such as "matroska,webm".
        pixel_format: FFmpeg's name, such as "yuv420p".
        width: in pixels, as the container says.
        height: likewise.
    """

    timeline: Timeline
    container: str
    pixel_format: str
    width: int
    height: int

    @property
    def num_frames(self) -> int:
        """Frames in the file, if all decode."""
        return len(self.timeline.candidates)


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


def read_stream_facts(path: Path, file_bytes: int) -> StreamFacts:
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
            facts = _facts_of_stream(container, stream)
            expected = _expected_seconds(container, stream)
    except av.FFmpegError as error:
        raise BuildFailure("open_error", f"FFmpeg cannot open it: {error.strerror}") from error
    if not facts.timeline.candidates:
        raise BuildFailure("decode_error", "the video stream has no frames")
    _check_duration(facts.timeline, expected)
    return facts


def _facts_of_stream(container: InputContainer, stream: VideoStream) -> StreamFacts:
    context = stream.codec_context
    _check_dimensions(context.width, context.height)
    name = container.format.name
    timeline = Timeline(
        packets=_read_packets(container, stream, context.codec.canonical_name),
        tick_seconds=float(stream.time_base or 0),
        frame_seconds=float(1 / (stream.average_rate or stream.guessed_rate or Fraction(25))),
        has_pts=stream.time_base is not None and name not in _WITHOUT_PTS,
        reorders=bool(context.codec.properties & _REORDERS),
    )
    return StreamFacts(
        timeline=timeline,
        container=name,
        pixel_format=context.pix_fmt or "",
        width=context.width,
        height=context.height,
    )


def _check_dimensions(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_FRAME_PIXELS:
        allowed = f"1 to {MAX_FRAME_PIXELS / 1e6:.0f} megapixels are allowed"
        raise BuildFailure("bad_dimensions", f"the frames are {width} x {height} px; {allowed}")


def stored_packets(container: InputContainer, stream: VideoStream) -> Iterator[StoredPacket[VideoStream]]:
    """Yield the packets of a video stream that hold anything; a packet's place among them is its number."""
    return (packet for packet in container.demux(stream) if packet.size)


def _read_packets(container: InputContainer, stream: VideoStream, codec: str) -> tuple[Packet, ...]:
    """Demux the whole stream; an error in the middle ends it, and the duration check then tells what is missing."""
    packets: list[Packet] = []
    try:
        for packet in stored_packets(container, stream):
            hidden = codec == "vp8" and not memoryview(packet)[0] & _VP8_SHOWN
            packets.append(Packet(packet.pts, packet.dts, packet.is_keyframe, not (hidden or packet.is_discard)))
    except av.FFmpegError:
        if not packets:
            raise
    return tuple(packets)


def _expected_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return how long the video says it is; the container's duration counts where it holds nothing else."""
    if container.format.name in _WITHOUT_DURATION:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    start = 0.0  # Matroska says when a video ends, which is not how long it is where it begins later
    if container.format.name == _MATROSKA and stream.start_time and stream.time_base:
        start = float(stream.start_time * stream.time_base)
    if tag := _DURATION_TAG.fullmatch(stream.metadata.get("DURATION", "").strip()):
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - start
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base) - start
    return None


def _check_duration(timeline: Timeline, expected: float | None) -> None:
    if expected is None:
        return
    present = timeline.covered_seconds
    if present < expected - max(2.5 * timeline.frame_seconds, 0.05 * expected):
        num_frames = len(timeline.candidates)
        raise BuildFailure(
            "truncated", f"{num_frames} frames cover {present:.2f} s of {expected:.2f} s declared by the container"
        )
