"""What the builder's tests share: a small build, and what is compared of it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from shards.builder import BuildConfig, BuildSummary, Item, Source, ViewSpec, build_dataset
from tests.teachers import MeanTeacher
from tests.videos import moving_square, write_video

ROOT = Path(__file__).parents[1]
VIEW = ViewSpec(num_frames=4, size=32)
CONFIG = BuildConfig(samples_per_shard=3, workers=2, teacher_batch=2, time_limit_seconds=None)


def make_teacher(device: str) -> MeanTeacher:
    """What a worker process makes of its device."""
    return MeanTeacher(VIEW.clip_shape)


def write_videos(folder: Path, count: int) -> Path:
    """A folder with `count` small videos and an empty file."""
    for number in range(count):
        write_video(folder / f"v{number}.webm", moving_square(num_frames=8, seed=number))
    (folder / "empty.webm").touch()
    return folder


def listed(folder: Path, *names: str) -> Source:
    """A source of the named files, there or not."""
    items = tuple(Item(id=name.partition(".")[0], path=name) for name in names)
    return Source(kind="table", root=folder, items=items)


def build(source: Source, out: Path, **changes: Any) -> BuildSummary:
    """A build with a teacher, unless `changes` says otherwise."""
    arguments: dict[str, Any] = {"view": VIEW, "config": CONFIG} | changes
    if "engine" not in changes:
        arguments.setdefault("teacher", MeanTeacher(VIEW.clip_shape))
    return build_dataset(source, out, **arguments)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failures(out: Path) -> dict[str, str]:
    """Reason by id."""
    lines = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    return {line["id"]: line["reason"] for line in lines}


def start_python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A real process that runs `script` in the project's root, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs; what ends meanwhile is left out."""
    found: set[int] = set()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found |= {child} | descendants(child)
    return found


def kill_all(process: subprocess.Popen[Any]) -> None:
    """SIGKILL to a process and all that it has started, ranks in groups of their own too; waits until all are gone."""
    handles = []
    for pid in (process.pid, *descendants(process.pid)):
        with suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    process.communicate()
    for handle in handles:
        assert select.select([handle], [], [], 60)[0]
        os.close(handle)
