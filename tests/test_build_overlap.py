"""The stages of a build overlap: each waits here for what can only happen while it is at work."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.builder import BuildConfig, Item, Source, prepare
from shards.builder.decode import isolate
from shards.builder.prepare import Outcome
from shards.builder.samples.base import SampleKind
from tests.builds import VIEW, build
from tests.teachers import MeanTeacher
from tests.videos import moving_square, write_video

NUM_CLIPS = 36
DEADLINE_SECONDS = 30.0  # for what takes milliseconds


class DecodedClips:
    """Counts the clips that the decoders have finished."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Fail where the decoders stand still before they have finished so many, or all."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self.count >= min(count, NUM_CLIPS), DEADLINE_SECONDS)
        assert arrived, f"{self.count} clips were decoded, {count} were waited for"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> DecodedClips:
    found, real = DecodedClips(), prepare.prepare_item

    def count(kind: SampleKind, root: Path, shard: int, item: Item) -> Outcome:
        outcome = real(kind, root, shard, item)
        found.add()
        return outcome

    monkeypatch.setattr(isolate, "prepare_item", count)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Source:
    write_video(tmp_path / "videos" / "v.webm", moving_square(num_frames=8))
    items = tuple(Item(id=f"clip{number}", path="v.webm") for number in range(NUM_CLIPS))
    return Source(kind="table", root=tmp_path / "videos", items=items)


class PatientTeacher(MeanTeacher):
    """Does not finish a batch before all clips of the next one are decoded."""

    def __init__(self, decoded: DecodedClips) -> None:
        super().__init__(VIEW.clip_shape)
        self.decoded, self.num_seen = decoded, 0

    def __call__(self, clips: NDArray[np.uint8]) -> NDArray[np.float16]:
        self.num_seen += len(clips)
        self.decoded.wait_for(self.num_seen + len(clips))
        return super().__call__(clips)


@pytest.mark.parametrize("samples_per_shard", [NUM_CLIPS, 4], ids=["within a shard", "over the borders of shards"])
def test_the_next_batch_is_decoded_while_the_teacher_is_at_work(
    source: Source, decoded: DecodedClips, tmp_path: Path, samples_per_shard: int
) -> None:
    config = BuildConfig(samples_per_shard=samples_per_shard, workers=1, teacher_batch=4, time_limit_seconds=None)
    summary = build(source, tmp_path / "out", config=config, teacher=PatientTeacher(decoded))
    assert summary.num_samples == NUM_CLIPS


def test_the_next_shard_is_decoded_while_a_shard_is_synced(
    source: Source, decoded: DecodedClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BuildConfig(samples_per_shard=12, workers=1, time_limit_seconds=None)
    real, synced = os.fsync, 0

    def sync_late(file: int) -> None:
        nonlocal synced
        if Path(f"/proc/self/fd/{file}").readlink().match("*.tar.????????.tmp"):
            synced += 1
            decoded.wait_for(12 * (synced + 1))
        real(file)

    monkeypatch.setattr(os, "fsync", sync_late)
    assert build(source, tmp_path / "out", config=config, teacher=None).num_samples == NUM_CLIPS
    assert synced == 3
