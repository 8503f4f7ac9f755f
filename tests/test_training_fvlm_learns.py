"""The foveated VLM learns from what it sees: words cost less behind the right frames than behind others, or none."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fvlm_runs import Workshop
from tools.cli import main
from training.metrics import read_metrics

pytestmark = pytest.mark.slow
STEPS = 300


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 600 videos of a coloured square on one side, and its scores on 200 others."""
    folder = tmp_path_factory.mktemp("learns")
    workshop = Workshop.make(folder, num_videos=600, num_texts=60, held_out=[1 + n * 5 % 9 for n in range(200)])
    recipe = workshop.recipe(
        2,
        optim={"lr": 1e-3},
        objective={"llm_lr": 3e-3, "dinov2_lr": 1e-3},
        data={"length_budget": {"frames": 96, "tokens": 4096}},
        train={"steps": STEPS, "log_every": 10, "checkpoint_every": STEPS},
    )
    out = folder / "run"
    assert main(["train", "--recipe", str(recipe), *workshop.sources(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def scores(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from pipeline.world import World
    from shards.dataset import ShardDataset
    from tools.measure import find_evaluation, measure
    from tools.trained import open_run

    recipe, objective, _ = open_run(run)
    held_out = {"val": ShardDataset.open(run.parent / "held_out")}
    return dict(measure(recipe, find_evaluation(recipe, "vlm"), objective, held_out, World()).metrics)


@pytest.mark.parametrize("baseline", ["other_frames", "text_alone"])
def test_the_right_frames_make_words_cheaper(scores: dict[str, Any], baseline: str) -> None:
    assert scores["num_samples"] == 200
    assert scores[f"gain_{baseline}_errors"] > 4, json.dumps(scores)  # 6.7 to 17 with other seeds


def test_what_was_learned_holds_frame_by_frame(scores: dict[str, Any]) -> None:
    assert scores["ce_autoregressive"] < scores["ce_text_alone"], json.dumps(scores)


def test_the_rows_tell_that_the_queries_are_worth_something(run: Path) -> None:
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "coarse_to_fine" in row]
    first, last = (sum(row["coarse_to_fine"] for row in some) / len(some) for some in (rows[:5], rows[-5:]))
    assert last > max(first, 1.0)
