"""The foveated VLM on two ranks: the words of both make one mean, and a batch of text holds nobody up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fvlm_runs import Workshop
from tools.cli import main
from training.metrics import Row, read_metrics

pytestmark = pytest.mark.slow
STEPS = 50


def launch(*arguments: str) -> None:
    """Train on two ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launcher, "-m", "tools", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Row]]:
    """The rows of the same run on one rank and on two: videos of 1 to 9 frames, and text."""
    folder = tmp_path_factory.mktemp("ranks")
    workshop = Workshop.make(folder)
    recipe = workshop.recipe(
        2,
        train={"steps": STEPS, "checkpoint_every": STEPS},
        optim={"lr": 1e-3},
        objective={"llm_lr": 1e-3, "dinov2_lr": 1e-4},
    )
    found = {}
    for num_ranks in (1, 2):
        out = folder / f"run{num_ranks}"
        arguments = ["train", "--recipe", str(recipe), *workshop.sources(), "--out", str(out)]
        if num_ranks == 1:
            assert main(arguments) == 0
        else:
            launch(*arguments)
        found[num_ranks] = read_metrics(out / "metrics.jsonl")
    return found


def test_fifty_steps_on_two_ranks_are_those_on_one(rows: dict[int, list[Row]]) -> None:
    assert len(rows[1]) == len(rows[2]) == STEPS
    for one, two in zip(rows[1], rows[2], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5), one["step"]
    assert rows[1][-1]["loss"] < 0.8 * rows[1][0]["loss"]  # it did learn meanwhile


def test_the_ranks_see_text_in_the_same_steps_and_share_what_they_find(rows: dict[int, list[Row]]) -> None:
    texts = {ranks: [row["step"] for row in found if "loss_text" in row] for ranks, found in rows.items()}
    assert texts[1] == texts[2]
    assert len(texts[1]) == 8  # of each pass of 6 batches one, in 50
    for one, two in zip(rows[1], rows[2], strict=True):
        for name in one.keys() & {"coarse_loss", "fine_loss", "coarse_to_fine", "attention_entropy", "query_std"}:
            assert two[name] == pytest.approx(one[name], rel=1e-3)
