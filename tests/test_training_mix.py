"""One trainer on sources of different fields and lengths: whole, in chunks, resumed, on two ranks."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lengths import make_lengths
from tests.mix_runs import STEPS, Captions, make_mix_trainer
from tests.weights import stored_weights
from training.checkpoint import load_checkpoint
from training.metrics import TIMINGS, Row, read_metrics


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Frames with captions, and texts."""
    folder = tmp_path_factory.mktemp("mix")
    return make_lengths(folder / "video").directory, make_lengths(folder / "text").directory


@pytest.fixture(scope="module")
def alone(sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run_dir = tmp_path_factory.mktemp("runs") / "alone"
    train(sets, run_dir)
    return run_dir


def train(sets: tuple[Path, Path], run_dir: Path, resume: Path | None = None, **options: Any) -> None:
    trainer = make_mix_trainer(*sets, run_dir, **options)
    if resume is not None:
        trainer.resume(load_checkpoint(resume))
    trainer.run()
    trainer.loader.close()


def rows(run_dir: Path) -> list[Row]:
    """What does not depend on the machine, nor, as padding does, on how many ranks share a batch."""
    found = read_metrics(run_dir / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name not in TIMINGS and not name.startswith("padding_")}
        for row in found
    ]


def assert_same_curve(left: list[Row], right: list[Row]) -> None:
    assert [row["step"] for row in left] == [row["step"] for row in right]
    for ours, theirs in zip(left, right, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_a_row_has_the_loss_of_the_source_that_its_step_was_on(alone: Path) -> None:
    sources = [[name for name in ("loss_video", "loss_text") if name in row] for row in rows(alone)]
    assert all(len(names) == 1 for names in sources)
    assert all(row[name] == pytest.approx(row["loss"]) for row, (name,) in zip(rows(alone), sources, strict=True))
    assert 6 <= sources.count(["loss_text"]) <= 8  # 30 % of 24
    assert rows(alone)[-1]["loss"] < rows(alone)[0]["loss"]


@pytest.mark.parametrize("step", [5, 10, 20])
def test_a_run_on_a_mix_resumes_along_its_own_curve_bit_for_bit(
    sets: tuple[Path, Path], alone: Path, tmp_path: Path, step: int
) -> None:
    train(sets, tmp_path, resume=alone / "checkpoints" / f"step-{step:08d}")
    assert rows(tmp_path) == rows(alone)[step:]
    weights = [run / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors" for run in (tmp_path, alone)]
    assert stored_weights(weights[0]) == stored_weights(weights[1])


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_samples_of_different_lengths_train_in_chunks_as_they_do_whole(
    sets: tuple[Path, Path], alone: Path, tmp_path: Path, chunk_size: int
) -> None:
    train(sets, tmp_path, chunk_size=chunk_size)
    assert_same_curve(rows(tmp_path), rows(alone))


def test_a_step_on_text_leaves_the_eye_alone(sets: tuple[Path, Path], tmp_path: Path) -> None:
    train(sets, tmp_path, checkpoint_every=1, steps=8)
    on_text = [int(row["step"]) for row in rows(tmp_path) if "loss_text" in row]
    assert len(on_text) in (2, 3)
    eyes = [Captions().eye.weight]
    for step in range(1, 9):
        eyes.append(load_checkpoint(tmp_path / "checkpoints" / f"step-{step:08d}").model["eye.weight"])
    still = [step for step in range(2, 9) if torch.equal(eyes[step], eyes[step - 1])]
    assert still == [step for step in on_text if step > 1]


def torchrun(sets: tuple[Path, Path], run_dir: Path) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return subprocess.Popen(
        [*launcher, "-m", "tests.mix_runs", *map(str, (*sets, run_dir))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.slow
def test_two_ranks_follow_the_curve_of_one_and_one_goes_on_where_two_were_killed(
    sets: tuple[Path, Path], alone: Path, tmp_path: Path
) -> None:
    process = torchrun(sets, tmp_path / "two")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert_same_curve(rows(tmp_path / "two"), rows(alone))

    killed = torchrun(sets, tmp_path / "killed")
    assert killed.stdout is not None
    pids = []
    for line in killed.stdout:
        if started := re.match(r"rank \d pid (\d+)", line):
            pids.append(int(started[1]))
        if re.match(r"step +1[0-9]/", line):
            break
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode != 0
    train(sets, tmp_path / "killed", resume=sorted((tmp_path / "killed" / "checkpoints").glob("step-????????"))[-1])
    assert_same_curve(rows(tmp_path / "killed"), rows(alone))


def test_the_arithmetic_of_a_step_is_that_of_its_source(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.peak_flops_per_second", lambda device: 3e9)
    train(sets, tmp_path, steps=8)
    gflop: dict[str, set[float]] = {"loss_video": set(), "loss_text": set()}
    for row in read_metrics(tmp_path / "metrics.jsonl"):
        name = "loss_text" if "loss_text" in row else "loss_video"
        gflop[name].add(round(row["mfu"] / row["clips_per_second"], 12))  # of a forward pass on one sample
    assert [len(values) for values in gflop.values()] == [1, 1]
    assert gflop["loss_video"].pop() != gflop["loss_text"].pop() > 0
