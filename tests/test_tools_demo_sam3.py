"""The SAM3 demo: scenes in which the last frame alone says nothing, what it promises, and all of it once, small."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser
from transformers import Sam3Model

from model.memory import SPREAD
from model.sam3 import CONTEXT_LEVEL
from shards import rle
from shards.dataset import ShardDataset
from tests.browser import VIEWS, look
from tools.cli import main
from tools.demo.sam3_models import SIDE, make_models
from tools.demo.sam3_page import question
from tools.demo.sam3_plan import Sam3Plan
from tools.demo.sam3_run import problems
from tools.demo.sam3_scenes import NUM_ALIKE, render_rest
from tools.demo.sam3_videos import AT_REST, HEIGHT, NUM_FRAMES, ONE_EMPTY_IN, STEP, RestVideos, make_rest_videos

VIDEOS = RestVideos(num_videos=20, seed=5)
TIMES = [frame / AT_REST for frame in range(0, NUM_FRAMES, STEP)]


@pytest.mark.parametrize("number", range(8))
def test_the_last_frame_is_the_same_whichever_of_the_shapes_has_moved(number: int) -> None:
    scene = VIDEOS.scene(number)
    ((x, y, *rest),) = scene.moved
    other = dataclasses.replace(scene, still=(*scene.still[1:], (rest[0], rest[1])), moved=((x, y, *scene.still[0]),))
    (frames, masks), (other_frames, other_masks) = (render_rest(one, TIMES, HEIGHT) for one in (scene, other))
    assert np.array_equal(frames[-1], other_frames[-1])
    assert not np.array_equal(frames[0], other_frames[0])
    assert not (masks[-1] & other_masks[-1]).any()
    assert masks[-1].any()


def test_what_is_annotated_moves_in_the_frames_before_the_query_and_rests_in_it() -> None:
    frames, masks = render_rest(VIDEOS.scene(0), TIMES, HEIGHT)
    changes = [(frames[place] != frames[place + 1]).any() for place in range(len(TIMES) - 1)]
    assert changes == [True] * 7 + [False]
    assert all(mask.any() for mask in masks[:, 0])


def test_in_a_tenth_of_the_queries_there_is_no_object_and_as_many_shapes() -> None:
    empty = [
        number for number in range(VIDEOS.num_videos) if not render_rest(VIDEOS.scene(number), [1], HEIGHT)[1].any()
    ]
    assert empty == [number for number in range(VIDEOS.num_videos) if number % ONE_EMPTY_IN == ONE_EMPTY_IN - 1]
    assert all(len(VIDEOS.scene(number).still) == NUM_ALIKE for number in empty)


def test_videos_are_written_as_sa_v_has_them(tmp_path: Path) -> None:
    make_rest_videos({tmp_path: dataclasses.replace(VIDEOS, num_videos=2)})
    folder = tmp_path / "sav_train" / "sav_000"
    about = json.loads((folder / "sav_000001_manual.json").read_text())
    assert (folder / "sav_000001.mp4").is_file()
    _, masks = render_rest(VIDEOS.scene(1), TIMES, HEIGHT)
    assert len(about["masklet"]) == len(TIMES)
    assert np.array_equal(rle.decode(about["masklet"][-1][0]), masks[-1, 0])
    assert about["video_frame_count"] == NUM_FRAMES


def test_features_are_small_enough_for_the_embeddings_of_the_memory_to_count_beside_them(tmp_path: Path) -> None:
    make_models(["all objects"], tmp_path / "teacher", tmp_path / "student")
    frames, _ = render_rest(VIDEOS.scene(0), TIMES, SIDE)
    pixels = torch.from_numpy(frames[:, :, :SIDE].copy()).permute(0, 3, 1, 2) / 127.5 - 1
    teacher: Any = Sam3Model.from_pretrained(tmp_path / "teacher")
    with torch.no_grad():
        features = teacher.vision_encoder(pixels).fpn_hidden_states[CONTEXT_LEVEL]
    assert SPREAD / 4 < float(features.std()) < 4 * SPREAD


def report(**changes: Any) -> dict[str, Any]:
    metrics = {
        "loss_gain_none": 0.5,
        "loss_gain_none_errors": 4.0,
        "loss_gain_other": 0.3,
        "loss_gain_other_errors": 3.5,
    }
    runs = {"video": {"seed": 0, "embeddings": True, "metrics": metrics}}
    runs["bag"] = {"seed": 0, "embeddings": False, "metrics": metrics | {"loss_gain_other_errors": 1.0}}
    kept = {"first_loss": 10.0, "final_loss": 6.9}
    return {"by_heart": kept, "constant": {"difference": 0.2, "errors": 2.0}, "runs": runs, **changes}


def test_each_promise_that_is_not_kept_is_a_line() -> None:
    assert problems(report()) == []
    (line,) = problems(report(by_heart={"first_loss": 10.0, "final_loss": 7.1}))
    assert "fell by 29 %, less than 30 %" in line
    (line,) = problems(report(constant={"difference": -0.1, "errors": -1.0}))
    assert "ends 0.1000 below" in line
    weak = report()
    weak["runs"]["video"]["metrics"] = weak["runs"]["video"]["metrics"] | {"loss_gain_other_errors": 2.9}
    (line,) = problems(weak)
    assert "2.9 standard errors" in line


def test_whether_only_the_memory_can_tell_is_said_for_each_kind_and_baseline() -> None:
    found = question(report())
    assert [clear for clear, _ in found] == [True, True, True, False]
    assert (
        "against another video's memory: a gain above 2 standard errors in 0 of 1 runs; loss 0.300 (1.0 SE)"
        in found[3][1]
    )


@pytest.mark.parametrize("changes", [{"num_held_out": 63}, {"num_train": 15}, {"num_seeds": 0}])
def test_a_demo_that_could_show_nothing_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"num_|needs 16"):
        Sam3Plan(**changes)


@pytest.mark.slow
def test_the_demo_builds_trains_and_measures_and_ends_with_an_error_where_a_promise_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], browser: Browser
) -> None:
    sizes = [
        "--num-alone",
        "32",
        "--num-train",
        "32",
        "--num-held-out",
        "64",
        "--image-steps",
        "16",
        "--memory-steps",
        "16",
    ]
    out = tmp_path / "demo"
    status = main(["demo", "--system", "sam3_video", "--out", str(out), *sizes])
    told = capsys.readouterr()
    found = json.loads((out / "report.json").read_text())
    assert status == (1 if found["problems"] else 0)
    assert all(line in told.err for line in found["problems"])
    assert set(found["runs"]) == {"video", "bag"}
    assert len(ShardDataset.open(out / "validation")) == 64
    assert found["by_heart"]["final_loss"] < 0.7 * found["by_heart"]["first_loss"]
    for width, scheme in VIEWS:
        assert not look(browser, out / "report.html", width, scheme).problems, f"{width} pixels, {scheme}"
    page = (out / "report.html").read_text()
    assert page.count("video mode, masks over frames") == 6
