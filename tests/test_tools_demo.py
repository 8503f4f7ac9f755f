import json
import re
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from playwright.sync_api import Browser

from pipeline.world import World
from shards.builder import load_ssv2
from shards.dataset import ShardDataset
from tests.browser import VIEWS, look
from tests.marks import reads_with_stock_webdataset
from tools.cli import main
from tools.demo.page import summary
from tools.demo.scenes import MOTIONS, draw_scene, render
from tools.demo.steps import MARKER
from tools.demo.student import SPEAKERS, score_student
from tools.demo.videos import FIRST_ID, HEIGHT, WIDTH, VideoSet, make_videos
from tools.loaders import TrainingLoader
from tools.recipe import load_recipe
from tools.systems import system_of
from training.checkpoint import newest_checkpoint
from training.initial import restore

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


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo of tiny size, and its report."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--out", str(out), *TINY]) == 0
    return out, json.loads((out / "report.json").read_text())


@pytest.mark.slow
@reads_with_stock_webdataset
def test_the_demo_runs_end_to_end_with_the_same_numbers_each_time(
    ran: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, out = ran[1], tmp_path / "out"
    out.mkdir()
    for name in (MARKER, "of an earlier demo"):
        (out / name).touch()
    assert main(["demo", "--out", str(out), *TINY, "--json"]) == 0
    assert not (out / "of an earlier demo").exists()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads((out / "report.json").read_text())
    same = [{name: value for name, value in each.items() if name not in VARYING} for each in (first, report)]
    assert same[0] == same[1]
    assert report["readback"]["num_equal"] == 24
    assert report["datasets"]["validation"]["num_samples"] == 12


@pytest.mark.slow
@reads_with_stock_webdataset
def test_the_report_shows_what_the_student_has_learned_and_whether_that_is_more_than_nothing(
    ran: tuple[Path, dict[str, Any]],
) -> None:
    out, report = ran
    page = (out / "report.html").read_text().replace("\u00a0", " ")
    for found in report["evaluations"].values():
        trained, untrained = (found["results"][which] for which in ("trained", "untrained"))
        value, (low, high) = (trained[key][found["metric"]] for key in ("metrics", "intervals"))
        assert 0 <= low <= value <= high <= 1
        for text in (f"{100 * value:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %"):
            assert text in page
            assert text in summary(report, out)
        beaten = value > untrained["metrics"][found["metric"]] and low > untrained["intervals"][found["metric"]][1]
        assert (f"{found['title']}</b>: the trained student beats" in page) == beaten
    assert page.count("data:image/png;base64,") == 4 * len(MOTIONS)
    for words in (
        report["machine"]["what"],
        report["machine"]["date"],
        "torch 2.",
        report["datasets"]["train"]["digest"][:16],
    ):
        assert escape(words) in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


@pytest.mark.slow
@reads_with_stock_webdataset
def test_what_the_student_says_of_hidden_tokens_is_scored_as_in_training(ran: tuple[Path, dict[str, Any]]) -> None:
    out, report = ran
    recipe = load_recipe(out / "run" / "recipe.yaml", (), recorded=True)
    train_set, held_out = (ShardDataset.open(out / split) for split in ("train", "validation"))
    scores, guesses = score_student(recipe, out / "run", train_set, held_out, 2)
    assert report["held_out"][""]["loss"] == pytest.approx(scores.loss)
    for name in SPEAKERS:  # this loss is one minus the cosine
        assert scores.loss[name] == pytest.approx(1 - scores.cosine[name], abs=1e-5)
    trainer = TrainingLoader(recipe, {"": held_out}, torch.device("cpu"), World(), held_out=True)
    objective = system_of(recipe).make_objective(recipe).eval()
    checkpoint = newest_checkpoint(out / "run" / "checkpoints")
    assert checkpoint is not None
    restore(objective, checkpoint)
    with closing(trainer), torch.inference_mode():
        losses = torch.cat([objective(batch)["loss"][batch["valid"]] for batch in trainer])
    assert scores.loss["trained"] == pytest.approx(float(losses.mean()), rel=1e-5)
    for guess in guesses:
        assert guess.hidden.mean() == recipe.objective.mask_ratio
        assert (guess.predicted[~guess.hidden] == 0).all()
        assert guess.sample.target is not None
        said, wanted = (torch.from_numpy(grid[guess.hidden]) for grid in (guess.predicted, guess.sample.target))
        assert guess.cosine["trained"] == pytest.approx(float(torch.cosine_similarity(said, wanted).mean()), abs=1e-5)


@pytest.mark.slow
@reads_with_stock_webdataset
def test_the_report_fits_a_telephone_and_a_desk_by_day_and_by_night(
    ran: tuple[Path, dict[str, Any]], browser: Browser
) -> None:
    for width, scheme in VIEWS:
        seen = look(browser, ran[0] / "report.html", width, scheme)
        assert not seen.problems, f"{width} pixels, {scheme}"


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
