import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.builder import BuildConfig, BuildSummary, ViewSpec, build_dataset, decode_clip, load_folder
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.layout import tubes_to_clip, tubes_to_target
from shards.verify import verify_dataset
from tests.builds import contents
from tests.teachers import MeanTeacher
from tests.videos import clips_folder, moving_square, write_video

VIEW = ViewSpec(num_frames=4, size=32)
CONFIG = BuildConfig(samples_per_shard=3, workers=2, teacher_batch=2, time_limit_seconds=None)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(7):
        write_video(folder / f"v{number}.webm", moving_square(num_frames=8 + number, seed=number))
    (folder / "empty.webm").touch()
    (folder / "text.webm").write_text("no video\n")
    return folder


def build(videos: Path, out: Path, **changes: object) -> BuildSummary:
    arguments: dict[str, object] = {"view": VIEW, "config": CONFIG, "teacher": MeanTeacher(VIEW.clip_shape)} | changes
    return build_dataset(load_folder(videos), out, **arguments)  # type: ignore[arg-type]


def failures(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("layout", ["tubes", "frames"])
def test_samples_hold_the_view_the_target_and_where_they_came_from(videos: Path, tmp_path: Path, layout: str) -> None:
    build(videos, tmp_path, config=replace(CONFIG, layout=layout))  # type: ignore[arg-type]
    data = ShardDataset.open(tmp_path)
    assert len(data) == 7
    for number in range(len(data)):
        sample, about = data[number], data.metadata(number)
        clip, target = np.asarray(sample["clip"]), np.asarray(sample["target"])
        if layout == "tubes":
            clip, target = tubes_to_clip(clip, VIEW.size // CONFIG.patch), tubes_to_target(target)
        decoded = decode_clip(videos / f"{about['video_id']}.webm", VIEW)
        assert np.array_equal(clip, decoded.frames)
        assert np.array_equal(target, MeanTeacher(VIEW.clip_shape)(decoded.frames[None])[0])
        assert about["frame_indices"] == list(decoded.frame_indices)
        assert about["view_hash"] == VIEW.hash
        assert about["num_source_frames"] == decoded.num_source_frames
        assert (about["source_bytes"], about["source_xxh3_128"]) == (decoded.source.num_bytes, decoded.source.xxh3_128)


def test_every_planned_item_is_a_sample_or_a_failure(videos: Path, tmp_path: Path) -> None:
    summary = build(videos, tmp_path)
    assert (summary.num_planned, summary.num_samples, summary.num_failed) == (9, 7, 2)
    assert summary.failures == ShardDataset.open(tmp_path).manifest.failures == {"empty_file": 1, "open_error": 1}
    assert {(line["id"], line["reason"]) for line in failures(tmp_path)} == {
        ("empty", "empty_file"),
        ("text", "open_error"),
    }


def test_a_built_data_set_verifies_and_leaves_no_working_files(videos: Path, tmp_path: Path) -> None:
    summary = build(videos, tmp_path)
    report = verify_dataset(tmp_path)
    assert not report.problems
    assert report.num_samples == 7
    shards = {f"train-0000{shard}-of-00003.{end}" for shard in range(3) for end in ("tar", "idx")}
    assert set(contents(tmp_path)) == shards | {"dataset.json", "plan.json", "failures.jsonl", "teacher.txt"}
    assert summary.digest == ShardDataset.open(tmp_path).digest
    assert summary.num_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))


def test_the_bytes_do_not_depend_on_the_number_of_workers_or_where_the_videos_lie(videos: Path, tmp_path: Path) -> None:
    build(videos, tmp_path / "one", config=replace(CONFIG, workers=1))
    copy = shutil.copytree(videos, tmp_path / "copy")
    build(copy, tmp_path / "many", config=replace(CONFIG, workers=5))
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_clips_without_targets_are_a_data_set_too(videos: Path, tmp_path: Path) -> None:
    build(videos, tmp_path, teacher=None)
    data = ShardDataset.open(tmp_path)
    assert data.schema.names == ("clip", "json")
    assert data.manifest.provenance["teacher"] is None


