"""`reelshard verify --content` of samples with masks: features, frames and masks are of one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import ShardDataset, rle
from shards.content import check_content
from tests.sav_sets import SIDE, build_sav, write_teacher, write_train
from tests.test_shards_content import picture, rewritten, said
from tools.cli import main

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    root = tmp_path_factory.mktemp("sav")
    write_train(root, [41, 49])
    return build_sav(root, root / "set", write_teacher(root / "teacher"))


def masks(change: Callable[[list[dict[str, Any]]], Any]) -> Change:
    """Change the objects of the last frame."""

    def changed(sample: dict[str, Any]) -> dict[str, Any]:
        pieces = [bytes(piece) for piece in sample["masks"]]
        objects = json.loads(pieces[-1])["objects"]
        change(objects)
        return {"masks": [*pieces[:-1], json.dumps({"objects": objects}).encode()]}

    return changed


def _infinite(sample: dict[str, Any]) -> dict[str, Any]:
    fpn = sample["fpn"].copy()
    fpn[3, 0, 0, :2] = np.inf, np.nan
    return {"fpn": fpn}


def test_a_sound_set_is_what_it_says(dataset: ShardDataset, capsys: pytest.CaptureFixture[str]) -> None:
    report = check_content(dataset)
    assert (report.num_samples, report.problems) == (2, ())
    assert report.num_frames == dataset.lengths("frames").sum() == dataset.lengths("fpn").sum()
    assert main(["verify", str(dataset.directory), "--content"]) == 0
    assert "all are what they say" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_infinite, "2 of the "),
        (lambda sample: {"fpn": sample["fpn"][:-1]}, "frames with features, and its JSON says"),
        (lambda sample: {"masks": sample["masks"][:-1]}, "frames with masks"),
        (lambda sample: {"frames": sample["frames"][:-1]}, "frames and "),
        (lambda sample: said(sample, frame_indices=[0, 4]), "and its JSON says 2 annotated ones"),
        (lambda sample: said(sample, frame_indices=None), "and its JSON says not annotated ones"),
        (lambda sample: said(sample, timestamps="never"), "and 0 times"),
        (lambda sample: {"frames": [picture(SIDE, "PNG"), *sample["frames"][1:]]}, "frame 0 is no readable JPEG"),
        (lambda sample: {"frames": [picture(40), *sample["frames"][1:]]}, "frame 0 is 40 x 40 px"),
        (masks(lambda objects: objects[0].pop("box")), "it is no JSON of objects"),
        (masks(lambda objects: objects[0].update(id=77)), "are not different ones of its JSON's [0, 1]"),
        (masks(lambda objects: objects.append(objects[0])), "are not different ones"),
        (masks(lambda objects: objects[0].update(box=[0.9, 0.9, 1, 1])), "does not hold its mask"),
        (masks(lambda objects: objects[0]["rle"].update(counts="3")), "an RLE's runs are not those"),
        (
            masks(lambda objects: objects[0].update(rle=rle.encode(np.ones((9, 9), np.bool_)))),
            "the RLE is of 9 x 9 px, expected 112 x 112",
        ),
    ],
)
def test_a_sample_that_is_not_what_it_says_is_named(
    dataset: ShardDataset, tmp_path: Path, change: Change, problem: str
) -> None:
    report = check_content(ShardDataset.open(rewritten(dataset, tmp_path / "out", change)))
    assert report.problems
    assert any(problem in line for line in report.problems), report.problems
    assert all(f"key {dataset.key(0)}" in line for line in report.problems)
