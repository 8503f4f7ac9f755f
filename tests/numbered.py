"""Videos whose pictures show their own number, in every codec and container that PyAV can write here.

The number is drawn in big blocks that survive lossy coding, a frame's change of size and the crop to a square, and is
read back from what a build has stored: so a test sees which frame a clip really shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

NUM_FRAMES = 24
RATE = 24
CONTAINERS = ("mp4", "mov", "mkv", "webm", "avi", "ts", "flv", "mpg", "asf", "3gp")
IRREGULAR = tuple(int(time) for time in np.cumsum([0] + [1, 3, 1, 2, 5, 1, 1, 4] * 3)[:NUM_FRAMES])
_FORMATS = {".h264": "h264", ".m2v": "mpeg2video"}  # bare streams; FFmpeg knows the others by their suffix
_NUM_BITS = 6
_BRIGHT, _DARK = np.array([250, 225, 150]), np.array([10, 40, 90])
_FRAME = [1, 0, 0, 1]  # the last row of blocks, the same in every picture


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How numbered pictures become a video stream.

    Attributes:
        codec: PyAV's name of the encoder.
        options: for the encoder.
        pixels: pixel format.
        height: in pixels.
        width: likewise.
        times: presentation time of each frame, in frames at the constant rate.
        turned: degrees by which a player turns the pictures back; they are stored turned the other way.
    """

    codec: str
    options: dict[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    height: int = 64
    width: int = 96
    times: Sequence[int] = range(NUM_FRAMES)
    turned: Literal[0, 90, 180, -90] = 0


def _x264(**params: object) -> Encoding:
    given = {"bframes": 3, "keyint": 8, "min-keyint": 8, "scenecut": 0, "open-gop": 0, "threads": 1} | params
    spelt = ":".join(f"{name}={value}" for name, value in given.items())
    return Encoding(codec="libx264", options={"preset": "ultrafast", "x264-params": spelt})


def _x265(open_gop: int) -> Encoding:
    params = f"keyint=8:min-keyint=8:scenecut=0:bframes=3:open-gop={open_gop}:log-level=none:pools=none:frame-threads=1"
    return Encoding(codec="libx265", options={"preset": "ultrafast", "x265-params": params})


_VP9 = {"deadline": "good", "cpu-used": "8", "g": "8", "auto-alt-ref": "1", "lag-in-frames": "6"}
ENCODINGS = {
    "H.264, closed groups": _x264(),
    "H.264, open groups": _x264(**{"b-pyramid": "normal", "open-gop": 1}),
    "H.264, rolling refresh": _x264(**{"intra-refresh": 1, "bframes": 0}),
    "H.265, closed groups": _x265(0),
    "H.265, open groups": _x265(1),
    "AV1": Encoding(codec="libsvtav1", options={"preset": "8", "crf": "20", "g": "8", "svtav1-params": "lp=1"}),
    "VP8": Encoding(codec="libvpx", options=_VP9),
    "VP9, alternate references": Encoding(codec="libvpx-vp9", options=_VP9),
    "MPEG-1": Encoding(codec="mpeg1video", options={"g": "8", "bf": "2"}),
    "MPEG-2": Encoding(codec="mpeg2video", options={"g": "8", "bf": "2"}),
    "MPEG-4": Encoding(codec="mpeg4", options={"g": "8", "bf": "2"}),
    "MPEG-4, no B-frames": Encoding(codec="mpeg4", options={"g": "8"}),
    "H.263": Encoding(codec="h263", height=96, width=128),
    "Sorenson H.263": Encoding(codec="flv"),
    "WMV 2": Encoding(codec="wmv2"),
    "MJPEG": Encoding(codec="mjpeg", pixels="yuvj420p"),
    "ProRes": Encoding(codec="prores_ks", pixels="yuv422p10le"),
    "DNxHR": Encoding(codec="dnxhd", options={"profile": "dnxhr_sq"}, pixels="yuv422p", height=128, width=256),
    "FFV1": Encoding(codec="ffv1"),
    "HuffYUV": Encoding(codec="huffyuv", pixels="yuv422p"),
    "Ut Video": Encoding(codec="utvideo"),
    "PNG": Encoding(codec="png", pixels="rgb24"),
}
_TEN_BIT = replace(_x264(), pixels="yuv420p10le")
PECULIAR = {
    "irregular times, H.264": (replace(ENCODINGS["H.264, open groups"], times=IRREGULAR), ("mp4", "mkv", "ts", "flv")),
    "irregular times, H.265": (replace(_x265(1), times=IRREGULAR), ("mp4", "mkv", "ts")),
    "irregular times, AV1": (replace(ENCODINGS["AV1"], times=IRREGULAR), ("mp4", "mkv", "webm")),
    "irregular times, VP9": (replace(ENCODINGS["VP9, alternate references"], times=IRREGULAR), ("mp4", "webm")),
    "odd width, VP9": (replace(ENCODINGS["VP9, alternate references"], width=97), ("webm", "mp4")),
    "odd width, MJPEG": (replace(ENCODINGS["MJPEG"], width=97), ("avi", "mov")),
    "odd height, H.264 4:4:4": (replace(_x264(), pixels="yuv444p", height=65, width=97), ("mp4", "mkv")),
    "odd height, VP9": (replace(ENCODINGS["VP9, alternate references"], height=65, width=97), ("webm", "mp4")),
    "odd height, MPEG-4": (replace(ENCODINGS["MPEG-4"], height=65, width=97), ("mp4", "avi")),
    "odd height, MJPEG": (replace(ENCODINGS["MJPEG"], height=65, width=97), ("avi", "mov")),
    "turned by 90 degrees, H.264": (replace(_x264(), width=64, turned=90), ("mp4", "mov", "mkv")),
    "turned by 180 degrees, VP9": (replace(ENCODINGS["VP9, alternate references"], turned=180), ("mp4", "webm")),
    "turned by -90 degrees, MPEG-4": (replace(ENCODINGS["MPEG-4"], width=64, turned=-90), ("mp4", "mov")),
    "10 bits, H.264": (_TEN_BIT, ("mp4", "mkv")),
    "interlaced, H.264": (_x264(tff=1), ("mp4", "mkv", "ts")),
}


def picture(number: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """The picture that shows `number`, u8 [H, W, 3]: 4 x 4 blocks in its centre, the number and its complement."""
    bits = [number >> place & 1 for place in range(_NUM_BITS)]
    blocks = np.array(bits + [1 - bit for bit in bits] + _FRAME).reshape(4, 4)
    side = min(height, width) // 4
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 200 // height, columns * 200 // width, np.full_like(rows, 60)], axis=-1).astype(np.uint8)
    top, left = (height - 4 * side) // 2, (width - 4 * side) // 2
    large = np.repeat(np.repeat(blocks, side, 0), side, 1)
    image[top : top + 4 * side, left : left + 4 * side] = np.where(large[..., None], _BRIGHT, _DARK)
    return image


def number_of(clip_frame: NDArray[np.uint8]) -> int | None:
    """The number that a square frame (u8 [size, size, 3]) shows; None where it shows none."""
    side = len(clip_frame) / 4
    centres = (np.arange(4) * side + side / 2).astype(int)
    bits = [
        int(clip_frame[row - 1 : row + 1, column - 1 : column + 1].mean() > 125)
        for row in centres
        for column in centres
    ]
    number, complement = bits[:_NUM_BITS], bits[_NUM_BITS : 2 * _NUM_BITS]
    if bits[2 * _NUM_BITS :] != _FRAME or any(a == b for a, b in zip(number, complement, strict=True)):
        return None
    return sum(bit << place for place, bit in enumerate(number))


def write_numbered(path: Path, encoding: Encoding, num_frames: int = NUM_FRAMES) -> Path | None:
    """Encode `num_frames` numbered pictures into the container that the suffix names.

    Returns:
        The path; None where this PyAV lacks the encoder, or the container does not take the codec.
    """
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(path), "w", format=_FORMATS.get(path.suffix)) as container:
            stream = container.add_stream(encoding.codec, rate=RATE, options=dict(encoding.options))
            assert isinstance(stream, VideoStream)
            stream.height, stream.width, stream.pix_fmt = encoding.height, encoding.width, encoding.pixels
            stream.codec_context.thread_count = 1
            if encoding.turned:
                stream.set_display_rotation(encoding.turned)
            for number in range(num_frames):
                image = np.rot90(picture(number, encoding.height, encoding.width), -encoding.turned // 90)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = encoding.times[number], Fraction(1, RATE)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (ValueError, av.FFmpegError, av.codec.codec.UnknownCodecError):
        path.unlink(missing_ok=True)
        return None
    return path


def remux(source: Path, target: Path, change: Callable[[int, Packet[Any]], Packet[Any] | None]) -> Path:
    """Copy a video's packets into another file; `change` takes each packet with its place, and may leave it out."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=_FORMATS.get(target.suffix)) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = (packet for packet in old.demux(video=0) if packet.size)
        for number, packet in enumerate(packets):
            changed = change(number, packet)
            if changed is not None:
                changed.stream = stream
                new.mux(changed)
    return target


def with_data(packet: Packet[Any], data: bytes) -> Packet[Any]:
    """The same packet with other contents."""
    changed: Packet[Any] = Packet(data)
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    changed.is_keyframe = packet.is_keyframe
    return changed
