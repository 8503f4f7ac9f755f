"""docs/extending.md, followed to the letter: a system from one file of the user's own, through every command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shards import ShardDataset
from tests.builds import kill_all
from tests.videos import write_video

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"
ROOT = DOCS.parents[1]
FENCE = re.compile(r"^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
BIN = Path(sys.executable).parent
NUM_VIDEOS = 16

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the page says to write, and videos of two classes."""
    folder = tmp_path_factory.mktemp("extending")
    for block in FENCE.finditer(DOCS.read_text()):
        if block["file"]:
            (folder / block["file"]).write_text(block["text"])
    random = np.random.default_rng(0)
    for number in range(NUM_VIDEOS):
        warm = number % 2 == 0
        frames = random.integers(0, 60, (6 + number, 32, 48, 3)).astype(np.uint8)
        frames[..., 0 if warm else 2] += 150
        write_video(folder / "videos" / ("warm" if warm else "cold") / f"v{number}.webm", frames)
    return folder


def commands() -> list[str]:
    """The lines of the page's last block of commands."""
    block = [block["text"] for block in FENCE.finditer(DOCS.read_text()) if block["language"] == "sh"][-1]
    return block.splitlines()


def start(folder: Path, line: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        shlex.split(line),
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(folder: Path, line: str) -> str:
    process = start(folder, line)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, f"{line}\n{output}"
    return output


def losses(folder: Path, name: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def test_every_command_of_the_page_runs_and_the_student_learns(workplace: Path) -> None:
    said = {line: run(workplace, line) for line in commands()}
    dataset = ShardDataset.open(workplace / "set")
    assert len(dataset) == NUM_VIDEOS
    lengths = dataset.lengths("colours")
    assert lengths.tolist() == dataset.lengths("notes").tolist()
    assert len(set(lengths.tolist())) > 2
    for row in range(len(dataset)):
        sample = dataset[row]
        colours, notes = sample["colours"], sample["notes"]
        assert isinstance(colours, np.ndarray)
        assert [float(bytes(note).split()[1]) for note in notes] == pytest.approx(colours.mean(axis=1), abs=1e-3)
    (evaluated,) = [text for line, text in said.items() if " evaluate " in line]
    top1 = re.search(r"top1\s+(\S+)", evaluated)
    assert top1, evaluated
    assert float(top1[1]) == 1.0
    curve = losses(workplace, "run")
    assert curve[-1] < 0.5 * curve[0]


def test_a_run_that_is_killed_goes_on_with_the_same_losses_on_one_rank(workplace: Path) -> None:
    if not (workplace / "set").exists():
        for line in commands():
            if "reelshard build" in line:
                run(workplace, line)
    (line,) = [line for line in commands() if "reelshard train" in line]
    whole, killed = line.replace("--out run", "--out whole"), line.replace("--out run", "--out killed")
    run(workplace, whole)
    process = start(workplace, f"{killed} --train.steps 60")
    while not (workplace / "killed/checkpoints/step-00000020/checkpoint.json").exists() and process.poll() is None:
        time.sleep(0.01)
    kill_all(process)
    alone = killed.replace("torchrun --no-python --nproc-per-node 2 ", "")
    run(workplace, f"{alone} --resume auto")
    assert losses(workplace, "killed") == pytest.approx(losses(workplace, "whole"), rel=1e-4)


def test_the_pages_source_builds_from_python_and_counts_what_is_missing(workplace: Path) -> None:
    lines = [f"{path.parent.name} {path.relative_to(workplace)}" for path in sorted(workplace.rglob("*.webm"))]
    (workplace / "list.txt").write_text("\n".join([*lines, "warm videos/warm/none.webm"]) + "\n")
    said = run(workplace, f"{sys.executable} lists.py list.txt listed")
    assert f"num_samples={NUM_VIDEOS}, num_failed=1" in said
    dataset = ShardDataset.open(workplace / "listed")
    assert dataset.manifest.label_names == ("cold", "warm")
    assert {dataset.metadata(row)["label_name"] for row in range(len(dataset))} == {"cold", "warm"}


def test_the_files_named_on_the_page_are_there() -> None:
    names = set(re.findall(r"`((?:shards|pipeline|model|training|evaluation|tools)/[\w/]+\.py)`", DOCS.read_text()))
    assert len(names) >= 8
    assert [name for name in sorted(names) if not (ROOT / name).is_file()] == []
