"""Real videos for the builder's tests: encoded here, and the ones that REELSHARD_TEST_CLIPS points to."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from numpy.typing import NDArray

from shards.builder.decode.decoders import VideoDecoder

DECODERS: tuple[VideoDecoder, ...] = ("pyav", "decord") if find_spec("decord") else ("pyav",)
needs_decord = pytest.mark.skipif("decord" not in DECODERS, reason="decord is not installed")


def clips_folder() -> Path:
    """The folder of real videos made by others; skips the test where none is given.

    It holds `demo.mp4` of open-mmlab/mmaction2 as arm_wrestling.mp4, and test.avi of its tests; flipping_a_pancake.mkv,
    video_90.mov, unordered.mov and corrupted.mp4 of dmlc/decord; h264_10bits.mp4, av1_video.mkv of pytorch/torchcodec;
    sav_000001_manual.json of facebookresearch/sam2's SA-V examples.
    """
    folder = os.environ.get("REELSHARD_TEST_CLIPS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real videos here: set REELSHARD_TEST_CLIPS to a folder that holds them")
    return Path(folder)


def moving_square(num_frames: int = 24, height: int = 64, width: int = 96, seed: int = 0) -> NDArray[np.uint8]:
    """A square that moves over a smooth ground: u8 [T, H, W, 3], no two frames alike."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    ground = np.stack([rows * 160 // height, columns * 160 // width, np.full_like(rows, 60)], axis=-1)
    frames = np.repeat(ground[None], num_frames, 0).astype(np.uint8)
    top, colour = int(random.integers(0, height - 16)), random.integers(180, 255, 3)
    for number in range(num_frames):
        left = number * (width - 16) // num_frames
        frames[number, top : top + 16, left : left + 16] = colour
    return frames


def write_video(
    path: Path,
    frames: NDArray[np.uint8] | None = None,
    *,
    codec: str = "libvpx-vp9",
    rate: int = 12,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames (u8 [T, H, W, 3]) into the container that the suffix names."""
    frames = moving_square() if frames is None else frames
    options = {"cpu-used": "8", "deadline": "realtime"} if codec == "libvpx-vp9" else {"preset": "ultrafast"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def rotate_by_metadata(path: Path) -> None:
    """Turn the picture of an MP4 by a quarter through the matrix in its track header, the pixels stay as they are."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    path.write_bytes(data)
