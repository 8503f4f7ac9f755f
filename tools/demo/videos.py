"""Videos for the demo: VP9 in WebM, with annotations in the format of Something-Something v2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from shards.format.publish import publish_json
from shards.progress import Progress, untold
from tools.demo.processes import in_processes
from tools.demo.scenes import MOTIONS, SHAPES, Scene, draw_scene, render

FRAMES_PER_SECOND = 12
HEIGHT, WIDTH = 240, 320
NUM_FRAMES = (44, 52)  # about 4 s
FIRST_ID = 100_000
CHUNK = 25
# Fixed speed and one thread: the same frames give the same file.
_VP9_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """How many videos there are, and the seed that every one of them comes from.

    Attributes:
        num_train: videos of the training split.
        num_validation: videos of the validation split.
        seed: video number i is drawn from (seed, i) alone.
    """

    num_train: int
    num_validation: int
    seed: int = 0

    @property
    def total(self) -> int:
        """Of both splits."""
        return self.num_train + self.num_validation


def make_videos(videos: VideoSet, out: Path, *, workers: int = 1, progress: Progress = untold) -> None:
    """Write `out/videos/<id>.webm` and `out/labels/{labels,train,validation,test}.json`.

    Args:
        videos: what to make.
        out: folder, made when it is not there.
        workers: processes that draw and encode.
        progress: called with the number of videos after every few.
    """
    folder = out / "videos"
    folder.mkdir(parents=True, exist_ok=True)
    draw_in_processes(partial(_make_chunk, videos.seed, folder), videos.total, workers=workers, progress=progress)
    write_annotations(videos, out / "labels")


def draw_in_processes(draw: Callable[[range], int], total: int, *, workers: int, progress: Progress = untold) -> None:
    """Have videos 0 to `total` - 1 made by several processes.

    Args:
        draw: makes the videos of these numbers and gives back how many they are; it is pickled.
        total: how many videos there are.
        workers: processes that draw and encode.
        progress: called with the number of videos after every few.
    """
    chunks = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    for count in in_processes(draw, chunks, workers=workers):
        progress(count)


def scene_of(seed: int, number: int) -> tuple[Scene, int]:
    """The scene of a video and its number of frames; classes take turns."""
    rng = np.random.default_rng([seed, number])
    scene = draw_scene(MOTIONS[number % len(MOTIONS)], rng)
    return scene, int(rng.integers(*NUM_FRAMES, endpoint=True))


def _make_chunk(seed: int, folder: Path, numbers: range) -> int:
    for number in numbers:
        scene, num_frames = scene_of(seed, number)
        times = np.linspace(0, 1, num_frames).tolist()
        encode_webm(render(scene, times, HEIGHT, WIDTH), folder / f"{FIRST_ID + number}.webm")
    return len(numbers)


def encode_webm(frames: NDArray[np.uint8], path: Path, rate: int = FRAMES_PER_SECOND) -> None:
    """Write RGB frames, uint8 [T, H, W, 3] with even H and W, `rate` of them a second, as a VP9 video."""
    with av.open(path, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=Fraction(rate), options=_VP9_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_annotations(videos: VideoSet, folder: Path) -> None:
    """Write the JSON files that come with Something-Something v2."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(_class_name(motion.template) for motion in MOTIONS)
    publish_json(folder / "labels.json", {name: str(number) for number, name in enumerate(names)})
    train = range(videos.num_train)
    validation = range(videos.num_train, videos.num_train + videos.num_validation)
    publish_json(folder / "train.json", [_entry(videos.seed, number) for number in train])
    publish_json(folder / "validation.json", [_entry(videos.seed, number) for number in validation])
    publish_json(folder / "test.json", [])


def _class_name(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _entry(seed: int, number: int) -> dict[str, Any]:
    scene, _ = scene_of(seed, number)
    thing = f"{scene.colour} {SHAPES[scene.shape]}"
    template = scene.motion.template
    return {
        "id": str(FIRST_ID + number),
        "label": template.replace("[something]", thing),
        "template": template,
        "placeholders": [thing],
    }
