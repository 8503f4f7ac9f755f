"""`reelshard evaluate ucf101` and `classify`: from a download folder to top-1, and from video files to predictions."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from evaluation.saved_probe import load_probe
from shards.builder import BuildConfig, ViewSpec, build_dataset, load_ucf101
from shards.dataset import ShardDataset
from tests.captioned import save_videomae
from tests.official import write_ucf101
from tests.runs import MODEL
from tests.teachers import MeanTeacher
from tools.cli import main

CLASSES = ("SlideDown", "SlideLeft", "SlideRight")
NUM_GROUPS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("download") / "ucf101"
    return write_ucf101(folder, motions=("right", "left", "down"), num_groups=NUM_GROUPS, num_clips=2, num_frames=8)


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_videomae(tmp_path_factory.mktemp("model") / "videomae")


def arguments(root: Path, videomae: Path, work: Path, out: Path, *more: str) -> list[str]:
    given = {
        "--root": root,
        "--checkpoint": videomae,
        "--work": work,
        "--out": out,
        "--epochs": 5,
        "--lr": 0.01,
        "--weight-decay": 0.01,
        "--device": "cpu",
        "--workers": 1,
    }
    return ["evaluate", "ucf101", *(str(part) for pair in given.items() for part in pair), *more]


@pytest.fixture(scope="module")
def work(root: Path, videomae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets and the report of one command."""
    folder = tmp_path_factory.mktemp("work")
    assert main(arguments(root, videomae, folder / "sets", folder / "report")) == 0
    return folder


def results(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "ucf101.json").read_text())["results"]
    return record


def test_one_command_goes_from_the_download_folder_and_a_published_model_to_top_1_on_the_test_list(work: Path) -> None:
    found = results(work / "report")
    assert set(found) == {"trained", "untrained", "pixels"}
    result = found["trained"]
    assert (result["protocol"]["num_train"], result["protocol"]["num_val"]) == (12, 6)
    assert result["protocol"]["data"] == "UCF101, fold 1"
    assert result["protocol"]["num_videos_left_out"] == {"train": 0, "val": 0}
    assert 0 <= result["intervals"]["top1"][0] <= result["metrics"]["top1"] <= result["intervals"]["top1"][1] <= 1
    assert [row["class"] for row in result["tables"]["confusion"]] == list(CLASSES)
    (test,) = (work / "sets").glob("ucf101-1-test-*")
    assert result["digests"]["val"] == ShardDataset.open(test).digest
    assert {row["key"].split("_")[2] for row in result["rows"]} == {"g01"}
    assert "UCF101, fold 1" in (work / "report" / "ucf101.html").read_text()


