"""PyAV, the decoder by default: reads from the first key frame in order and knows each frame by its packet."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from shards.builder.decode.stream_facts import stored_packets
from shards.builder.decode.timeline import Shown, Timeline
from shards.builder.failure import BuildFailure

Picture = NDArray[np.uint8]  # [H, W, 3]
T = TypeVar("T")


class FrameChoice(Protocol):
    """Which frames are taken of a video: a view, or what its annotation says."""

    def frame_indices(self, num_source_frames: int, seconds: Sequence[float] = ()) -> list[int]:
        """Return the source frames that are taken, as `ViewSpec.frame_indices` does."""
        ...


def read_view(
    path: Path, timeline: Timeline, view: FrameChoice, make: Callable[[Picture], T]
) -> tuple[Shown, dict[int, T]]:
    """Read the view in one pass where every packet gives its frame in its turn, else in two.

    Args:
        path: the video.
        timeline: its packets.
        view: which frames are taken.
        make: what becomes of each of them, upright u8 [H, W, 3]; called once it is decoded, so that no more is kept.

    Returns:
        The frames that the video has, and what was made of those that the view takes, by packet.

    Raises:
        BuildFailure: the video cannot give this view.
    """
    expected, num_frames = timeline.expected, len(timeline.candidates)
    times = expected.seconds if expected else [number * timeline.frame_seconds for number in range(num_frames)]
    indices = view.frame_indices(num_frames, times)
    wanted, num_needed = set(indices), max(indices) + 1
    rgb = RGB()
    pictures: dict[int, T] = {}
    decoded: list[int] = []
    with closing(decode_frames(path, timeline)) as frames:
        for packet, frame in frames:
            if len(decoded) in wanted:
                pictures[packet] = make(rgb.convert(frame))
            decoded.append(packet)
            if len(decoded) == num_needed and expected and tuple(decoded) == expected.packets[:num_needed]:
                return expected, pictures
    shown = timeline.settle(decoded)
    missing = {shown.packets[i] for i in view.frame_indices(len(shown.packets), shown.seconds)} - pictures.keys()
    if missing:
        with closing(decode_frames(path, timeline)) as frames:
            pictures |= {packet: make(rgb.convert(frame)) for packet, frame in frames if packet in missing}
    return shown, pictures


def decode_frames(path: Path, timeline: Timeline) -> Generator[tuple[int, VideoFrame], None, None]:
    """Yield the frames of a video in the decoder's order, each with the number of the packet that it comes from.

    Raises:
        BuildFailure: the decoder fails, or had to make up for missing data.
    """
    candidates = frozenset(timeline.candidates)
    num_decoded = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            for frame in _frames_from(timeline.first, container, stream):
                if frame.is_corrupt:
                    found = f"frame {num_decoded} is damaged: the decoder had to make up for missing data"
                    raise BuildFailure("decode_error", found)
                if frame.pts in candidates:
                    yield frame.pts, frame
                    num_decoded += 1
    except av.FFmpegError as error:
        found = f"{num_decoded} of {len(candidates)} frames decode, then: {error.strerror}"
        raise BuildFailure("decode_error", found) from error


def _frames_from(first: int, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode from packet `first` on. Decoders hand a packet's time on to its frame; the packet's number goes there."""
    for number, packet in enumerate(stored_packets(container, stream)):
        if number >= first:
            packet.pts = number
            yield from stream.codec_context.decode(packet)
    yield from stream.codec_context.decode(None)


class RGB:
    """Turns decoded frames into upright u8 [H, W, 3]; keeps what is prepared for frames of one format."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, frame: VideoFrame) -> Picture:
        """Convert one frame."""
        pixels = np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
        return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))
