"""From an official download to a verified data set, one command a split; then its captions' embeddings, by another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import ShardDataset
from tests.builds import contents
from tests.clip_text import WIDTH, save_text_encoder
from tests.official import write_msrvtt, write_msvd, write_ssv2, write_ucf101
from tools.cli import main

TINY = ["--recipe", "demo", "--view.num_frames", "4", "--view.size", "32", "--build.patch", "16", "--teacher", "none"]
QUICK = ["--build.time_limit_seconds", "null"]  # decoders in threads


def build(root: Path, out: Path, split: str, *more: object) -> int:
    return main(["build", *TINY, *QUICK, "--videos", str(root), "--split", split, "--out", str(out), *map(str, more)])


@pytest.mark.parametrize(
    ("make", "splits"),
    [
        (write_ucf101, {"train": 6, "test": 2}),
        (write_msrvtt, {"train": 4, "test": 3}),
        (write_msvd, {"train": 3, "validation": 1, "test": 3}),
        (write_ssv2, {"train": 4, "validation": 2}),
    ],
)
def test_every_official_layout_is_built_and_verified_by_one_command_a_split(
    tmp_path: Path, make: Callable[..., Path], splits: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(tmp_path / "download", num_frames=8)
    before = contents(root)
    for split, count in splits.items():
        assert build(root, tmp_path / split, split) == 0, capsys.readouterr().err
        assert len(ShardDataset.open(tmp_path / split)) == count
        assert main(["verify", str(tmp_path / split), "--sources", str(root), "--samples", str(count)]) == 0
    assert f"{count} samples decoded again: all hold the frames that they say" in capsys.readouterr().out
    assert contents(root) == before


def test_folds_protocols_views_and_limits_are_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ucf = write_ucf101(tmp_path / "ucf", num_frames=8)
    assert build(ucf, tmp_path / "fold", "test", "--fold", 3, "--view.clips", 2, "--view.crops", 3) == 0
    assert "12 clips, 6 of each of 2 of 2 videos, in 1 shards" in capsys.readouterr().out
    fold = ShardDataset.open(tmp_path / "fold")
    assert {fold.metadata(number)["extra"]["group"][-3:] for number in range(12)} == {"g03"}
    assert fold.manifest.provenance["source"]["fold"] == 3
    vtt = write_msrvtt(tmp_path / "vtt", num_frames=8)
    assert build(vtt, tmp_path / "7k", "train", "--source", "msrvtt", "--protocol", "7k", "--limit", 2) == 0
    assert len(ShardDataset.open(tmp_path / "7k")) == 2
    assert ShardDataset.open(tmp_path / "7k").manifest.provenance["source"]["protocol"] == "train-7k"
    capsys.readouterr()
    assert build(vtt, tmp_path / "7k", "train", "--source", "msrvtt", "--limit", 2) == 1
    assert 'source.protocol was "train-7k", is now "train-9k"' in capsys.readouterr().err


def test_partitions_of_a_zip_are_finalized_to_the_bytes_of_a_plain_build(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path / "vtt", num_frames=8)
    one = ["--build.samples_per_shard", 1]
    assert build(root, tmp_path / "plain", "train", *one) == 0
    for more in (["--partition", "1/2"], ["--partition", "0/2"], ["--finalize"]):
        assert build(root, tmp_path / "parts", "train", *one, *more) == 0
    assert contents(tmp_path / "plain") == contents(tmp_path / "parts")


def test_a_wrong_folder_split_or_source_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_msvd(tmp_path / "msvd", num_frames=4)
    for place, split, more, said in (
        (tmp_path / "nowhere", "train", ["--source", "ucf101"], "https://www.crcv.ucf.edu/data/UCF101.php"),
        (root, "train", ["--source", "ucf101"], f"there is no UCF-101 in {root}"),
        (root, "dev", [], "MSVD has no split 'dev'; choose train, validation, val, test"),
        (root, "train", ["--fold", 1], "a fold is of the source ucf101, not of msvd"),
        (root, "train", ["--source", "kinetics"], "there is no source 'kinetics'"),
    ):
        assert build(place, tmp_path / "out", split, *more) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("reelshard: error: ")
        assert said in line
    assert not (tmp_path / "out").exists()


def test_captions_of_msrvtt_and_msvd_become_rows_that_clip_made_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = save_text_encoder(tmp_path / "clip")
    for make, split, num_captions in ((write_msrvtt, "train", 80), (write_msrvtt, "test", 3), (write_msvd, "test", 18)):
        root, out = tmp_path / make.__name__, tmp_path / f"{make.__name__}-{split}"
        if not root.exists():
            make(root, num_frames=8)
        assert build(root, out, split) == 0
        add = ["add-field", str(out), "--name", "text", "--teacher", str(clip), "--device", "cpu"]
        capsys.readouterr()
        assert main(add) == 0
        assert f"text <f2 [rows, {WIDTH}] for" in capsys.readouterr().out
        dataset = ShardDataset.open(out)
        rows = [np.asarray(dataset.read(number, "text")) for number in range(len(dataset))]
        assert [len(row) for row in rows] == [len(dataset.metadata(n)["captions"]) for n in range(len(dataset))]
        assert sum(map(len, rows)) == num_captions
        assert {(row.shape[1], row.dtype.str) for row in rows} == {(WIDTH, "<f2")}
        before = contents(out)
        assert main([*add, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["num_resumed"] == len(dataset)
        assert contents(out) == before