def test_weights_and_sets_are_found_again_and_give_the_same_numbers(
    root: Path, videomae: Path, work: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.tar")}
    assert main(arguments(root, videomae, work / "sets", tmp_path)) == 0
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.tar")} == before
    assert results(tmp_path) == results(work / "report")


def test_a_build_that_was_stopped_goes_on(root: Path, videomae: Path, work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "sets", tmp_path / "sets")
    (train,) = (tmp_path / "sets").glob("ucf101-1-train-*")
    for path in (train / "dataset.json", *train.glob("*.idx")):
        path.unlink()
    assert main(arguments(root, videomae, tmp_path / "sets", tmp_path / "report", "--baselines")) == 0
    assert results(tmp_path / "report")["trained"] == results(work / "report")["trained"]


def test_another_fold_has_other_test_videos(root: Path, videomae: Path, tmp_path: Path) -> None:
    assert main(arguments(root, videomae, tmp_path, tmp_path, "--fold", "2", "--baselines", "untrained")) == 0
    found = results(tmp_path)
    assert set(found) == {"trained", "untrained"}
    assert {row["key"].split("_")[2] for row in found["trained"]["rows"]} == {"g02"}


def test_a_folder_that_is_no_download_is_answered_with_where_to_get_it(
    videomae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for encoder in (videomae, tmp_path / "absent"):  # which is looked at after the download
        assert main(arguments(tmp_path, encoder, tmp_path / "sets", tmp_path / "out")) == 1
        assert "https://www.crcv.ucf.edu/data/UCF101.php" in capsys.readouterr().err
    assert not (tmp_path / "sets").exists()


def test_weights_copied_anywhere_are_measured_on_clips_of_the_view_that_they_were_trained_on(
    root: Path, tmp_path: Path
) -> None:
    view = ViewSpec(num_frames=4, size=32, sampling="stride", stride=1)
    config = BuildConfig(time_limit_seconds=None, workers=1)
    teacher = MeanTeacher(view.clip_shape)
    build_dataset(load_ucf101(root, "train"), tmp_path / "train", view, config, teacher=teacher)
    model = {**dataclasses.asdict(MODEL), "patch": 16, "target_dim": 3}
    recipe = {
        "data": {"global_batch_size": 6, "threads": 1},
        "model": model,
        "teacher": {"projection_dim": None},
        "train": {"steps": 1, "device": "cpu"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    assert (
        main(["train", *map(str, ("--recipe", tmp_path / "tiny.yaml", "--data", tmp_path / "train", "--out", run))])
        == 0
    )
    (weights,) = run.glob("checkpoints/*/model.safetensors")
    shutil.move(weights, tmp_path / "alone.safetensors")
    shutil.rmtree(run)
    assert main(arguments(root, tmp_path / "alone.safetensors", tmp_path / "sets", tmp_path, "--baselines")) == 0
    result = results(tmp_path)["trained"]
    assert result["digests"]["view"] == view.hash
    assert (result["protocol"]["encoder_kind"], result["protocol"]["step"]) == ("weights", 1)
    (test,) = (tmp_path / "sets").glob("ucf101-1-test-*")
    assert ShardDataset.open(test).metadata(0)["frame_indices"] == view.frame_indices(8)


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(root: Path, videomae: Path, work: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launcher, "-m", "tools", *arguments(root, videomae, tmp_path / "sets", tmp_path / "out")],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    one, two = results(work / "report")["trained"], results(tmp_path / "out")["trained"]
    assert two["digests"] == one["digests"]
    assert [row["key"] for row in two["rows"]] == [row["key"] for row in one["rows"]]
    assert two["metrics"]["top1"] == pytest.approx(one["metrics"]["top1"], abs=0.2)  # rounding may turn a guess


def classify(*given: object) -> int:
    return main(["evaluate", "classify", *map(str, given), "--device", "cpu", "--workers", "1"])


def test_a_folder_of_videos_is_classified_with_a_picture_and_its_hits_are_counted(
    root: Path, videomae: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (root / "UCF-101", "--checkpoint", videomae, "--probe", work / "report", "--out", tmp_path, "--top", 2)
    assert classify(*given) == 0
    record = json.loads((tmp_path / "classify.json").read_text())
    assert len(record["videos"]) == 18
    for video in record["videos"]:
        first, second = video["predictions"]
        assert {first["class"], second["class"]} < set(CLASSES)
        assert 1 >= first["probability"] >= second["probability"] > 0
        assert video["folder_class"] == Path(video["path"]).parent.name
    right = sum(video["predictions"][0]["class"] == video["folder_class"] for video in record["videos"])
    assert f"{right} of 18 videos lie in a folder of their first prediction's name" in capsys.readouterr().out
    with Image.open(tmp_path / "classify.png") as picture:
        assert picture.height > 18 * 100
    page = (tmp_path / "classify.html").read_text()
    assert page.count("<img") == 18


def test_predictions_are_those_that_the_probe_was_scored_by(
    root: Path, videomae: Path, work: Path, tmp_path: Path
) -> None:
    assert (
        classify(
            root / "UCF-101",
            "--checkpoint",
            videomae,
            "--probe",
            work / "report" / "probe.safetensors",
            "--out",
            tmp_path,
        )
        == 0
    )
    record = json.loads((tmp_path / "classify.json").read_text())
    said = {Path(video["path"]).stem: video["predictions"][0]["class"] for video in record["videos"]}
    classes = load_probe(work / "report").classes
    for row in results(work / "report")["trained"]["rows"]:
        assert classes[row["predicted"][0]] == said[row["key"]]


def test_an_attentive_probe_classifies_too(root: Path, videomae: Path, work: Path, tmp_path: Path) -> None:
    attentive = ("--kind", "attentive", "--heads", "2", "--baselines", "--epochs", "1")
    assert main(arguments(root, videomae, work / "sets", tmp_path, *attentive)) == 0
    video = next((root / "UCF-101" / "SlideLeft").glob("*.avi"))
    assert classify(video, "--checkpoint", videomae, "--probe", tmp_path, "--out", tmp_path) == 0
    assert len(json.loads((tmp_path / "classify.json").read_text())["videos"]) == 1


def test_bad_videos_are_listed_and_cost_the_others_nothing(
    root: Path, videomae: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(next((root / "UCF-101" / "SlideRight").glob("*.avi")), videos / "good $x$.avi")
    (videos / "empty.mp4").touch()
    (videos / "text \x1b[31m.mkv").write_text("no video")
    assert classify(videos, "--checkpoint", videomae, "--probe", work / "report", "--out", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "classify.json").read_text())
    assert [Path(video["path"]).name for video in record["videos"]] == ["good $x$.avi"]
    assert record["videos"][0]["folder_class"] is None
    problems = {Path(problem["path"]).name: problem["problem"] for problem in record["problems"]}
    assert problems["empty.mp4"].startswith("empty_file: ")
    assert len(problems) == 2
    assert "\x1b" not in capsys.readouterr().out


def test_where_no_file_works_the_command_fails_and_still_says_why(
    videomae: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    given = ("--checkpoint", videomae, "--probe", work / "report")
    assert classify(tmp_path / "text.mp4", *given, "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["problems"][0]["problem"]
    assert "none of 1 files could be read as a video" in captured.err
    assert classify(tmp_path / "absent.mp4", *given) == 1
    assert "there is no video or folder" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    assert classify(tmp_path / "folder", *given) == 1
    assert "there is no video in" in capsys.readouterr().err


def test_a_probe_of_another_encoder_and_what_is_no_probe_are_refused(
    root: Path, videomae: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_videomae(tmp_path / "other", seed=8)
    videos = root / "UCF-101"
    assert classify(videos, "--checkpoint", other, "--probe", work / "report") == 1
    assert "the probe was trained on" in (error := capsys.readouterr().err)
    assert "give that encoder" in error
    assert classify(videos, "--checkpoint", videomae, "--probe", tmp_path) == 1
    assert "there is no probe" in capsys.readouterr().err
    assert classify(videos, "--checkpoint", videomae, "--probe", videomae / "model.safetensors") == 1
    assert "is not a probe" in capsys.readouterr().err
    assert classify(videos, "--checkpoint", videomae, "--probe", work / "report", "--top", "0") == 1
    assert "--top is 0; give at least 1" in capsys.readouterr().err
