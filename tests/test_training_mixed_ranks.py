"""Two ranks that see different sources in one step train as one process would on both: real processes, gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.two_paths import OPTIM, PLAN, RATE, TwoPaths, flat, make_batch
from training.optim import make_optimizer, set_rate

pytestmark = pytest.mark.slow
NUM_RANKS = 2


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(NUM_RANKS), "--standalone"]
    return subprocess.run(
        [*launcher, "-m", "tests.two_paths", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each rank says of each step."""
    out = tmp_path_factory.mktemp("ranks")
    done = torchrun(out)
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(NUM_RANKS)]


def global_loss(objective: TwoPaths, step: int) -> tuple[Tensor, Tensor]:
    """The weighted mean over the samples of all ranks, and the weight, by the definition."""
    total, weight = torch.zeros(()), torch.zeros(())
    for rank in range(NUM_RANKS):
        batch = make_batch(step, rank)
        own = batch.get("weight", torch.ones(4)) * batch["valid"]
        total, weight = total + (own * objective(batch)["loss"]).sum(), weight + own.sum()
    return total / weight.clamp(min=1e-9), weight


def test_ranks_with_different_sources_and_weights_take_the_steps_of_one_process(
    steps: list[list[dict[str, Any]]],
) -> None:
    objective = TwoPaths()
    optimizer = make_optimizer(objective, OPTIM)
    set_rate(optimizer, RATE)
    for number in range(len(PLAN)):
        loss, weight = global_loss(objective, number)
        if weight > 0:
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for rank in steps:
            assert rank[number]["row"].get("loss", 0.0) == pytest.approx(loss.item(), rel=1e-5)
            for name, values in flat(objective).items():
                assert rank[number]["weights"][name] == pytest.approx(values, rel=1e-4, abs=1e-6), (number, name)


def test_all_ranks_have_the_same_weights_and_the_same_row_after_every_step(steps: list[list[dict[str, Any]]]) -> None:
    assert steps[0] == steps[1]


def test_what_no_rank_uses_stays_as_it_is(steps: list[list[dict[str, Any]]]) -> None:
    initial = flat(TwoPaths())
    before = initial
    for number, (first, second) in enumerate(PLAN):
        after = steps[0][number]["weights"]
        assert after["ear.weight"] == initial["ear.weight"]
        seen = "video" in (first[0], second[0])
        assert (after["eye.weight"] != before["eye.weight"]) == seen
        before = after


def test_a_row_names_the_scores_of_every_rank_and_the_loss_of_every_source(steps: list[list[dict[str, Any]]]) -> None:
    row = steps[0][1]["row"]
    assert {"loss", "loss_video", "loss_text", "sight", "reading"} <= set(row)
    objective = TwoPaths()
    optimizer = make_optimizer(objective, OPTIM)
    set_rate(optimizer, RATE)
    global_loss(objective, 0)[0].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    video, text = (objective(make_batch(1, rank))["loss"] for rank in range(NUM_RANKS))
    weight = make_batch(1, 1)["weight"]
    assert row["loss_video"] == pytest.approx(video.mean().item(), rel=1e-4)
    assert row["loss_text"] == pytest.approx(((text * weight).sum() / weight.sum()).item(), rel=1e-4)
    assert steps[0][4]["row"]["num_invalid"] == 4
    assert "loss" not in steps[0][5]["row"]


def test_an_objective_that_leaves_parameters_out_unsaid_is_told_so_and_nobody_hangs(tmp_path: Path) -> None:
    done = torchrun(tmp_path, "strict")
    assert done.returncode != 0
    assert "a batch of video gives ear.weight and 1 more no gradient" in done.stderr
    assert "has to declare uses_all = False" in done.stderr
