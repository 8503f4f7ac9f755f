"""Whatever reads a data set takes its URL, and keeps what it reads where it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builds import ROOT
from tests.datasets import make_dataset
from tests.evaluations import make_clips, save_videomae
from tests.fvlm_runs import Workshop
from tests.object_store import http_files, moto_server, use_bucket
from tests.workplaces import make_workplace
from tools.cli import main

pytest.importorskip("obstore", reason="the extra 's3' is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a VideoMAE, and sets to read: `train` and `val` have clips alone, `tubes` targets too."""
    folder = tmp_path_factory.mktemp("place")
    make_clips(folder / "served/train", 30)
    make_clips(folder / "served/val", 12, seed=1, split="validation")
    make_dataset(folder / "served/tubes", num_samples=13)
    save_videomae(folder / "videomae", seed=7)
    work = make_workplace(folder)
    arguments = ["--recipe", work.recipe, "--data", work.train, "--train.steps", "1"]
    assert main(["train", *arguments, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def url(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the folder with the sets; the environment names a cache that no test is told to use."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("REELSHARD_CACHE", str(tmp_path / "of the environment"))
    with http_files(place / "served") as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A cache that the command is told to use: it has been, and no other, when the test is over."""
    yield tmp_path / "cache"
    assert sum(path.stat().st_blocks for path in (tmp_path / "cache").rglob("*")) > 0
    assert not (tmp_path / "of the environment").exists()


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("name", "more"),
    [("probe", ["--epochs", "2", "--lr", "0.1", "--weight-decay", "0"]), ("knn", []), ("arrow", ["--epochs", "2"])],
)
def test_a_trained_run_is_evaluated_on_sets_elsewhere_as_on_sets_here(
    place: Path, url: str, cache: Path, name: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", name, "--checkpoint", place / "run", *more]
    found = [
        printed(capsys, *command, "--train", f"{where}/train", "--val", f"{where}/val", *options)["results"]
        for where, options in ((place / "served", []), (url, ["--data.cache", cache, "--data.cache_quota", "1GB"]))
    ]
    assert found[1]["trained"]["metrics"] == found[0]["trained"]["metrics"]
    assert found[1]["trained"]["digests"] == found[0]["trained"]["digests"]
    assert len(list(cache.glob("*/origin.json"))) == 2


def test_features_of_a_set_elsewhere_are_those_of_the_set_here(
    place: Path, url: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, where, options in (("a", place / "served", []), ("b", url, ["--data.cache", cache])):
        command = ["evaluate", "features", f"{where}/val", "--checkpoint", place / "videomae", *options]
        assert printed(capsys, *command, "--arrays", tmp_path / out)["num_samples"] == 12
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    assert "features.json" in files


def test_a_run_is_measured_and_writes_captions_on_chats_elsewhere_as_on_chats_here(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PATH", str(tmp_path))  # without Java, which takes seconds to start for one of the scores
    workshop = Workshop.make(tmp_path / "fvlm", num_videos=8, num_texts=4, held_out=(1, 3, 2))
    run = workshop.folder / "run"
    arguments = ["--recipe", workshop.recipe(1), *workshop.sources(), "--train.steps", "1", "--out", run]
    assert main(["train", *map(str, arguments)]) == 0
    with http_files(workshop.folder) as url:
        for command in (
            ["evaluate", "vlm", "--run", run, "--mode", "coarse_only"],
            ["evaluate", "captions", "--run", run, "--max-new-tokens", "4"],
        ):
            here = printed(capsys, *command, "--val", workshop.folder / "held_out")
            there = printed(capsys, *command, "--val", f"{url}/held_out", "--data.cache", cache)
            assert there == here


def test_preflight_rehearses_a_run_on_a_set_elsewhere(
    place: Path, url: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["preflight", "--recipe", place / "tiny.yaml", "--data", f"{url}/tubes", "--out", tmp_path / "run"]
    report = printed(capsys, *command, "--batches", "3", "--data.cache", cache)
    checks = {entry["name"]: entry for entry in report["checks"]}
    assert report["ready"]
    assert f"{url}/tubes, split train: 13 samples in" in checks["data set"]["detail"]
    assert {checks[name]["status"] for name in ("data set", "batch", "stress run", "training")} == {"pass"}


@pytest.mark.slow
def test_preflight_and_evaluate_read_a_bucket_in_processes_of_their_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto_server() as port:
        bucket = use_bucket(port, "elsewhere", monkeypatch)
        for name in ("train", "val", "tubes"):
            assert main(["copy", str(place / "served" / name), f"{bucket}/{name}"]) == 0
        sets = ["--train", f"{bucket}/train", "--val", f"{bucket}/val"]
        rehearsal = ["--recipe", str(place / "tiny.yaml"), "--data", f"{bucket}/tubes", "--out", str(tmp_path / "run")]
        for command in (
            ["evaluate", "knn", "--checkpoint", str(place / "run"), *sets],
            ["preflight", *rehearsal, "--batches", "3"],
        ):
            words = [sys.executable, "-m", "tools", *command, "--data.cache", str(tmp_path / "cache"), "--json"]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("cache/*/origin.json"))) == 3


READERS: dict[str, Callable[[str, Path], list[str]]] = {
    "show": lambda url, out: ["show", f"{url}/tubes", "#3"],
    "verify": lambda url, out: ["verify", f"{url}/tubes"],
    "card": lambda url, out: ["card", f"{url}/tubes", "--out", str(out / "README.md")],
    "reshard": lambda url, out: ["reshard", f"{url}/tubes", "--out", str(out / "set"), "--samples-per-shard", "4"],
    "merge": lambda url, out: ["merge", f"{url}/train", f"{url}/train", "--out", str(out / "set")],
    "zarr": lambda url, out: ["zarr", "export", f"{url}/tubes", str(out / "zarr")],
}


@pytest.mark.parametrize("name", READERS)
def test_every_command_that_reads_a_set_elsewhere_keeps_it_where_it_is_told_to(
    url: str, cache: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = READERS[name](url, tmp_path)
    assert main([*command, "--data.cache", str(cache), "--data.cache_quota=2GB"]) == 0
    assert main(["cache", "--data.cache", str(cache), "--data.cache_quota", "2GB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["folder"], found["quota"]) == (str(cache), 2 * 10**9)
    assert [each["url"].startswith(url) for each in found["sets"]] == [True]
    assert main([*command, "--data.cache_quota", "plenty"]) == 1
    assert "'plenty' is no size; give bytes, or as in 500MB or 2TB" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [[name] for name in (*READERS, "cache")]
    + [["evaluate", name] for name in ("probe", "knn", "arrow", "features", "captions")],
)
def test_what_takes_a_url_says_where_it_is_kept(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--data.cache DIR local folder for what is read of a URL" in text
    assert "--data.cache_quota SIZE" in text
