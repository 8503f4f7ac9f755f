import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from shards.builder import load_ssv2
from tests.marks import reads_with_stock_webdataset
from tools.cli import main
from tools.demo.page import summary
from tools.demo.scenes import MOTIONS, draw_scene, render
from tools.demo.videos import FIRST_ID, HEIGHT, WIDTH, VideoSet, make_videos

TINY = ["--train-videos", "24", "--validation-videos", "12", "--teacher-clips", "48", "--teacher-steps", "2"]
TINY += ["--salt-steps", "3", "--train.steps", "4", "--data.global_batch_size", "8"]
VARYING = ("rates", "seconds", "machine")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("videos")
    make_videos(VideoSet(num_train=6, num_validation=2, seed=3), out, workers=2)
    return out


def test_the_videos_are_vp9_of_about_four_seconds(videos: Path) -> None:
    for path in sorted((videos / "videos").iterdir()):
        with av.open(path) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.height, stream.width) == ("vp9", HEIGHT, WIDTH)
            assert stream.average_rate == 12
            assert container.duration is not None
            assert 3.5e6 < container.duration < 4.5e6


def test_the_annotations_are_those_of_something_something(videos: Path) -> None:
    source = load_ssv2(videos / "videos", videos / "labels", "train")
    assert [item.id for item in source.items] == [str(FIRST_ID + number) for number in range(6)]
    assert len(source.label_names) == len(MOTIONS)
    for item, motion in zip(source.items, MOTIONS, strict=True):
        assert item.problem is None
        assert item.label_name == motion.template.replace("[", "").replace("]", "")
        assert (source.root / item.path).is_file()
    assert len(load_ssv2(videos / "videos", videos / "labels", "validation").items) == 2


def test_a_video_depends_on_seed_and_number_alone(videos: Path, tmp_path: Path) -> None:
    make_videos(VideoSet(num_train=2, num_validation=0, seed=3), tmp_path)
    for number in range(2):
        name = f"{FIRST_ID + number}.webm"
        assert (tmp_path / "videos" / name).read_bytes() == (videos / "videos" / name).read_bytes()


@pytest.mark.parametrize(("there", "back"), [(0, 1), (2, 3), (4, 5)])
def test_opposite_motions_show_the_same_frames_in_opposite_order(there: int, back: int) -> None:
    times = np.linspace(0, 1, 5).tolist()
    clips = [render(draw_scene(MOTIONS[m], np.random.default_rng(1)), times, 60, 80) for m in (there, back)]
    np.testing.assert_array_equal(clips[0], clips[1][::-1])
    assert (clips[0] != clips[1]).any()


def test_the_middle_frame_does_not_tell_the_class() -> None:
    frames = [render(draw_scene(motion, np.random.default_rng(1)), [0.5], 60, 80) for motion in MOTIONS]
    for frame in frames:
        np.testing.assert_array_equal(frame, frames[0])


@pytest.mark.slow
@reads_with_stock_webdataset
def test_the_demo_runs_end_to_end_with_the_same_numbers_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    reports = []
    for _ in range(2):  # the second run replaces the first
        assert main(["demo", "--out", str(out), *TINY, "--json"]) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert report == json.loads((out / "report.json").read_text())
        reports.append({name: value for name, value in report.items() if name not in VARYING})
    assert reports[0] == reports[1]
    assert reports[0]["readback"]["num_equal"] == 24
    assert reports[0]["datasets"]["validation"]["num_samples"] == 12
    trained = report["probe"]["trained"]
    assert 0 <= trained["top1_interval"][0] <= trained["top1"] <= trained["top1_interval"][1] <= 1
    interval = "{:.1%} to {:.1%}".format(*trained["top1_interval"])
    assert f"trained student {trained['top1']:.1%} ({interval})" in summary(report, out)
    page = (out / "report.html").read_text()
    assert interval in page
    assert page.count("data:image/png;base64,") == 2 + len(MOTIONS)
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "not an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_another_teacher_than_its_own_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), "--teacher.id", "elsewhere"]) == 1
    assert "the demo makes a teacher of its own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_class_needs_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), "--train-videos", "5"]) == 1
    assert "num_train is 5" in capsys.readouterr().err
