"""Several ranks train as one: real processes under torchrun, gloo on the CPU."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.ranks import CURVE
from tests.runs import make_trainer, numbers
from tests.weights import stored_weights
from training.checkpoint import list_checkpoints, load_checkpoint
from training.metrics import Row

pytestmark = pytest.mark.slow
STEPS = 200


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    """40 clips, of which one is damaged."""
    dataset = make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=40)
    path = dataset.tar_path(2)
    tar = bytearray(path.read_bytes())
    tar[int(dataset.extents(2, "target").offsets[3]) + 40] ^= 0xFF
    path.write_bytes(tar)
    return ShardDataset.open(dataset.directory)


@pytest.fixture(scope="module")
def alone(dataset: ShardDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run_dir = tmp_path_factory.mktemp("runs") / "alone"
    make_trainer(dataset, run_dir, steps=STEPS, keep_checkpoints=9, **CURVE).run()
    return run_dir


def torchrun(num_ranks: int, *command: str | Path | int) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks), "--standalone"]
    return subprocess.Popen(
        [*launcher, "-m", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out + err


def assert_same_curve(left: list[Row], right: list[Row]) -> None:
    assert [row["step"] for row in left] == [row["step"] for row in right]
    for ours, theirs in zip(left, right, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["num_invalid"] == theirs["num_invalid"]


def test_eight_ranks_one_slow_and_one_sample_damaged_train_200_steps_along_the_curve_of_one(
    dataset: ShardDataset, alone: Path, tmp_path: Path
) -> None:
    said = finish(torchrun(8, "tests.ranks", dataset.directory, tmp_path, STEPS, "--slow", 5))
    assert_same_curve(numbers(tmp_path), numbers(alone))
    assert sum(row["num_invalid"] for row in numbers(alone)) == STEPS / 5  # once an epoch of 5 batches
    assert re.search(r"left out.*train-00002-of-00007\.tar.*000015.*target", said)


def send_at(step: int, number: signal.Signals, ranks: tuple[int, ...], process: subprocess.Popen[str]) -> None:
    """Wait until rank 0 reports `step`, and send a signal to some of the ranks."""
    pids = {}
    assert process.stdout is not None
    for line in process.stdout:
        if started := re.match(r"rank (\d) pid (\d+)", line):
            pids[int(started[1])] = int(started[2])
        if line.startswith(f"step {step:>3}/"):
            break
    for rank in ranks:
        os.kill(pids[rank], number)


def test_two_ranks_stopped_killed_and_resumed_repeat_their_own_curve_bit_for_bit_and_that_of_one_rank(
    dataset: ShardDataset, alone: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(torchrun(2, "tests.ranks", dataset.directory, whole, STEPS))
    assert_same_curve(numbers(whole), numbers(alone))

    stopped = torchrun(2, "tests.ranks", dataset.directory, broken, STEPS, "--slow", 0)
    send_at(20, signal.SIGTERM, (1,), stopped)  # one rank is told, both stop after the same step
    finish(stopped)
    assert 20 <= int(list_checkpoints(broken / "checkpoints")[-1].name[-3:]) < STEPS

    killed = torchrun(2, "tests.ranks", dataset.directory, broken, STEPS, "--slow", 0)
    send_at(random.randrange(60, 120), signal.SIGKILL, (0, 1), killed)
    killed.communicate(timeout=60)
    assert killed.returncode != 0

    finish(torchrun(2, "tests.ranks", dataset.directory, broken, STEPS))
    assert numbers(broken) == numbers(whole)
    weights = [list_checkpoints(run / "checkpoints")[-1] / "model.safetensors" for run in (broken, whole)]
    assert stored_weights(weights[0]) == stored_weights(weights[1])


def test_four_ranks_go_on_from_a_checkpoint_of_one(dataset: ShardDataset, alone: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000150").symlink_to(alone / "checkpoints" / "step-00000150")
    assert load_checkpoint(tmp_path / "checkpoints" / "step-00000150").step == 150
    finish(torchrun(4, "tests.ranks", dataset.directory, tmp_path, STEPS))
    assert_same_curve(numbers(tmp_path), numbers(alone)[150:])


def test_a_global_batch_that_the_ranks_cannot_share_is_refused(dataset: ShardDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of the number of ranks"):
        make_trainer(dataset, tmp_path, batch_size=8, world=World(rank=0, size=3))
