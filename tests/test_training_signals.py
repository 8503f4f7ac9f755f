"""A run that is killed or told to stop goes on as if nothing had happened."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.weights import stored_weights
from tests.workplaces import Workplace, make_workplace
from training.checkpoint import list_checkpoints, newest_checkpoint
from training.metrics import read_metrics

STEPS = 160  # enough for a signal to arrive before the last


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


def start(place: Workplace, run_dir: Path) -> subprocess.Popen[str]:
    """The command as torchrun starts it, resuming where it can."""
    command = [sys.executable, "-m", "tools", "train", "--recipe", place.recipe, "--data", place.train]
    command += ["--out", str(run_dir), "--resume", "auto", "--train.log_every", "1", "--train.steps", str(STEPS)]
    command += ["--train.checkpoint_every", "40"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def outcome(run_dir: Path) -> tuple[list[dict[str, float]], bytes]:
    """The metrics without those that the clock decides, and the weights."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    kept = [{name: row[name] for name in ("step", "loss", "lr", "grad_norm")} for row in rows]
    return kept, stored_weights(list_checkpoints(run_dir / "checkpoints")[-1] / "model.safetensors")


def stop_at(step: int, number: signal.Signals, process: subprocess.Popen[str]) -> None:
    """Send a signal once a step was reported."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {step:>3}/{STEPS}"):
            process.send_signal(number)
            break
    process.communicate()


@pytest.fixture(scope="module")
def uninterrupted(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    with start(place, run_dir) as process:
        process.communicate()
    assert process.returncode == 0
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill_at", "number", "status"),
    [(10, signal.SIGKILL, -signal.SIGKILL), (50, signal.SIGKILL, -signal.SIGKILL), (50, signal.SIGTERM, 75)],
    ids=["SIGKILL before the first checkpoint", "SIGKILL between two checkpoints", "SIGTERM"],
)
def test_an_interrupted_run_resumed_equals_an_uninterrupted_one(
    place: Workplace, uninterrupted: Path, tmp_path: Path, kill_at: int, number: signal.Signals, status: int
) -> None:
    with start(place, tmp_path) as interrupted:
        stop_at(kill_at, number, interrupted)
    assert interrupted.returncode == status
    if number == signal.SIGTERM:
        checkpoint = newest_checkpoint(tmp_path / "checkpoints")
        assert checkpoint is not None
        assert kill_at <= checkpoint.step == read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] < STEPS
    with start(place, tmp_path) as resumed:
        resumed.communicate()
    assert resumed.returncode == 0
    assert outcome(tmp_path) == outcome(uninterrupted)
