"""How fast the builder is: each decoder by itself, threads against processes, the whole build, the disk.

Called by `reelshard bench --build`; `tools.bench.teacher_rate` adds the teacher.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shards.builder import BuildConfig, Source, ViewSpec, build_dataset, decode_clip, load_folder
from shards.builder.decode.decoders import VideoDecoder, decoder_versions
from shards.builder.decode.isolate import DecodePool
from shards.builder.plan import make_plan
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter

VIDEO_SHAPE = (48, 240, 427, 3)  # frames, height, width of a Something-Something v2 video


@dataclass(frozen=True, kw_only=True)
class BuildRate:
    """One measurement: best of the rounds in wall-clock time, median of the rounds in CPU time.

    Attributes:
        what: such as "decode, PyAV, threads".
        workers: decoders at work at once.
        per_second: clips per second.
        cpu_milliseconds: CPU time of this process and its ended children, for each clip.
        decode_wait_share: of a build with a teacher, the share of its time in which the teacher waited for clips.
    """

    what: str
    workers: int
    per_second: float
    cpu_milliseconds: float
    decode_wait_share: float | None = None


def measure_build(*, num_clips: int, workers: Sequence[int], rounds: int) -> list[BuildRate]:
    """Measure on videos of SSv2's format that are made for it.

    Args:
        num_clips: videos to decode in each measurement.
        workers: numbers of decoders to try.
        rounds: how often each is measured, in turn.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, view, out = make_videos(Path(folder) / "videos", num_clips), ViewSpec(), Path(folder) / "out"
        jobs = {(what, count): job for count in workers for what, job in _decode_jobs(source, view, out, count)}
        jobs["write, tubes with targets", 1] = lambda: _write(out, num_clips)
        found: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in jobs}
        for _ in range(rounds):
            for key, job in jobs.items():
                found[key].append(time_job(job))
                shutil.rmtree(out, ignore_errors=True)  # not timed: freeing a data set's blocks takes the disk seconds
    return [
        BuildRate(
            what=what,
            workers=count,
            per_second=num_clips / min(wall for wall, _ in times),
            cpu_milliseconds=1e3 * float(np.median([cpu for _, cpu in times])) / num_clips,
        )
        for (what, count), times in found.items()
    ]


def _decode_jobs(source: Source, view: ViewSpec, out: Path, workers: int) -> Iterator[tuple[str, Callable[[], None]]]:
    paths = [source.root / item.path for item in source.items]
    config = BuildConfig(workers=workers, samples_per_shard=-(-len(paths) // 8), layout="tubes")

    def decode_with(decoder: VideoDecoder) -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda path: decode_clip(path, view, decoder), paths))

    def decode_in_processes() -> None:
        decoders = DecodePool(make_plan(source, view, config, split="train"), workers)
        for future in [decoders.submit(0, item) for item in source.items]:
            future.result()
        decoders.shutdown()

    def build(limit_seconds: float | None) -> None:
        build_dataset(source, out, view, replace(config, time_limit_seconds=limit_seconds))

    yield "decode, PyAV, threads", lambda: decode_with("pyav")
    if decoder_versions()["decord"]:
        yield "decode, decord checked by PyAV, threads", lambda: decode_with("decord")
    yield "decode, PyAV, processes", decode_in_processes
    yield "whole build without teacher, threads", lambda: build(None)
    yield "whole build without teacher, processes", lambda: build(60.0)


def make_videos(folder: Path, count: int) -> Source:
    """Write a few VP9 videos of SSv2's size and length into a new folder, and list them often enough."""
    import av
    from av.video.stream import VideoStream

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(min(count, 8)):
        small = random.integers(0, 256, (VIDEO_SHAPE[0], 15, 27, 3), np.uint8)
        with av.open(str(folder / f"{number}.webm"), "w") as container:
            stream = container.add_stream("libvpx-vp9", rate=12, options={"cpu-used": "8", "deadline": "realtime"})
            assert isinstance(stream, VideoStream)
            stream.height, stream.width, stream.pix_fmt = VIDEO_SHAPE[1], VIDEO_SHAPE[2], "yuv420p"
            for frame in np.cumsum(small, axis=0) // np.arange(1, len(small) + 1)[:, None, None, None]:
                large = np.repeat(np.repeat(frame, 16, 0), 16, 1)[: VIDEO_SHAPE[1], : VIDEO_SHAPE[2]].astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
            container.mux(stream.encode())
    source = load_folder(folder)
    items = [replace(source.items[i % len(source.items)], id=f"clip{i}") for i in range(count)]
    return replace(source, items=tuple(items))


def _write(folder: Path, num_clips: int) -> None:
    folder.mkdir(exist_ok=True)
    schema = Schema(
        (
            Field(name="clip", dtype="|u1", shape=(196, 8, 2, 16, 16, 3), layout="tubes"),
            Field(name="target", dtype="<f2", shape=(196, 8, 384), layout="tubes"),
        )
    )
    random = np.random.default_rng(0)
    clip = random.integers(0, 256, (196, 8, 2, 16, 16, 3), np.uint8)
    target = random.standard_normal((196, 8, 384), np.float32).astype(np.float16)
    with ShardWriter(folder / "write.tar", schema) as writer:
        for number in range(num_clips):
            writer.write(f"clip{number}", {"clip": clip, "target": target})


def time_job(job: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock and the CPU seconds of a job."""
    import resource

    def cpu() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    wall_before, cpu_before = time.perf_counter(), cpu()
    job()
    return time.perf_counter() - wall_before, cpu() - cpu_before