def test_a_target_beyond_float16_is_a_failure_of_its_clip_alone(videos: Path, tmp_path: Path) -> None:
    bright = write_video(tmp_path / "videos" / "bright.webm", np.full((8, 64, 64, 3), 250, np.uint8))
    write_video(bright.with_name("dark.webm"), moving_square() // np.uint8(4))
    out = tmp_path / "out"
    summary = build(bright.parent, out, teacher=MeanTeacher(VIEW.clip_shape, scale=600.0))
    assert summary.failures == {"teacher_error": 1}
    (line,) = failures(out)
    assert line["id"] == "bright"
    assert "not finite in float16" in str(line["message"])


def test_a_shard_without_any_sample_is_kept_so_that_numbers_agree(videos: Path, tmp_path: Path) -> None:
    build(videos, tmp_path, config=replace(CONFIG, samples_per_shard=1))
    counts = [info.num_samples for info in ShardDataset.open(tmp_path).manifest.shards]
    assert sorted(counts) == [0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert not verify_dataset(tmp_path).problems


def test_limit_builds_a_repeatable_sample_of_the_items(videos: Path, tmp_path: Path) -> None:
    assert build(videos, tmp_path, limit=4).num_planned == 4


def test_a_second_run_changes_nothing(videos: Path, tmp_path: Path) -> None:
    build(videos, tmp_path)
    before = contents(tmp_path)
    again = build(videos, tmp_path)
    assert contents(tmp_path) == before
    assert (again.num_resumed, again.num_samples, again.num_failed) == (9, 7, 2)


@pytest.mark.parametrize("harm", ["no_tar", "no_idx", "short_tar", "bad_idx"])
def test_a_lost_or_damaged_shard_is_built_again(videos: Path, tmp_path: Path, harm: str) -> None:
    build(videos, tmp_path)
    before = contents(tmp_path)
    victim = tmp_path / ("train-00001-of-00003.tar" if harm.endswith("tar") else "train-00001-of-00003.idx")
    data = victim.read_bytes()
    victim.unlink()
    if harm == "short_tar":
        victim.write_bytes(data[:-512])
    if harm == "bad_idx":
        victim.write_bytes(data[:-1])
    assert build(videos, tmp_path).num_resumed == 6
    assert contents(tmp_path) == before


def test_too_many_failures_stop_the_build_which_then_goes_on(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"of 9 items have failed, 0 may: .* 1.*raise build.max_failures"):
        build(videos, tmp_path / "stopped", config=replace(CONFIG, max_failures=0))
    assert not (tmp_path / "stopped" / "dataset.json").exists()
    assert build(videos, tmp_path / "stopped", config=replace(CONFIG, max_failures=2)).num_resumed > 0
    build(videos, tmp_path / "whole")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_build_of_which_nothing_succeeds_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.webm").touch()
    with pytest.raises(ShardError, match="none of the 1 items could be built: empty_file 1"):
        build(tmp_path, tmp_path / "out")


def test_a_folder_that_holds_other_shards_is_left_alone(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.tar").touch()
    with pytest.raises(ShardError, match="holds shards but no plan"):
        build(videos, tmp_path)


class FailingTeacher(MeanTeacher):
    """Breaks at its third batch, as a device that runs out of memory does."""

    calls = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("out of memory")
        return super().__call__(clips)


def test_a_teacher_that_breaks_stops_the_build_and_finished_shards_stay(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(videos, tmp_path / "a", teacher=FailingTeacher(VIEW.clip_shape))
    assert not list((tmp_path / "a").glob("*.tmp"))
    assert build(videos, tmp_path / "a").num_resumed == 3
    build(videos, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_real_videos_build_with_their_failures_listed(tmp_path: Path) -> None:
    source, refusing = load_folder(clips_folder()), tmp_path / "refusing"
    summary = build_dataset(source, refusing, ViewSpec(short_video="refuse"), BuildConfig(samples_per_shard=4))
    assert (summary.num_planned, summary.num_samples) == (8, 5)
    assert {(line["id"], line["reason"]) for line in failures(refusing)} == {
        ("corrupted", "decode_error"),
        ("video_90", "too_few_frames"),
        ("unordered", "too_few_frames"),
    }
    assert not verify_dataset(refusing).problems
    summary = build_dataset(source, tmp_path / "padding", ViewSpec(short_video="pad"), BuildConfig())
    assert summary.failures == {"decode_error": 1}
    data = ShardDataset.open(tmp_path / "padding")
    assert data.metadata(data.index_of("video_90"))["frame_indices"] == [0, 1] + [2] * 14
