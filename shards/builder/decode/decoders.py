"""One video to one clip: frame choice and resizing are the view's, so every decoder gives the same clip.

Everything is opened per clip and with one thread: small clips gain nothing from more, and a decoder carried over a fork
hangs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal

import av
import numpy as np
import PIL
from numpy.typing import NDArray

from shards.builder.decode import decord_reader, pyav_reader
from shards.builder.decode.pyav_reader import FrameChoice, Picture, T
from shards.builder.decode.stream_facts import SourceFile, read_source_file, read_stream_facts
from shards.builder.decode.view import ViewSpec

VideoDecoder = Literal["pyav", "auto", "decord"]


@dataclass(frozen=True, kw_only=True)
class TakenFrames(Generic[T]):
    """What a view takes of a video.

    Attributes:
        pictures: what was made of each frame.
        frame_indices: source frame numbers: places among the video's frames by presentation time.
        timestamps_seconds: presentation times relative to the first frame of the video.
        num_source_frames: frames in the video.
        decoder: "pyav" or "decord".
    """

    pictures: tuple[T, ...]
    frame_indices: tuple[int, ...]
    timestamps_seconds: tuple[float, ...]
    num_source_frames: int
    decoder: str


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A clip, one view of a video, and where it came from.

    Attributes:
        frames: u8 [T, H, W, 3].
        frame_indices: T source frame numbers: places among the video's frames by presentation time.
        timestamps_seconds: T presentation times relative to the first frame of the video.
        num_source_frames: frames in the video.
        decoder: "pyav" or "decord".
        source: size and digest of the file.
    """

    frames: NDArray[np.uint8]
    frame_indices: tuple[int, ...]
    timestamps_seconds: tuple[float, ...]
    num_source_frames: int
    decoder: str
    source: SourceFile


def decode_clip(path: Path, view: ViewSpec, decoder: VideoDecoder = "pyav") -> DecodedClip:
    """Decode the view of one video; of several views the first.

    Args:
        path: the video file.
        view: which frames, at which size.
        decoder: "pyav"; "decord", which fails with `not_exact` where it would give other frames; or "auto", which is
            PyAV: decord would have to be checked by PyAV, and so is nowhere faster.

    Raises:
        BuildFailure: with the reason, when the file cannot give this view.
    """
    return decode_views(path, read_source_file(path), view, decoder)[0]


def decode_views(
    path: Path, source: SourceFile, view: ViewSpec, decoder: VideoDecoder = "pyav"
) -> tuple[DecodedClip, ...]:
    """Decode a video whose size and digest are known, once, into all views of it: crop after crop, clip after clip.

    Raises:
        BuildFailure: as of `decode_clip`; a video that cannot give one of its views gives none.
    """
    taken = take_frames(path, source, view, decoder, view.cut)
    pictures = np.stack(taken.pictures)  # [clips * T, crops, H, W, 3]
    length = len(pictures) // view.clips
    return tuple(
        DecodedClip(
            frames=np.ascontiguousarray(pictures[part, crop]),
            frame_indices=taken.frame_indices[part],
            timestamps_seconds=taken.timestamps_seconds[part],
            num_source_frames=taken.num_source_frames,
            decoder=taken.decoder,
            source=source,
        )
        for part in (slice(clip * length, (clip + 1) * length) for clip in range(view.clips))
        for crop in range(view.crops)
    )


def take_frames(
    path: Path, source: SourceFile, view: FrameChoice, decoder: VideoDecoder, make: Callable[[Picture], T]
) -> TakenFrames[T]:
    """Decode the frames that a view takes.

    Args:
        path: the video file.
        source: its size and digest.
        view: which frames.
        decoder: as of `decode_clip`.
        make: what becomes of each, upright u8 [H, W, 3] as it is decoded.

    Raises:
        BuildFailure: with the reason, when the file cannot give this view.
    """
    facts = read_stream_facts(path, source.num_bytes)
    if decoder == "decord":
        shown, pictures = decord_reader.read_view(path, facts, view, make)
    else:
        shown, pictures = pyav_reader.read_view(path, facts.timeline, view, make)
    indices = view.frame_indices(len(shown.packets), shown.seconds)
    return TakenFrames(
        pictures=tuple(pictures[shown.packets[i]] for i in indices),
        frame_indices=tuple(indices),
        timestamps_seconds=tuple(shown.seconds[i] for i in indices),
        num_source_frames=len(shown.packets),
        decoder="decord" if decoder == "decord" else "pyav",
    )


def decoder_versions() -> dict[str, str | None]:
    """Return the versions of the decoders at hand; None for one that is not installed."""
    return {"decord": decord_reader.version(), "pyav": av.__version__}


def decoder_facts(decoder: VideoDecoder) -> dict[str, str]:
    """Name what decides a clip's pixels, and not what else is installed: "auto" is PyAV.

    Raises:
        ValueError: the decoder is not installed.
    """
    versions = decoder_versions()
    names = ("pyav", "decord") if decoder == "decord" else ("pyav",)
    if absent := [name for name in names if versions[name] is None]:
        raise ValueError(f"build.decoder is {decoder!r}, but {absent[0]} is not installed here; choose pyav")
    used = {name: str(versions[name]) for name in names}
    return {"choice": names[-1], **used, "pillow": PIL.__version__, "frames_by": "presentation time"}
