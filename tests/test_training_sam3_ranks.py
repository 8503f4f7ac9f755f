"""The memory on two ranks, and with a stop in between: the steps are those of one rank that never stopped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sam3_runs import Workshop
from training.metrics import Row, read_metrics

pytestmark = pytest.mark.slow
STEPS = 50
RUN = {"train": {"steps": STEPS, "checkpoint_every": 25}, "data": {"global_batch_size": 4}}


def launch(num_ranks: int, *arguments: str) -> None:
    """Train on some ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks), "--standalone"]
    done = subprocess.run(
        [*launcher, "-m", "tools", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one rank, on two, and on one that goes on from the half of the run on two."""
    folder = tmp_path_factory.mktemp("ranks")
    workshop = Workshop.make(folder, lengths=(49, 37, 41, 49))
    recipe = workshop.recipe("sam3_video", **RUN)
    student = ("--student", str(folder / "student"))
    launch(1, *workshop.arguments(recipe, folder / "one", *student))
    launch(2, *workshop.arguments(recipe, folder / "two", *student))
    shutil.copytree(folder / "two", folder / "resumed")
    shutil.rmtree(folder / "resumed" / "checkpoints" / f"step-{STEPS:08d}")
    launch(1, *workshop.arguments(recipe, folder / "resumed", *student, "--resume", "auto"))
    return folder


def rows(folder: Path, name: str) -> list[Row]:
    return read_metrics(folder / name / "metrics.jsonl")


@pytest.mark.parametrize("name", ["two", "resumed"])
def test_fifty_steps_are_those_on_one_rank(folder: Path, name: str) -> None:
    one, other = rows(folder, "one"), rows(folder, name)
    assert [row["step"] for row in other] == [row["step"] for row in one] == list(range(1, STEPS + 1))
    for left, right in zip(one, other, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-5), left["step"]
    assert one[-1]["loss"] != one[0]["loss"]
