"""SA-V from the command line: build, verify, show, and features of a further teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards import ShardDataset
from tests.builds import ROOT
from tests.sav_sets import SIDE, make_scene, write_frames, write_sample, write_teacher, write_train
from tests.test_shards_content import rewritten
from tools.cli import main

RECIPE = f"""
system: {ROOT / "tests" / "sav_system.py"}
view: {{sampling: every, stride: 4, geometry: squash, size: {SIDE}, quality: 90}}
teacher: {{id: TEACHER, image_size: {SIDE}}}
build: {{samples_per_shard: 2, teacher_batch: 4}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta's layout, a recipe, a teacher, and the set that is built of them."""
    root = tmp_path_factory.mktemp("sav")
    write_train(root, [41, 49, 57], auto=True)
    write_sample(root / "sav_train" / "sav_009", "sav_009999", make_scene(20))
    write_frames(root, {"sav_000050": make_scene(seed=50)})
    teacher = write_teacher(root / "tiny_sam3")
    (root / "recipe.yaml").write_text(RECIPE.replace("TEACHER", str(teacher)))
    assert build(root, root / "set") == 0
    return root


def build(root: Path, out: Path, *more: str) -> int:
    command = ["build", "--recipe", str(root / "recipe.yaml"), "--videos", str(root), "--out", str(out)]
    return main([*command, "--workers", "1", *more])


def test_a_build_says_what_it_made_and_what_failed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(root, tmp_path / "set", "--max-failures", "0.5") == 0
    said = capsys.readouterr()
    assert "3 of 4 samples in 2 shards" in said.out
    assert "1 failed: too_few_frames 1" in said.out
    assert "4 videos: none missing" in said.err
    one, two = (ShardDataset.open(folder / "set") for folder in (root, tmp_path))
    assert one.digest == two.digest


def test_a_built_set_is_verified_and_shown(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(root / "set"), "--content"]) == 0
    assert "looked into 3 samples, 39 frames" in capsys.readouterr().out
    assert main(["show", str(root / "set")]) == 0
    said = capsys.readouterr().out
    for line in ("teacher.id: tiny_sam3", "teacher.level: 3", "view.quality: 90", "sample.kind: sav"):
        assert line in said
    assert main(["show", str(root / "set"), "sav_000001", "--png", str(tmp_path / "strip.png")]) == 0
    assert "fpn: float16 [13, 32, 4, 4]" in capsys.readouterr().out
    with Image.open(tmp_path / "strip.png") as image:
        image.load()
    assert main(["show", str(root / "set"), "--lengths"]) == 0
    capsys.readouterr()
    assert main(["show", str(root / "set"), "--recipe", str(root / "recipe.yaml"), "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["bytes_per_draw"]["fpn"] == 8 * 32 * 4 * 4 * 2
    assert read["bytes_per_sample"] > sum(read["bytes_per_draw"].values())


def test_the_validation_set_and_other_masklets_are_built_by_name(root: Path, tmp_path: Path) -> None:
    assert build(root, tmp_path / "val", "--split", "val", "--teacher", "none") == 0
    assert ShardDataset.open(tmp_path / "val").key(0) == "sav_000050"
    assert build(root, tmp_path / "both", "--masklets", "both", "--teacher", "none", "--limit", "2") == 0
    assert ShardDataset.open(tmp_path / "both").manifest.provenance["source"]["masklets"] == "both"


def test_samples_are_made_again_from_their_videos_and_annotations(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(root / "set"), "--sources", str(root)]) == 0
    assert "3 samples decoded again: all hold the frames that they say" in capsys.readouterr().out
    assert build(root, tmp_path / "two", "--limit", "2", "--limit-order", "source", "--teacher", "none") == 0
    dataset = ShardDataset.open(tmp_path / "two")
    count = int(dataset.lengths("frames")[0])
    last = 4 * (count - 1)
    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        f"does not look like frame {last}": lambda sample: {"frames": [*sample["frames"][:-1], sample["frames"][0]]},
        "its masks of frame 0 are not": lambda sample: {"masks": [sample["masks"][-1], *sample["masks"][1:]]},
        f"it holds {count - 1} frames and {count} with masks": lambda sample: {"frames": sample["frames"][:-1]},
    }
    for number, (problem, change) in enumerate(changes.items()):
        changed = rewritten(dataset, tmp_path / str(number), change)
        assert main(["verify", str(changed), "--sources", str(root)]) == 1
        assert f"sample {dataset.key(0)} (read by pyav): " in (said := capsys.readouterr().out)
        assert problem in said
    assert build(root, tmp_path / "val", "--split", "val", "--teacher", "none") == 0
    assert main(["verify", str(tmp_path / "val"), "--sources", str(root)]) == 1
    assert "was built from folders of JPEGs and PNGs" in capsys.readouterr().err


def test_a_set_that_is_not_there_gets_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", "--recipe", str(root / "recipe.yaml"), "--out", str(tmp_path / "set"), "--videos"]
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main([*command, str(folder)]) == 1
        said = capsys.readouterr().err
        assert "https://ai.meta.com/datasets/segment-anything-video/" in said
        assert said.count("\n") == 1
    assert main([*command, str(root), "--view.size", "56"]) == 1
    assert "teacher.image_size is 112, view.size 56: give both one value" in capsys.readouterr().err
    assert main([*command, str(root), "--masklets", "all"]) == 1
    assert "masklets is 'all'; choose manual, auto, both" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_sam3_adds_the_features_that_it_would_have_built(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(root, tmp_path / "set", "--teacher", "none") == 0
    command = ["add-field", str(tmp_path / "set"), "--name", "fpn", "--teacher", str(root / "tiny_sam3")]
    assert main(command) == 0
    assert "fpn <f2 [rows, 32, 4, 4] for 3 samples" in capsys.readouterr().out
    ours, theirs = ShardDataset.open(tmp_path / "set"), ShardDataset.open(root / "set")
    assert ours.schema["fpn"].group == "fpn"
    for number in range(len(theirs)):
        assert np.array_equal(np.asarray(ours.read(number, "fpn")), np.asarray(theirs.read(number, "fpn")))
    assert main(["verify", str(tmp_path / "set"), "--content"]) == 0
    capsys.readouterr()
    assert main(["show", str(tmp_path / "set"), "--recipe", str(root / "recipe.yaml")]) == 0
    assert main([*command[:3], "other", *command[4:], "--projection-dim", "4"]) == 1
    assert "not projected" in capsys.readouterr().err
