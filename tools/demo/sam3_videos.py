"""The videos of the SAM3 demo: 24 frames a second in MP4, with `_manual.json` beside them as SA-V has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from shards import rle
from shards.format.publish import publish_json
from shards.progress import Progress, untold
from tools.demo.processes import in_processes
from tools.demo.sam3_scenes import RestScene, draw_rest_scene, render_rest

HEIGHT, WIDTH = 96, 128
RATE, STEP = 24, 4  # frames a second, and from one annotated frame to the next
NUM_CONTEXT = 8
NUM_FRAMES = STEP * NUM_CONTEXT + 1  # a query and the annotated frames before it
AT_REST = STEP * (NUM_CONTEXT - 1)  # the frame from which on all rest
ONE_EMPTY_IN = 10  # videos; in the query frame of one of them nothing annotated is left
_PER_FOLDER = 1000
CHUNK = 20  # videos that a process makes at once; of one folder


@dataclass(frozen=True, kw_only=True)
class RestVideos:
    """What to make; video number i is drawn from (seed, i) alone.

    Attributes:
        num_videos: how many.
        seed: of all.
        alike: whether there are look-alikes; without them single frames teach what a thing is.
    """

    num_videos: int
    seed: int
    alike: bool = True

    def scene(self, number: int) -> RestScene:
        """The scene of a video."""
        empty = number % ONE_EMPTY_IN == ONE_EMPTY_IN - 1
        rng = np.random.default_rng([self.seed, number])
        return draw_rest_scene(rng, WIDTH / HEIGHT, empty=empty, alike=self.alike)


def make_rest_videos(sets: Mapping[Path, RestVideos], *, workers: int = 1, progress: Progress = untold) -> None:
    """Write `sav_train/sav_NNN/{id}.mp4` and `{id}_manual.json` into folders.

    Args:
        sets: folder, made when it is not there -> its videos.
        workers: processes that draw and encode.
        progress: called with the number of videos after every few.
    """
    parts = []
    for out, videos in sets.items():
        for first in range(0, videos.num_videos, CHUNK):
            _folder(out, first).mkdir(parents=True, exist_ok=True)
            parts.append((videos, out, range(first, min(first + CHUNK, videos.num_videos))))
    for count in in_processes(_make_chunk, parts, workers=workers):
        progress(count)


def _make_chunk(part: tuple[RestVideos, Path, range]) -> int:
    videos, out, numbers = part
    times = (np.arange(NUM_FRAMES) / AT_REST).tolist()
    for number in numbers:
        frames, masks = render_rest(videos.scene(number), times, HEIGHT)
        video_id = f"sav_{number:06}"
        encode_mp4(frames, _folder(out, number) / f"{video_id}.mp4")
        publish_json(_folder(out, number) / f"{video_id}_manual.json", annotation(video_id, masks[::STEP], len(frames)))
    return len(numbers)


def _folder(out: Path, number: int) -> Path:
    return out / "sav_train" / f"sav_{number // _PER_FOLDER:03}"


def encode_mp4(frames: NDArray[np.uint8], path: Path) -> None:
    """Write RGB frames, u8 `[T, H, W, 3]` with even H and W, at 24 a second."""
    options = {"preset": "veryfast", "crf": "18"}
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def annotation(video_id: str, masks: NDArray[np.bool_], num_frames: int) -> dict[str, Any]:
    """What SA-V says of a video with the masks bool `[annotated, objects, H, W]`; numbers as floats, as it has them."""
    shown = masks.any(axis=(2, 3))
    num_objects, (height, width) = masks.shape[1], masks.shape[2:]
    per_object: Sequence[int] = range(num_objects)
    return {
        "video_id": video_id,
        "video_duration": num_frames / RATE,
        "video_frame_count": float(num_frames),
        "video_height": float(height),
        "video_width": float(width),
        "video_resolution": float(height * width),
        "video_environment": "Indoor",
        "video_split": "train",
        "masklet": [[rle.encode(mask) for mask in objects] for objects in masks],
        "masklet_id": list(per_object),
        "masklet_first_appeared_frame": [float(frame) for frame in shown.argmax(axis=0)],
        "masklet_frame_count": [float(count) for count in shown.sum(axis=0)],
        "masklet_type": ["manual"] * num_objects,
        "masklet_num": num_objects,
    }
