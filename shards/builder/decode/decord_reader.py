"""decord, an option: it reads in order, and only what the facts of a stream and PyAV show that it reads exactly.

decord numbers frames by counting. Its random access seeks to a key frame and counts on from there, but behind the key
frame of an open group of pictures a decoder leaves frames out, and decord then gives later ones without a word. Reading
in order is exact where every packet gives a frame. decord does not tell, nor that a frame is damaged; PyAV does.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

from shards.builder.decode.pyav_reader import FrameChoice, Picture, T, decode_frames
from shards.builder.decode.stream_facts import StreamFacts
from shards.builder.decode.timeline import Shown
from shards.builder.failure import BuildFailure

_CONTAINERS = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "avi"}  # in MPEG-TS decord loses the first frames
_PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuv444p"}  # deeper ones (10 bit) it converts wrongly
_FRAME_PIXELS = 4096 * 2304  # 28 MB as RGB
_NO_REPEATS = 1e-9  # the share of frames that it may repeat in place of those that it cannot decode


@functools.cache
def _decord() -> ModuleType | None:
    if importlib.util.find_spec("decord") is None:  # there is a wheel for x86-64 only
        return None
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # errors reach us as exceptions
    return decord  # type: ignore[no-any-return]


def version() -> str | None:
    """Return decord's version; None where it is not installed."""
    decord = _decord()
    return decord.__version__ if decord else None


def read_view(
    path: Path, facts: StreamFacts, view: FrameChoice, make: Callable[[Picture], T]
) -> tuple[Shown, dict[int, T]]:
    """Read the view; else as `pyav_reader.read_view`.

    Raises:
        BuildFailure: with `not_exact` where decord would give other frames or other pixels.
    """
    timeline = facts.timeline
    if objection := _why_not(facts):
        raise BuildFailure("not_exact", f"{objection}; build.decoder pyav reads it")
    decoded = []
    with closing(decode_frames(path, timeline)) as frames:
        for packet, frame in frames:
            if frame.rotation or frame.interlaced_frame:
                what = "turn frames" if frame.rotation else "convert interlaced frames"
                raise BuildFailure("not_exact", f"decord does not {what} exactly; build.decoder pyav reads it")
            decoded.append(packet)
    shown = timeline.settle(decoded)
    if len(decoded) < len(timeline.packets):
        found = f"{len(decoded)} of its {len(timeline.packets)} packets give frames, and decord counts them all"
        raise BuildFailure("not_exact", f"{found}; build.decoder pyav reads it")
    return shown, _read_in_order(path, shown, view, make)


def _why_not(facts: StreamFacts) -> str | None:
    """Return what speaks against decord before anything is decoded, or None."""
    width, height = facts.width, facts.height
    if _decord() is None:
        return "decord is not installed"
    if facts.container not in _CONTAINERS:
        return f"decord loses frames in the container {facts.container}"
    if facts.pixel_format not in _PIXEL_FORMATS:
        return f"decord does not convert {facts.pixel_format or 'these pixels'} exactly"
    if height % 2:
        return f"decord does not convert frames of an odd height exactly, these are {width} x {height} px"
    if width * height > _FRAME_PIXELS:
        return f"decord needs too much memory for frames of {width} x {height} px"
    return None


def _read_in_order(path: Path, shown: Shown, view: FrameChoice, make: Callable[[Picture], T]) -> dict[int, T]:
    decord = _decord()
    assert decord is not None
    wanted = set(view.frame_indices(len(shown.packets), shown.seconds))
    pictures = {}
    try:
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol=_NO_REPEATS)
        if len(reader) != len(shown.packets):
            raise BuildFailure("not_exact", f"decord finds {len(reader)} of {len(shown.packets)} frames")
        for number in range(max(wanted) + 1):  # not its skip_frames(), which seeks and so loses frames
            frame = reader.next()
            if number in wanted:
                pictures[shown.packets[number]] = make(frame.asnumpy())
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
        raise BuildFailure("not_exact", "decord cannot read all of it; build.decoder pyav reads it") from error
    return pictures
