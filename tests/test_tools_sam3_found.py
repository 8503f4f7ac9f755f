"""What a small SAM3 finds, as a user sees it: `reelshard evaluate masks`, with pages, and `reelshard segment`."""

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream
from PIL import Image
from playwright.sync_api import Browser

from evaluation.mask_scores import video_scores
from evaluation.tracks import query_masks
from shards import rle
from shards.dataset import ShardDataset
from tests.browser import VIEWS, look
from tests.sam3_runs import Workshop
from tests.sav_sets import make_scene, write_frames
from tests.videos import write_video
from tools.cli import main
from tools.trained import open_run

LENGTHS = (49, 45, 53)
MEMORY = {"optim": {"lr": 3e-2}}  # so that a few steps change what is found


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.make(tmp_path_factory.mktemp("found"), LENGTHS)


@pytest.fixture(scope="module")
def image(workshop: Workshop) -> Path:
    student = ("--student", str(workshop.folder / "student"))
    return workshop.train("sam3_image_outputs", workshop.folder / "image", *student)


@pytest.fixture(scope="module")
def video(workshop: Workshop, image: Path) -> Path:
    return workshop.train("sam3_video", workshop.folder / "video", "--student", str(image), **MEMORY)


@pytest.fixture(scope="module")
def sav_val(workshop: Workshop) -> Path:
    """Two videos as Meta gives the evaluation sets out, built."""
    scenes = {f"sav_{number:06}": make_scene(49, 2, seed=50 + number) for number in range(2)}
    folder = write_frames(workshop.folder / "official", scenes)
    recipe, out = workshop.recipe("sam3_video"), workshop.folder / "sav_val"
    assert main(["build", "--recipe", str(recipe), "--videos", str(folder), "--split", "val", "--out", str(out)]) == 0
    return out


