"""Kill a real build process at real moments, resume it, and compare every byte with a build that was never stopped."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.builder import BuildConfig, ViewSpec, build_dataset, load_folder
from shards.dataset import ShardDataset
from shards.format.errors import MissingDataError
from shards.format.index import load_index
from shards.progress import Progress, untold
from tests.builds import contents
from tests.teachers import MeanTeacher
from tests.videos import moving_square, write_video

# argv: videos, out, then the file system change and the item at which to die (0: never)
BUILDER = """
import os, signal, sys
from pathlib import Path
from tests.test_build_resume import build

videos, out, last_change, last_item = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
changes = items = 0

def audit(event, arguments):
    global changes
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa")
    if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        if str(out) in str(arguments[0]):
            changes += 1
            if changes == last_change:
                os.kill(os.getpid(), signal.SIGKILL)

def progress(done, failed=0):
    global items
    items += done
    if last_item and items >= last_item:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
build(videos, out, progress)
"""
VIEW = ViewSpec(num_frames=4, size=32)


def build(videos: Path, out: Path, progress: Progress = untold) -> None:
    config = BuildConfig(samples_per_shard=3, workers=2, teacher_batch=2, time_limit_seconds=None)
    teacher = MeanTeacher(VIEW.clip_shape)
    build_dataset(load_folder(videos), out, VIEW, config, teacher=teacher, progress=progress)


def run_builder(videos: Path, out: Path, last_change: int = 0, last_item: int = 0) -> int:
    command = [sys.executable, "-c", BUILDER, str(videos), str(out), str(last_change), str(last_item)]
    return subprocess.run(command, cwd=Path(__file__).parents[1], check=False, timeout=120).returncode


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(8):
        write_video(folder / f"v{number}.webm", moving_square(num_frames=8, seed=number))
    (folder / "empty.webm").touch()
    return folder


@pytest.fixture(scope="module")
def uninterrupted(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("uninterrupted")
    build(videos, out)
    return contents(out)


def check_what_a_kill_left(out: Path, expected: dict[str, bytes]) -> None:
    """Finished shards or nothing: whatever has its final name is whole."""
    for sidecar in out.glob("*.idx"):
        assert load_index(sidecar).info.num_bytes == sidecar.with_suffix(".tar").stat().st_size
    for name, data in contents(out).items():
        assert name.endswith(".tmp") or name.startswith(".build") or data == expected[name], name
    if not (out / "dataset.json").exists():
        with pytest.raises(MissingDataError):
            ShardDataset.open(out)


@pytest.mark.slow
def test_a_build_killed_at_any_file_system_change_ends_with_the_same_bytes(
    videos: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    last_change = 0
    while True:
        last_change += 1
        out = tmp_path / str(last_change)
        if (status := run_builder(videos, out, last_change=last_change)) != -signal.SIGKILL:
            break
        check_what_a_kill_left(out, uninterrupted)
        build(videos, out)
        assert contents(out) == uninterrupted
        shutil.rmtree(out)
    assert status == 0
    assert contents(out) == uninterrupted
    assert last_change > 20


@pytest.mark.slow
def test_a_build_killed_again_and_again_ends_with_the_same_bytes(
    videos: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    num_kills = 0
    while (status := run_builder(videos, out, last_change=3 + 2 * num_kills)) == -signal.SIGKILL:
        num_kills += 1
        check_what_a_kill_left(out, uninterrupted)
    assert status == 0
    assert num_kills >= 4
    assert contents(out) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("last_item", [1, 4, 7, 9])
def test_a_build_killed_between_two_items_ends_with_the_same_bytes(
    videos: Path, tmp_path: Path, uninterrupted: dict[str, bytes], last_item: int
) -> None:
    out = tmp_path / "out"
    assert run_builder(videos, out, last_item=last_item) == -signal.SIGKILL
    check_what_a_kill_left(out, uninterrupted)
    assert run_builder(videos, out) == 0
    assert contents(out) == uninterrupted
