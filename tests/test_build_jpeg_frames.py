"""The kind `frames`: as many JPEG frames as a video has at a rate, up to a cap, and when each is shown."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shards import Manifest, ShardDataset, ShardError, verify_dataset
from shards.builder import (
    BuildConfig,
    FramesKind,
    Item,
    Partition,
    ProcessPool,
    Source,
    ViewSpec,
    build_dataset,
    finalize_dataset,
)
from shards.writer import ShardWriter
from tests.builds import contents, failures
from tests.numbered import Encoding, number_of, write_numbered
from tests.teachers import MeanTeacher
from tests.videos import clips_folder, moving_square, write_video
from tools.cli import main

CAP, LONGEST = 64, 70
NUMBERED = Encoding(codec="libx264", options={"preset": "ultrafast"}, times=range(0, 24 * LONGEST, 24))  # one a second
VIEW = ViewSpec(sampling="fps", fps=1.0, max_frames=CAP, size=64)
KIND = FramesKind(view=VIEW)
CONFIG = BuildConfig(samples_per_shard=30, workers=2, time_limit_seconds=None)


def no_teacher(device: str) -> None:
    """What a worker process makes of its device."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 1 frame a second for each length from 1 to 70 seconds, and an empty file."""
    folder = tmp_path_factory.mktemp("videos")
    for count in range(1, LONGEST + 1):
        assert write_numbered(folder / f"n{count}.mp4", NUMBERED, count)
    (folder / "empty.mp4").touch()
    return folder


def source_of(folder: Path) -> Source:
    items = tuple(
        Item(id=path.stem, path=path.name, text=f"shows {path.stem}", extra={"length": path.stem[1:]})
        for path in sorted(folder.iterdir())
    )
    return Source(kind="table", root=folder, items=items)


