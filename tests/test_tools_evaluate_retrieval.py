"""`reelshard evaluate retrieval`: one command from download folders to R@K, on small real files in their layouts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shards.dataset import ShardDataset
from tests.captioned import Downloads, make_downloads
from tests.clip_text import save_text_encoder
from tools.cli import main

NUM_TRAIN, NUM_TEST, NUM_MSVD = 6, 4, 3


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Downloads:
    return make_downloads(tmp_path_factory.mktemp("downloads"), num_train=NUM_TRAIN, num_test=NUM_TEST)


def arguments(downloads: Downloads, work: Path, out: Path, *more: str) -> list[str]:
    given = {
        "--msrvtt": downloads.msrvtt,
        "--msvd": downloads.msvd,
        "--checkpoint": downloads.videomae,
        "--text": downloads.clip,
        "--work": work,
        "--out": out,
        "--steps": 20,
        "--device": "cpu",
        "--workers": 1,
    }
    return ["evaluate", "retrieval", *(str(part) for pair in given.items() for part in pair), *more]


@pytest.fixture(scope="module")
def work(downloads: Downloads, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets and the report of one command."""
    folder = tmp_path_factory.mktemp("work")
    assert main(arguments(downloads, folder / "sets", folder / "report")) == 0
    return folder


def results(folder: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"retrieval_{name}.json").read_text())
    return record["results"]  # type: ignore[no-any-return]


def test_one_command_goes_from_download_folders_and_a_published_model_to_a_report(work: Path) -> None:
    for name, videos, captions in (("msrvtt", NUM_TEST, NUM_TEST), ("msvd", NUM_MSVD, 5 + 6 + 7)):
        found = results(work / "report", name)
        assert set(found) == {"trained", "untrained"}
        for result in found.values():
            protocol = result["protocol"]
            assert (protocol["num_videos"], protocol["num_captions"]) == (videos, captions)
            assert (protocol["num_train_videos"], protocol["num_train_captions"]) == (NUM_TRAIN, 20 * NUM_TRAIN)
            assert result["metrics"]["chance"] == 1 / videos
            assert 1 <= result["metrics"]["t2v_mean_rank"] <= videos
            assert set(result["intervals"]) >= {"t2v_r1", "t2v_r5", "t2v_r10", "v2t_median_rank", "v2t_mean_rank"}
            assert len(result["rows"]) == videos
        assert found["trained"]["digests"]["model"] != found["untrained"]["digests"]["model"]
        page = (work / "report" / f"retrieval_{name}.html").read_text()
        assert "text to video R@1" in page
    assert sum(len(row["t2v_ranks"]) for row in results(work / "report", "msvd")["trained"]["rows"]) == 18


def test_the_report_names_data_view_text_encoder_and_seed(work: Path, downloads: Downloads) -> None:
    result = results(work / "report", "msvd")["trained"]
    (train,) = (work / "sets").glob("msrvtt-9k-train-*")
    (test,) = (work / "sets").glob("msvd-test-*")
    assert result["digests"]["train"] == ShardDataset.open(train).digest
    assert result["digests"]["msvd"] == ShardDataset.open(test).digest
    assert train.name.rpartition("-")[2] == result["digests"]["view"][:8]
    assert result["seed"] == 0
    assert result["protocol"]["text_encoder"] == downloads.clip.name
    assert result["protocol"]["encoder_kind"] == "videomae"
    assert result["protocol"]["num_videos_left_out"] == {"train": 0, "msrvtt": 0, "msvd": 0}


def test_the_same_command_again_builds_nothing_and_gives_the_same_numbers(
    downloads: Downloads, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.tar")}
    assert main(arguments(downloads, work / "sets", tmp_path)) == 0
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.tar")} == before
    for name in ("msrvtt", "msvd"):
        assert results(tmp_path, name) == results(work / "report", name)
    out = capsys.readouterr().out
    assert re.search(r"MSVD test: 18 captions of 3 videos, by .*videomae", out)
    assert out.count("text to video") == 4  # a block and the line about chance, for each of two data sets


def test_another_text_encoder_is_not_mixed_with_what_is_stored(
    downloads: Downloads, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_text_encoder(tmp_path / "other_clip", seed=1)
    assert main(arguments(downloads, work / "sets", tmp_path / "out", "--text", str(other))) == 1
    error = capsys.readouterr().err
    assert "as clip embeds them, asked for is other_clip with other weights" in error
    assert "reelshard drop-field" in error
    assert not (tmp_path / "out").exists()


def test_what_is_no_clip_is_refused_before_anything_is_built(
    downloads: Downloads, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in ((downloads.videomae, "is no CLIP"), (tmp_path / "absent", "there is no such folder")):
        assert main(arguments(downloads, tmp_path / "sets", tmp_path / "out", "--text", str(text))) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "sets").exists()


def test_a_folder_that_is_no_download_is_answered_with_where_to_get_it(
    downloads: Downloads, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(arguments(downloads, tmp_path / "sets", tmp_path, "--msvd", str(tmp_path / "empty"))) == 1
    assert "https://huggingface.co/datasets/" in capsys.readouterr().err
    assert not (tmp_path / "sets").exists()


def test_a_video_that_does_not_decode_is_left_out_and_counted(downloads: Downloads, tmp_path: Path) -> None:
    msvd = tmp_path / "msvd"
    shutil.copytree(downloads.msvd_unpacked, msvd)
    broken = sorted((msvd / "YouTubeClips").glob("*.avi"))[-1]
    broken.write_bytes(b"no video")
    assert main(arguments(downloads, tmp_path / "sets", tmp_path / "out", "--msvd", str(msvd))) == 0
    protocol = results(tmp_path / "out", "msvd")["trained"]["protocol"]
    assert protocol["num_videos_left_out"] == {"train": 0, "msrvtt": 0, "msvd": 1}
    assert protocol["num_videos"] == NUM_MSVD - 1


def test_without_msvd_msr_vtt_alone_is_measured_and_printed_as_json(
    downloads: Downloads, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(downloads, work / "sets", work / "report")
    for name in ("--msvd", "--out"):
        del given[given.index(name) : given.index(name) + 2]
    assert main([*given, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["evaluation"] == "retrieval_msrvtt"


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(downloads: Downloads, work: Path, tmp_path: Path) -> None:
    """Keys and digests to the letter; of three and four videos, rounding may turn one round."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = arguments(downloads, tmp_path / "sets", tmp_path / "two", "--batch-size", "2")
    done = subprocess.run(
        [*launcher, "-m", "tools", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert main(arguments(downloads, work / "sets", tmp_path / "one", "--batch-size", "1")) == 0
    for name in ("msrvtt", "msvd"):
        one, two = (results(tmp_path / ranks, name)["trained"] for ranks in ("one", "two"))
        assert two["digests"] == one["digests"]
        assert two["protocol"] == one["protocol"]
        assert two["metrics"] == pytest.approx(one["metrics"], abs=0.35)  # rounding may turn a rank
        assert [row["key"] for row in two["rows"]] == [row["key"] for row in one["rows"]]
