import io
import re
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from shards import ShardDataset, index_directory, verify_dataset
from shards.builder import load_folder
from shards.builder.recheck import check_sources
from shards.builder.sources.locate import VideoFinder
from shards.words import spell_bytes, spell_seconds
from tests.builds import build, write_videos
from tools.progress import PLAIN_INTERVAL_SECONDS, spell_rate, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


@pytest.mark.parametrize(
    ("seconds", "total", "done", "failed", "line"),
    [
        (0.0, 10, 0, 0, "building: 0 of 10 clips"),
        (0.0, 10, 4, 0, "building: 4 of 10 clips"),
        (0.0, 10, 10, 1, "building: 10 of 10 clips, took under a second, 1 failed"),
        (0.002, 541, 541, 0, "building: 541 of 541 clips, took under a second"),
        (0.0, None, 3, 0, "building: 3 clips, took under a second"),
        (12.0, 10, 0, 0, "building: 0 of 10 clips, after 12 s"),
        (20.0, 50, 40, 2, "building: 40 of 50 clips, 2.0 clips/s, 5 s left, 2 failed"),
        (20.0, 40, 40, 0, "building: 40 of 40 clips, 2.0 clips/s, took 20 s"),
        (90.0, 4, 3, 0, "building: 3 of 4 clips, 2.0 clips/min, 30 s left"),
    ],
)
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_last_line_says_what_was_done_and_no_rate_of_what_took_no_time(
    clock: Clock, kind: type[TextIO], seconds: float, total: int | None, done: int, failed: int, line: str
) -> None:
    file = kind()
    with track("building", total=total, unit="clips", file=file) as progress:
        clock.now += seconds
        progress(done, failed)
    assert isinstance(file, io.StringIO)
    if kind is io.StringIO:
        assert file.getvalue().splitlines()[-1] == line
    else:
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
        assert line in " ".join(plain.split())


def test_a_pipe_gets_a_line_now_and_then_and_one_at_the_end(clock: Clock) -> None:
    file = io.StringIO()
    with track("building", total=30, unit="clips", file=file) as progress:
        for _ in range(30):
            clock.now += PLAIN_INTERVAL_SECONDS / 10
            progress(1)
    assert [line.split(",")[0] for line in file.getvalue().splitlines()] == [
        f"building: {count} of 30 clips" for count in (10, 20, 30)
    ]


def test_nothing_is_said_of_nothing() -> None:
    file = io.StringIO()
    with track("indexing", total=0, unit="tars", file=file):
        pass
    assert file.getvalue() == ""


def test_the_last_line_is_written_on_an_error_too() -> None:
    file = io.StringIO()

    def fail_half_way() -> None:
        with track("building", total=9, unit="clips", file=file) as progress:
            progress(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert "2 of 9 clips" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "under a second"),
        (0.7, "1 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (183600, "2 days 3 h"),
    ],
)
def test_a_duration_is_spelled(seconds: float, words: str) -> None:
    assert spell_seconds(seconds) == words


@pytest.mark.parametrize(
    ("per_second", "words"), [(1234.5, "1,234.5 clips/s"), (0.5, "30.0 clips/min"), (0.001, "3.6 clips/h")]
)
def test_a_rate_is_spelled(per_second: float, words: str) -> None:
    assert spell_rate(per_second, "clips") == words


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_408_448, "2.4 MB"), (802e9, "802.0 GB")],
)
def test_a_size_is_spelled(num_bytes: float, words: str) -> None:
    assert spell_bytes(num_bytes) == words


def test_whatever_takes_long_says_what_it_has_done_since_it_last_said_so(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, failed: int = 0) -> None:
        told.append((done, failed))

    def total() -> tuple[int, int]:
        counts = np.sum(told, axis=0).tolist()
        told.clear()
        return counts[0], counts[1]

    source, out = load_folder(write_videos(tmp_path / "videos", 7)), tmp_path / "set"
    build(source, out, progress=progress)
    assert total() == (8, 1)
    build(source, out, progress=progress)
    assert total() == (8, 1)
    shard = out / "train-00001-of-00003.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    verify_dataset(out, progress=progress)
    assert total() == (3, 1)
    finder = VideoFinder(tmp_path / "videos", source.items)
    check_sources(ShardDataset.open(out), finder, 3, progress=progress)
    assert total()[0] == 3
    for path in out.glob("*.idx"):
        path.unlink()
    for name in ("dataset.json", "plan.json", "train-00001-of-00003.tar"):
        (out / name).unlink()
    index_directory(out, progress=progress)
    assert total() == (sum(path.stat().st_size for path in out.glob("*.tar")), 0)
