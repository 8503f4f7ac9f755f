"""Several views of each video: which frames and crops they are, and that a video is built or fails with all of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.builder import Partition, ViewSpec, build_dataset, decode_clip, finalize_dataset, load_folder
from shards.builder.decode.decoders import decode_views
from shards.builder.decode.stream_facts import read_source_file
from shards.builder.recheck import check_sources
from shards.builder.samples.frames import FramesKind
from shards.builder.sources.locate import VideoFinder
from shards.dataset import ShardDataset
from shards.format.layout import tubes_to_clip
from shards.format.views import single_view_hash, view_hash
from shards.progress import Progress
from shards.verify import verify_dataset
from tests.builds import CONFIG, VIEW, build, contents, failures, listed
from tests.teachers import MeanTeacher
from tests.videos import moving_square, write_video

VIEWS = replace(VIEW, clips=2, crops=3)
SIX = replace(CONFIG, samples_per_shard=12)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos, of which one breaks off after its first half."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"v{number}.mp4", moving_square(num_frames=12, seed=number), codec="libx264")
    whole = write_video(folder / "cut.webm", moving_square(num_frames=24)).read_bytes()
    (folder / "cut.webm").write_bytes(whole[: len(whole) * 3 // 4])
    return folder


NAMES = ("v0.mp4", "v1.mp4", "cut.webm", "v2.mp4")


def test_two_uniform_clips_begin_at_0_and_half_a_part_later_as_in_videomaes_test() -> None:
    indices = ViewSpec(clips=2).frame_indices(48)
    tick = 48 / 16
    assert indices[:16] == [int(tick * x) for x in range(16)]
    assert indices[16:] == [int(tick / 2 + tick * x) for x in range(16)] == ViewSpec().frame_indices(48)


def test_two_strided_clips_lie_in_the_middle_of_the_halves_or_spread_over_a_short_video() -> None:
    view = ViewSpec(sampling="stride", stride=4, num_frames=16, clips=2)  # a clip spans 61 frames
    assert view.frame_indices(200)[::16] == [19, 119]
    assert view.frame_indices(100)[::16] == [0, 39]
    assert view.frame_indices(61)[::16] == [0, 0]
    assert view.frame_indices(30)[:16] == view.frame_indices(30)[16:] == [0, 4, 8, 12, 16, 20, 24, 28, *[29] * 8]


@given(
    num_source=st.integers(1, 500),
    clips=st.integers(1, 7),
    length=st.integers(1, 20),
    stride=st.integers(1, 6),
    sampling=st.sampled_from(["uniform", "stride"]),
)
def test_clips_are_in_order_inside_the_video_and_an_odd_number_holds_the_single_one(
    num_source: int, clips: int, length: int, stride: int, sampling: Any
) -> None:
    view = ViewSpec(num_frames=length, sampling=sampling, stride=stride, clips=clips)
    indices = np.array(view.frame_indices(num_source)).reshape(clips, length)
    assert indices.min() >= 0
    assert indices.max() < num_source
    assert (np.diff(indices, axis=1) >= 0).all()
    assert (np.diff(indices, axis=0) >= 0).all()
    if sampling == "uniform":
        assert replace(view, clips=1).frame_indices(num_source) in indices.tolist()


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (40, 40), (48, 50)])
def test_crops_lie_at_both_ends_and_the_middle_of_the_long_side(height: int, width: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    view = ViewSpec(num_frames=1, size=min(height, width), crops=3)
    first, middle, last = view.cut(frame)
    side, room = view.size, max(height, width) - view.size
    assert np.array_equal(first, frame[:side, :side])
    assert np.array_equal(last, frame[height - side :, width - side :])
    assert np.array_equal(middle, replace(view, crops=1).resize(frame))
    if room % 2 == 0:
        top, left = (height - side) // 2, (width - side) // 2
        assert np.array_equal(middle, frame[top : top + side, left : left + side])


def test_a_larger_short_side_leaves_crops_in_the_middle_of_it() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    first, _, last = ViewSpec(num_frames=1, size=32, short_side=48, crops=3).cut(frame)
    assert np.array_equal(first, frame[8:40, :32])
    assert np.array_equal(last, frame[8:40, 64:])


def test_every_view_is_a_sample_with_the_id_of_its_video_and_its_own_frames(videos: Path, tmp_path: Path) -> None:
    summary = build(listed(videos, *NAMES), tmp_path, view=VIEWS, config=SIX)
    assert (summary.num_planned, summary.num_failed, summary.samples_per_item, summary.num_samples) == (4, 1, 6, 18)
    assert failures(tmp_path) == {"cut": "truncated"}  # once
    dataset = ShardDataset.open(tmp_path)
    teacher = MeanTeacher(VIEW.clip_shape)
    seen = set()
    for number in range(len(dataset)):
        about = dataset.metadata(number)
        view, path = about["view_index"], videos / about["path"]
        assert dataset.key(number) == f"{about['video_id']}__v{view:02}"
        seen.add((about["video_id"], view))
        clip = decode_views(path, read_source_file(path), VIEWS)[view]
        stored = tubes_to_clip(np.asarray(dataset.read(number, "clip")), 2)
        assert np.array_equal(stored, clip.frames)
        assert about["frame_indices"] == list(clip.frame_indices) == VIEWS.frame_indices(12)[4 * (view // 3) :][:4]
        targets = np.asarray(dataset.read(number, "target"))  # [S, T', D]
        expected = teacher(clip.frames[None])[0].reshape(2, 4, -1).swapaxes(0, 1)
        assert np.array_equal(targets, expected)
    assert seen == {(f"v{number}", view) for number in range(3) for view in range(6)}
    assert verify_dataset(tmp_path).problems == ()


def test_the_views_of_a_video_are_what_single_views_would_show(videos: Path) -> None:
    path = videos / "v1.mp4"
    views = decode_views(path, read_source_file(path), VIEWS)
    assert np.array_equal(views[4].frames, decode_clip(path, VIEW).frames)  # the second clip's middle crop
    assert not np.array_equal(views[3].frames, views[5].frames)
    assert not np.array_equal(views[1].frames, views[4].frames)


def test_the_hash_of_the_view_says_how_many_there_are_and_which_single_one_they_go_with(
    videos: Path, tmp_path: Path
) -> None:
    variants = [VIEW, VIEWS, replace(VIEW, clips=2), replace(VIEW, crops=3)]
    assert len({view.hash for view in variants}) == 4
    assert [ViewSpec.from_json(view.to_json()).to_json() for view in variants] == [view.to_json() for view in variants]
    for number, view in enumerate(variants):
        build(listed(videos, "v0.mp4"), tmp_path / str(number), view=view, config=SIX)
        manifest = ShardDataset.open(tmp_path / str(number)).manifest
        assert (view_hash(manifest), single_view_hash(manifest)) == (view.hash, VIEW.hash)


def test_one_view_is_the_data_set_that_it_was_before_there_were_several(videos: Path, tmp_path: Path) -> None:
    build(listed(videos, "v0.mp4"), tmp_path, view=replace(VIEW, clips=1, crops=1))
    dataset = ShardDataset.open(tmp_path)
    assert dataset.key(0) == "v0"
    assert "view_index" not in dataset.metadata(0)
    assert not {"clips", "crops"} & set(dataset.manifest.provenance["view"])


def test_the_views_of_a_video_lie_in_one_shard_even_where_they_are_more_than_it_should_hold(
    videos: Path, tmp_path: Path
) -> None:
    source = listed(videos, "v0.mp4", "v1.mp4", "v2.mp4")
    for size, shards in ((1, [6, 6, 6]), (11, [6, 6, 6]), (13, [12, 6])):
        out = tmp_path / str(size)
        build(source, out, view=VIEWS, config=replace(CONFIG, samples_per_shard=size))
        assert [info.num_samples for info in ShardDataset.open(out).manifest.shards] == shards


class _Stop(Exception):  # noqa: N818
    """Ends a build in its middle."""


def _stopping(after: int) -> Progress:
    def progress(done: int, failed: int = 0, /) -> None:
        nonlocal after
        after -= done
        if after <= 0:
            raise _Stop

    return progress


def test_a_stopped_build_of_views_goes_on_and_partitions_give_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    source, config = listed(videos, *NAMES), replace(CONFIG, samples_per_shard=6)
    build(source, tmp_path / "whole", view=VIEWS, config=config)
    with pytest.raises(_Stop):
        build(source, tmp_path / "stopped", view=VIEWS, config=config, progress=_stopping(3))
    again = build(source, tmp_path / "stopped", view=VIEWS, config=config)
    assert 0 < again.num_resumed < 4
    teacher = MeanTeacher(VIEWS.clip_shape)
    for index in (1, 0):
        build_dataset(source, tmp_path / "parts", VIEWS, config, teacher=teacher, partition=Partition(index, 2))
    finalize_dataset(source, tmp_path / "parts", VIEWS, config)
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped") == contents(tmp_path / "parts")
    done = build(source, tmp_path / "parts", view=VIEWS, config=config)
    assert (done.num_resumed, done.num_samples) == (4, 18)


def test_a_mended_video_comes_back_with_all_its_views(videos: Path, tmp_path: Path) -> None:
    folder, out = shutil.copytree(videos, tmp_path / "videos"), tmp_path / "out"
    source = listed(folder, *NAMES)
    build(source, out, view=VIEWS, config=SIX)
    write_video(folder / "cut.webm", moving_square(num_frames=12))
    assert build(source, out, view=VIEWS, config=SIX, retry_failures=True).num_samples == 24
    assert len(ShardDataset.open(out)) == 24


def test_a_limit_counts_videos(videos: Path, tmp_path: Path) -> None:
    source = load_folder(videos)
    build(source, tmp_path, view=VIEWS, config=SIX, limit=2, limit_order="source")
    ids = {ShardDataset.open(tmp_path).metadata(number)["video_id"] for number in range(6)}
    assert ids == {"v0"}  # the first is cut


def test_a_teacher_that_fails_on_one_view_loses_the_video_once(videos: Path, tmp_path: Path) -> None:
    class FailsOnce(MeanTeacher):
        calls = 0

        def __call__(self, rows: Any, /) -> Any:
            self.calls += 1
            targets = super().__call__(rows)
            if self.calls == 2:
                targets[-1] = np.inf
            return targets

    config = replace(SIX, teacher_batch=6)
    source = listed(videos, "v0.mp4", "v1.mp4", "v2.mp4")
    summary = build(source, tmp_path, view=VIEWS, config=config, teacher=FailsOnce(VIEW.clip_shape))
    assert (summary.num_failed, summary.num_samples, summary.failures) == (1, 12, {"teacher_error": 1})


def test_views_can_be_compared_with_their_videos_again(videos: Path, tmp_path: Path) -> None:
    source = listed(videos, *NAMES)
    build(source, tmp_path, view=VIEWS, config=SIX)
    dataset = ShardDataset.open(tmp_path)
    report = check_sources(dataset, VideoFinder(videos, source.items), len(dataset))
    assert report.describe() == "18 samples decoded again: all hold the frames that they say"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"clips": 0}, "view.clips is 0; it must be at least 1"),
        ({"crops": -1}, "view.crops is -1; it must be at least 1"),
        ({"clips": 2, "sampling": "fps"}, "'fps' takes frames of a whole video"),
        ({"clips": 2, "sampling": "every"}, "choose view.sampling 'uniform' or 'stride'"),
        ({"crops": 3, "geometry": "squash"}, "'squash' crops nothing"),
        ({"crops": 3, "geometry": "whole"}, "'whole' crops nothing"),
    ],
)
def test_views_that_there_cannot_be_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ViewSpec(**values)


def test_jpeg_frames_are_of_one_view() -> None:
    with pytest.raises(ValueError, match="JPEG frames are of one view"):
        FramesKind(view=ViewSpec(clips=2))