def evaluated(capsys: pytest.CaptureFixture[str], run: Path, data: Path, *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", "masks", "--run", str(run), "--val", str(data), "--json", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["trained"]
    return found


def test_a_memory_is_scored_beside_none_and_another_videos(
    workshop: Workshop, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, video, workshop.folder / "set")
    metrics, rows = found["metrics"], found["rows"]
    assert metrics["num_samples"] == len(rows) == len(LENGTHS)
    for what in ("loss", "iou", "presence"):
        for memory in ("right", "none", "other"):
            values = [row[f"{what}_{memory}"] for row in rows if row[f"{what}_{memory}"] is not None]
            assert metrics[f"{what}_{memory}"] == pytest.approx(np.mean(values)), (what, memory)
    losses = [[row[f"loss_{memory}"] for row in rows] for memory in ("right", "none", "other")]
    assert losses[0] != losses[1] != losses[2] != losses[0]
    gains = np.subtract(losses[2], losses[0])
    errors = gains.mean() / (gains.std(ddof=1) / len(gains) ** 0.5)
    assert metrics["loss_gain_other"] == pytest.approx(gains.mean())
    assert metrics["loss_gain_other_errors"] == pytest.approx(errors, rel=1e-6)
    assert not [name for name in metrics if name.startswith("j_")]  # whole videos are of SA-V's evaluation sets


def test_a_student_of_pictures_is_scored_in_image_mode(
    workshop: Workshop, image: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluated(capsys, image, workshop.folder / "set")["metrics"]
    assert set(metrics) == {
        "loss_none",
        "iou_none",
        "presence_none",
        "presence_base_rate",
        "num_samples",
        "num_objects",
    }


def test_the_page_of_a_student_of_pictures_shows_image_mode_alone(
    workshop: Workshop, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(capsys, image, workshop.folder / "set", "--out", str(tmp_path))
    page = (tmp_path / "masks.html").read_text()
    assert page.count("image mode, masks over frames") == page.count("annotated, masks over frames") > 0
    assert "video mode" not in page


def test_whole_videos_are_scored_by_what_is_stored_of_them(
    sav_val: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, video, sav_val)
    rows, dataset = found["tables"]["tracks"], ShardDataset.open(sav_val)
    assert {row["key"] for row in rows} == {dataset.key(0), dataset.key(1)}
    metrics = found["metrics"]
    assert metrics["num_tracks"] == len(rows)
    both = np.mean([[row["j_video"], row["f_video"]] for row in rows])
    assert metrics["j_and_f_video"] == pytest.approx(both)
    # Image mode of the first object, frame by frame from what `find` gives.
    row = rows[0]
    number = dataset.index_of(row["key"])
    _, objective, _ = open_run(video)
    jpegs: Any = dataset.read(number, "frames")
    frames = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]
    pieces: Any = dataset.read(number, "masks")
    real = np.zeros((len(frames), *frames[0].shape[:2]), np.bool_)
    for place, piece in enumerate(pieces):
        for one in json.loads(bytes(piece))["objects"]:
            if one["id"] == row["object"]:
                real[place] = rle.decode(one["rle"])
    shown = []
    for frame in frames:
        batch = {"frames": torch.tensor(frame).movedim(-1, 0)[None, None], "prompt": torch.zeros(1, dtype=torch.long)}
        with torch.inference_mode():
            shown.append(query_masks(objective.find(batch), frame.shape[:2]))  # type: ignore[operator]
    of_queries = [np.stack([masks[query] for masks in shown]) for query in range(len(shown[0]))]
    candidates = [video_scores(masks, real) for masks in [*of_queries, np.zeros_like(real)]]
    assert any(score == pytest.approx((row["j_image"], row["f_image"])) for score in candidates)


def test_the_page_shows_frames_with_masks_in_both_modes(
    sav_val: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], browser: Browser
) -> None:
    evaluated(capsys, video, sav_val, "--out", str(tmp_path))
    page = (tmp_path / "masks.html").read_text()
    for words in ("annotated", "image mode", "video mode"):
        assert page.count(f"{words}, masks over frames") == 2, words
    assert json.loads((tmp_path / "masks.json").read_text())
    for width, scheme in VIEWS:
        assert not look(browser, tmp_path / "masks.html", width, scheme).problems, f"{width} pixels, {scheme}"


def segmented(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["segment", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_video_is_watched_six_frames_a_second_and_written_as_masks_and_as_a_video(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / "scene.mp4", make_scene(48, 2, seed=9).frames, codec="libx264", rate=24)
    told = segmented(capsys, path, "--run", video, "--out", tmp_path / "out", "--prompt", "all objects")
    written = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert [frame["frame"] for frame in written["frames"]] == list(range(0, 48, 4))
    assert written["prompt"] == "all objects"
    objects = [one for frame in written["frames"] for one in frame["objects"]]
    assert told["num_masks"] == len(objects)
    for one in objects:
        mask = rle.decode(one["rle"], (60, 80))
        assert mask.any()
        assert one["box"] == list(rle.box_of(mask) or ())
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert isinstance(stream, VideoStream)
        assert (stream.height, stream.width, float(stream.average_rate or 0)) == (60, 80, 6.0)
        assert len(list(container.decode(stream))) == 12
    assert told["watched_per_second"] > 0


def test_what_is_found_in_a_frame_depends_on_the_frames_before_it(
    video: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = make_scene(48, 2, seed=9).frames
    write_video(tmp_path / "a.mp4", frames, codec="libx264", rate=24)
    for name, run in (("video", video), ("image", image)):
        segmented(capsys, tmp_path / "a.mp4", "--run", run, "--out", tmp_path / name)
    whole, alone = (json.loads((tmp_path / name / "masks.json").read_text())["frames"] for name in ("video", "image"))
    assert whole[0]["presence"] == alone[0]["presence"]  # nothing is remembered yet
    assert [frame["presence"] for frame in whole[1:]] != [frame["presence"] for frame in alone[1:]]


def test_what_cannot_be_segmented_is_refused_in_a_line(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    path = write_video(tmp_path / "a.mp4", make_scene(16, 1).frames, codec="libx264", rate=24)
    for arguments, words in (
        ([tmp_path / "none.mp4"], "there is no file"),
        ([tmp_path / "text.mp4"], "cannot be read"),
        ([path, "--prompt", " "], "--prompt is empty"),
        ([path, "--prompt", "word " * 40], "the most are 32"),
    ):
        assert main(["segment", *map(str, arguments), "--run", str(video), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "out").exists()
