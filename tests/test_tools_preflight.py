"""`reelshard preflight`: it passes what can be trained, and fails what cannot, naming the reason."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL
from tests.test_pipeline_dense import make_frames
from tools.cli import main
from tools.preflight.shared_memory import SharedMemoryWatch

RECIPE = {
    "system": "st_jepa",
    "view": {"num_frames": MODEL.num_frames, "size": MODEL.image_size},
    "build": {"tubelet": MODEL.tubelet, "patch": MODEL.patch},
    "data": {"global_batch_size": 4, "threads": 1},
    "model": dataclasses.asdict(MODEL),
    "train": {"device": "cpu"},
}


@pytest.fixture
def dataset(tmp_path: Path) -> ShardDataset:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    return make_dataset(tmp_path / "train", num_samples=13)


def arguments(dataset: ShardDataset) -> list[str]:
    folder = dataset.directory.parent
    return ["preflight", "--recipe", f"{folder}/tiny.yaml", "--data", f"{folder}/train", "--out", f"{folder}/run"]


def preflight(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit status, and (status, detail) by check."""
    capsys.readouterr()
    status = main([*arguments(dataset), "--batches", "7", "--json", *more])
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] == (status == 0)
    return status, {entry["name"]: (entry["status"], entry["detail"]) for entry in report["checks"]}


def test_a_data_set_that_fits_its_recipe_is_ready_to_train(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    status, checks = preflight(dataset, capsys)
    assert status == 0
    assert "fail" not in {status for status, _ in checks.values()}
    assert checks["imports"][0] == checks["all-reduce"][0] == checks["disk"][0] == "pass"
    assert "13 samples in 3 shards" in checks["data set"][1]
    assert "clip [4, 4, 2, 2, 8, 8, 3]" in checks["batch"][1]
    assert "target [4, 12, 2, 6]" in checks["batch"][1]
    assert checks["video"] == ("pass", "whole clips are [4, 3, 4, 32, 32] ([B, 3, T, H, W])")
    assert checks["stress run"][1].startswith("7 batches, ")
    assert "/dev/shm holds " in checks["stress run"][1]
    assert "3 steps in float32, loss " in checks["training"][1]
    assert "torch.compile" not in checks["training"][1]
    assert not (dataset.directory.parent / "run").exists()


def test_the_table_has_a_line_for_every_check_and_a_verdict(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(dataset), "--batches", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass  environment")
    assert lines[-1].startswith("ready to train")
    assert len(lines) == 13


def test_the_environment_names_what_decodes_and_what_reads_shards(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    _, checks = preflight(dataset, capsys)
    for name in ("torch", "webdataset", "braceexpand", "einops", "av", "decord"):
        assert re.search(rf"\b{name} (\d+\.|not installed)", checks["environment"][1]), name


def test_that_compiling_was_not_tried_is_said(dataset: ShardDataset, capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = preflight(dataset, capsys, "--train.compile", "max-autotune")
    assert status == 0
    assert checks["training"][1].endswith("torch.compile (max-autotune) was not tried")


def test_clips_of_another_layout_are_put_together_to_the_same_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    status, checks = preflight(make_frames(tmp_path / "train"), capsys)
    assert status == 0
    assert checks["video"][1] == "whole clips are [4, 3, 4, 32, 32] ([B, 3, T, H, W])"


def test_what_lies_in_shared_memory_for_a_moment_is_seen(tmp_path: Path) -> None:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("there is no /dev/shm")
    file = folder / f"reelshard-test-{os.getpid()}"
    try:
        with SharedMemoryWatch() as watch:
            file.write_bytes(b"x" * (8 << 20))
            while watch.grown_bytes < 8 << 20:  # what others free meanwhile is written again
                with file.open("ab") as more:
                    more.write(b"x" * (1 << 20))
            file.unlink()
    finally:
        file.unlink(missing_ok=True)
    assert watch.grown_bytes >= 8 << 20
    assert re.search(r"/dev/shm holds [\d,]+ MiB and grew by up to [\d,.]+ MiB meanwhile", watch.describe())


def test_a_folder_that_stays_as_it_is_is_called_unchanged(tmp_path: Path) -> None:
    with SharedMemoryWatch(tmp_path / "nowhere") as watch:
        pass
    assert watch.grown_bytes == 0
    assert "there is no" in watch.describe()


def test_a_stress_run_beside_which_shared_memory_fills_up_warns(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no /dev/shm")
    file, done = Path(f"/dev/shm/reelshard-test-{os.getpid()}"), threading.Event()

    def fill() -> None:
        """Take room once the watch is on."""
        while not done.is_set() and "shared-memory-watch" not in {thread.name for thread in threading.enumerate()}:
            pass
        file.write_bytes(b"x" * (4 << 20))

    for _ in range(5):  # another process may free as much in the same moment
        done.clear()
        thread = threading.Thread(target=fill)
        thread.start()
        try:
            status, checks = preflight(dataset, capsys, "--batches", "200")
        finally:
            done.set()
            thread.join()
            file.unlink(missing_ok=True)
        if checks["stress run"][0] == "warn":
            break
    assert status == 0
    assert checks["stress run"][0] == "warn"
    assert "grew by up to" in checks["stress run"][1]


def test_a_damaged_sample_fails_with_shard_and_key(dataset: ShardDataset, capsys: pytest.CaptureFixture[str]) -> None:
    path = dataset.tar_path(0)
    tar = bytearray(path.read_bytes())
    tar[int(dataset.extents(0, "clip").offsets[0]) + 9] ^= 0xFF
    path.write_bytes(tar)
    status, checks = preflight(dataset, capsys)
    assert status == 1
    assert checks["data set"][0] == "fail"
    assert "train-00000-of-00003.tar" in checks["data set"][1]
    assert "000000" in checks["data set"][1]
    assert "training" not in checks


@pytest.mark.parametrize(
    ("more", "name", "said"),
    [
        (("--model.target_dim", "7"), "loader", "target has shape (16, 2, 6)"),
        (("--data.global_batch_size", "50"), "loader", "13 samples do not fill one global batch of 50"),
        (("--train.keep_checkpoints", "1000000000"), "disk", "GiB for checkpoints"),
    ],
)
def test_what_cannot_be_trained_fails(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], name: str, said: str
) -> None:
    status, checks = preflight(dataset, capsys, *more)
    assert status == 1
    assert checks[name][0] == "fail"
    assert said in checks[name][1]


def test_targets_that_are_not_finite_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    spoiled = make_dataset(tmp_path / "train", num_samples=4, spoiled=2)
    status, checks = preflight(spoiled, capsys)
    assert status == 1
    assert checks["batch"][0] == "fail"
    assert "target has values that are not finite" in checks["batch"][1]


def test_a_missing_data_set_fails_and_the_machine_is_looked_at_all_the_same(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.directory.rename(dataset.directory.parent / "elsewhere")
    status, checks = preflight(dataset, capsys)
    assert status == 1
    assert checks["data set"][0] == "fail"
    assert checks["environment"][0] == checks["disk"][0] == "pass"


@pytest.mark.slow
def test_two_ranks_check_together_and_one_speaks(dataset: ShardDataset) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tools"]
    command = [*launcher, *arguments(dataset), "--batches", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    details = {entry["name"]: entry["detail"] for entry in report["checks"]}
    assert details["all-reduce"] == "gloo over 2 rank(s)"
    assert "4 = 2 rank(s) x 2" in details["loader"]