@pytest.fixture(scope="module")
def built(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    summary = build_dataset(source_of(videos), out, config=CONFIG, kind=KIND)
    assert (summary.num_planned, summary.num_samples, summary.failures) == (71, 70, {"empty_file": 1})
    return out


def picture_of(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def sample_of(dataset: ShardDataset, key: str) -> Mapping[str, Any]:
    return dataset[key]


def test_a_video_of_n_seconds_gives_n_frames_at_one_a_second_and_never_more_than_the_cap(built: Path) -> None:
    dataset = ShardDataset.open(built)
    lengths = {dataset.key(n): int(length) for n, length in enumerate(dataset.lengths("frames"))}
    assert lengths == {f"n{count}": min(count, CAP) for count in range(1, LONGEST + 1)}
    assert dataset.lengths("times").tolist() == dataset.lengths("frames").tolist()


@pytest.mark.parametrize("count", [1, 2, 40, 64, 65, 70])
def test_the_frames_are_those_of_their_times(built: Path, count: int) -> None:
    dataset = ShardDataset.open(built)
    sample = sample_of(dataset, f"n{count}")
    about = dataset.metadata(dataset.index_of(f"n{count}"))
    shown = [number_of(picture_of(jpeg)) for jpeg in sample["frames"]]
    assert sample["times"].dtype == np.float32
    assert sample["times"].tolist() == about["frame_indices"]  # one frame a second
    assert shown == [number % 64 for number in about["frame_indices"]]
    assert about["num_source_frames"] == count
    if count > CAP:
        assert about["frame_indices"] == [(2 * i + 1) * count // (2 * CAP) for i in range(CAP)]
    else:
        assert about["frame_indices"] == list(range(count))


def test_a_sample_says_what_it_shows_and_where_it_came_from(built: Path) -> None:
    dataset = ShardDataset.open(built)
    about = dataset.metadata(dataset.index_of("n7"))
    assert about["text"] == "shows n7"
    assert about["extra"] == {"length": "7"}
    assert (about["decoder"], about["view_hash"]) == ("pyav", VIEW.hash)
    assert len(about["source_xxh3_128"]) == 32
    manifest = Manifest.read(built)
    assert manifest.provenance["sample"] == {"kind": "frames", "quality": 90}
    assert manifest.provenance["view"]["hash"] == VIEW.hash
    assert not verify_dataset(built).problems
    assert failures(built) == {"empty": "empty_file"}


def test_processes_partitions_and_a_build_that_was_stopped_give_the_same_bytes(
    videos: Path, built: Path, tmp_path: Path
) -> None:
    source, expected = source_of(videos), contents(built)
    timed = replace(CONFIG, time_limit_seconds=60.0)
    with ProcessPool(["cpu", "cpu"], no_teacher) as pool:
        build_dataset(source, tmp_path / "pool", config=timed, kind=KIND, engine=pool)
    assert contents(tmp_path / "pool") == expected
    for index in range(2):
        build_dataset(source, tmp_path / "cut", config=CONFIG, kind=KIND, partition=Partition(index, 2))
    finalize_dataset(source, tmp_path / "cut", config=CONFIG, kind=KIND)
    assert contents(tmp_path / "cut") == expected

    def stop(done: int, failed: int = 0) -> None:
        if (tmp_path / "stopped").exists() and any((tmp_path / "stopped").glob("*.idx")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="are finished and kept"):
        build_dataset(source, tmp_path / "stopped", config=CONFIG, kind=KIND, progress=stop)
    again = build_dataset(source, tmp_path / "stopped", config=CONFIG, kind=KIND)
    assert 0 < again.num_resumed < 71
    assert contents(tmp_path / "stopped") == expected


def test_a_failed_video_is_tried_again(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("n1", "n2", "n3"):
        shutil.copy(videos / f"{name}.mp4", folder)
    whole = (folder / "n2.mp4").read_bytes()
    (folder / "n2.mp4").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert build_dataset(source_of(folder), out, config=CONFIG, kind=KIND).failures == {"truncated": 1}
    (folder / "n2.mp4").write_bytes(whole)
    assert build_dataset(source_of(folder), out, config=CONFIG, kind=KIND).num_failed == 1
    assert build_dataset(source_of(folder), out, config=CONFIG, kind=KIND, retry_failures=True).num_failed == 0


def test_pictures_are_whole_and_smaller_only_where_they_are_too_large(tmp_path: Path) -> None:
    write_video(tmp_path / "videos/large.mp4", moving_square(3, height=120, width=200), codec="libx264", rate=1)
    write_video(tmp_path / "videos/small.mp4", moving_square(3, height=32, width=96), codec="libx264", rate=1)
    view = replace(VIEW, geometry="whole", short_side=60)
    sizes = {}
    for quality in (20, 90):
        out = tmp_path / f"{quality}"
        build_dataset(source_of(tmp_path / "videos"), out, config=CONFIG, kind=FramesKind(view=view, quality=quality))
        dataset = ShardDataset.open(out)
        assert {picture_of(jpeg).shape for jpeg in sample_of(dataset, "large")["frames"]} == {(60, 100, 3)}
        assert {picture_of(jpeg).shape for jpeg in sample_of(dataset, "small")["frames"]} == {(32, 96, 3)}
        sizes[quality] = sum(map(len, sample_of(dataset, "large")["frames"]))
    assert sizes[20] < sizes[90]


def test_another_quality_is_another_plan_and_a_teacher_or_no_quality_is_refused(tmp_path: Path, videos: Path) -> None:
    source = replace(source_of(videos), items=source_of(videos).items[:3])
    build_dataset(source, tmp_path, config=CONFIG, kind=KIND)
    with pytest.raises(ShardError, match=r"sample.quality was 90, is now 80"):
        build_dataset(source, tmp_path, config=CONFIG, kind=replace(KIND, quality=80))
    with pytest.raises(ValueError, match="no targets"):
        build_dataset(source, tmp_path / "t", config=CONFIG, kind=KIND, teacher=MeanTeacher((4, 32, 32, 3)))
    for quality in (0, 96):
        with pytest.raises(ValueError, match="JPEGs have 1 to 95"):
            FramesKind(view=VIEW, quality=quality)


def test_the_real_clips_have_a_frame_for_each_second(tmp_path: Path) -> None:
    folder = clips_folder()
    view = ViewSpec(sampling="fps", fps=1.0, max_frames=CAP, geometry="whole", short_side=336)
    names = ("arm_wrestling.mp4", "flipping_a_pancake.mkv", "test.avi", "av1_video.mkv", "corrupted.mp4")
    items = tuple(Item(id=Path(name).stem, path=name) for name in names)
    build_dataset(Source(kind="table", root=folder, items=items), tmp_path, config=CONFIG, kind=FramesKind(view=view))
    dataset = ShardDataset.open(tmp_path)
    assert len(dataset) >= 4
    for number in range(len(dataset)):
        times = np.asarray(dataset.read(number, "times"))
        assert times[0] == 0
        assert np.abs(times - np.arange(len(times))).max() < 0.1
        for jpeg in sample_of(dataset, dataset.key(number))["frames"]:
            assert min(picture_of(jpeg).shape[:2]) <= 336


def test_the_command_builds_looks_ahead_and_compares_with_the_videos(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "videos", tmp_path / "set"
    folder.mkdir()
    for name in ("n1", "n2", "n70", "empty"):
        shutil.copy(videos / f"{name}.mp4", folder)
    command = ["build", "--recipe", "frames", "--videos", str(folder), "--out", str(out)]
    assert main([*command, "--view.max_frames", "40", "--sample.quality", "80", "--max-failures", "0.5"]) == 0
    captured = capsys.readouterr()
    assert "about 0.0 GB" not in captured.err
    assert "about" in captured.err
    assert "3 of 4 samples in 1 shards" in captured.out
    assert "1 failed: empty_file 1" in captured.out
    dataset = ShardDataset.open(out)
    assert sorted(dataset.lengths("frames").tolist()) == [1, 2, 40]
    assert dataset.manifest.provenance["sample"] == {"kind": "frames", "quality": 80}
    assert main(["verify", str(out), "--sources", str(folder)]) == 0
    assert "3 samples decoded again: all hold the frames that they say" in capsys.readouterr().out
    assert main(["train", "--recipe", "frames", "--data", str(out), "--out", str(tmp_path / "run")]) == 1
    assert "has no student" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 0}, "what it holds as frame 0 does not look like frame 0 of the video"),
        ({"times": np.array([0, 9], "<f4")}, r"it says times 0.0 9.0, its frames are shown at 0.0 1.0"),
        ({"frame_indices": [0, 2]}, "it says frames 0 2, holds 2, its view takes 0 1"),
    ],
)
def test_samples_that_hold_other_frames_than_they_say_are_found(
    videos: Path, built: Path, tmp_path: Path, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = dict(sample_of(ShardDataset.open(built), "n2"))
    if "frames" in change:
        sample["frames"] = [sample_of(ShardDataset.open(built), "n70")["frames"][20], sample["frames"][1]]
    if "times" in change:
        sample["times"] = change["times"]
    if "frame_indices" in change:
        sample["json"] = json.dumps(json.loads(sample["json"]) | change).encode()
    manifest = Manifest.read(built)
    with ShardWriter(tmp_path / manifest.shards[0].name, manifest.schema) as writer:
        writer.write("n2", sample)
    replace(manifest, shards=(writer.info,), failures={}).write(tmp_path)
    assert main(["verify", str(tmp_path), "--sources", str(videos)]) == 1
    assert said in capsys.readouterr().out
