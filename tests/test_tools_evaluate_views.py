"""What is trained on one view of each video is tested on several, and on no others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shards.builder import BuildConfig, ViewSpec, build_dataset, open_source
from shards.dataset import ShardDataset
from tests.datasets import FRAMES, SIZE
from tests.evaluations import save_videomae
from tests.official import write_ucf101
from tools.cli import main

VIEW = ViewSpec(num_frames=FRAMES, size=SIZE)
CONFIG = BuildConfig(patch=8, time_limit_seconds=None)


def test_a_probe_learns_from_one_view_and_is_scored_on_two_clips_and_three_crops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, six = write_ucf101(tmp_path / "ucf", num_frames=8), replace(VIEW, clips=2, crops=3)
    for name, split, view in (("train", "train", VIEW), ("val", "test", six)):
        config = replace(CONFIG, samples_per_shard=6)
        build_dataset(open_source(root, None, split), tmp_path / name, view, config, split=split)
    videomae = save_videomae(tmp_path / "videomae")
    command = [
        "evaluate",
        "probe",
        "--checkpoint",
        str(videomae),
        "--train",
        str(tmp_path / "train"),
        "--device",
        "cpu",
    ]
    capsys.readouterr()
    assert main([*command, "--val", str(tmp_path / "val"), "--epochs", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["trained"]
    assert (result["protocol"]["num_val"], result["protocol"]["most_views"]) == (2, 6)
    assert len(ShardDataset.open(tmp_path / "val")) == 12
    other = replace(six, short_side=SIZE + 8)
    build_dataset(open_source(root, None, "test"), tmp_path / "wider", other, CONFIG, split="test")
    assert main([*command, "--val", str(tmp_path / "wider"), "--epochs", "2"]) == 1
    assert "the views differ" in capsys.readouterr().err
