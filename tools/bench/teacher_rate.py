"""How fast a teacher is, and how long it waits in a build. Called by `reelshard bench --build --teacher`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.teacher import VideoMAETeacher
from shards.builder import BuildConfig, BuildSummary, Source, ViewSpec, build_dataset
from tools.bench.build import BuildRate, make_videos, time_job

BATCH = 16
BUILD_SECONDS = 20.0  # of the teacher's time, in a build


def measure_teacher(
    teacher: VideoMAETeacher, *, workers: Sequence[int], rounds: int, most_clips: int
) -> list[BuildRate]:
    """Measure a teacher by itself, then whole builds with it whose decoders are processes.

    Args:
        teacher: the view and the tubes of the builds are made to fit it.
        workers: numbers of decoders to try.
        rounds: batches to time, after one to warm up.
        most_clips: in a build; a slow teacher gets fewer, about 20 s worth, but at least two batches.
    """
    frames, size = teacher.clip_shape[:2]
    clips = np.random.default_rng(0).integers(0, 256, (BATCH, *teacher.clip_shape), np.uint8)
    teacher(clips)
    times = [time_job(lambda: teacher(clips)) for _ in range(rounds)]
    alone = BuildRate(
        what=f"teacher, batches of {BATCH}",
        workers=1,
        per_second=BATCH / min(wall for wall, _ in times),
        cpu_milliseconds=1e3 * float(np.median([cpu for _, cpu in times])) / BATCH,
    )
    num_batches = max(2, int(min(alone.per_second * BUILD_SECONDS, most_clips)) // BATCH)
    with tempfile.TemporaryDirectory() as folder:
        source = make_videos(Path(folder) / "videos", num_batches * BATCH)
        view = ViewSpec(num_frames=frames, size=size)
        builds = [_build(source, view, teacher, count) for count in workers]
    return [alone, *builds]


def _build(source: Source, view: ViewSpec, teacher: VideoMAETeacher, workers: int) -> BuildRate:
    num_batches = len(source.items) // BATCH
    model: Any = teacher.backbone.config
    config = BuildConfig(
        workers=workers,
        samples_per_shard=BATCH * -(-num_batches // 8),  # full batches: none crosses the border of a shard
        tubelet=model.tubelet_size,
        patch=model.patch_size,
        teacher_batch=BATCH,
    )
    summaries: list[BuildSummary] = []
    with tempfile.TemporaryDirectory() as out:
        wall, cpu = time_job(lambda: summaries.append(build_dataset(source, Path(out), view, config, teacher=teacher)))
    (summary,) = summaries
    return BuildRate(
        what=f"whole build with teacher, {summary.num_planned} clips, processes",
        workers=workers,
        per_second=summary.num_planned / wall,
        cpu_milliseconds=1e3 * cpu / summary.num_planned,
        decode_wait_share=summary.stages.decode_wait / wall,
    )
