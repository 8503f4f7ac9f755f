"""The README's line for several GPUs, from a folder that has packages of our names, as people's folders do."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workplaces import Workplace, make_workplace
from training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LINES = re.findall(r"torchrun --no-python [^`\n]*st_jepa_ssv2[^`\n]*", (ROOT / "README.md").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """Data sets and a recipe in a folder with packages that are not ours."""
    for name in ("tools", "shards", "pipeline", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('somebody else's package')")
    return make_workplace(tmp_path)


def spelled(place: Workplace, out: str) -> list[str]:
    """The README's line on two ranks, this recipe and this data."""
    (line,) = LINES
    words = {"8": "2", "st_jepa_ssv2": place.recipe, "ssv2/train": place.train, "runs/st_jepa": out}
    return [words.get(word, word) for word in shlex.split(line)] + ["--train.steps", "2", "--train.log_every", "1"]


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the environment active", "full paths"])
def test_the_line_trains_beside_packages_of_the_same_names(place: Workplace, tmp_path: Path, how: str) -> None:
    command, environment = spelled(place, "run"), {"OMP_NUM_THREADS": "1"}
    if how == "full paths":
        command = [str(BIN / word) if word in ("torchrun", "reelshard") else word for word in command]
    else:
        environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = run(command, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "2 rank(s) x 4" in done.stdout
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl")] == [1, 2]


@pytest.mark.slow
def test_the_benchmarks_own_processes_are_not_misled_either(place: Workplace, tmp_path: Path) -> None:
    command = [str(BIN / "reelshard"), "bench", place.train, "--threads", "1", "--batch-size", "4", "--rounds", "1"]
    done = run([*command, "--seconds", "0.1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reelshard" in done.stdout
