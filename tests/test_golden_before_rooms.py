"""What an older version left behind still opens, verifies, resumes and trains on.

`tests/golden/before_rooms` was made by commit a41af2a, before the tree was sorted into rooms: seven videos, one of
them empty, a data set of them, the same build stopped after its first shard, and a run of each system stopped after
step 4 of 6.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import LoaderConfig, ShardLoader
from shards import BuildConfig, ShardDataset, ViewSpec, build_dataset, verify_dataset
from shards.builder import load_folder
from tests.builds import contents
from tests.teachers import MeanTeacher
from tools.cli import main

GOLDEN = Path(__file__).parent / "golden" / "before_rooms"
VIEW = ViewSpec(num_frames=4, size=32)
CONFIG = BuildConfig(samples_per_shard=3, workers=1, teacher_batch=2, time_limit_seconds=None)
DIGEST = "7c4dacb78bf3dd258e364b05b5f3b453383295b3271c311a589897544745d7e3"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return shutil.copytree(GOLDEN, tmp_path / "golden")


def test_the_data_set_has_the_digest_that_it_had_and_verifies(golden: Path) -> None:
    assert ShardDataset.open(golden / "set").digest == DIGEST
    assert not verify_dataset(golden / "set").problems


def test_the_half_built_folder_resumes_by_keeping_its_shard(golden: Path, tmp_path: Path) -> None:
    kept = {name: data for name, data in contents(golden / "half_built").items() if "00000-of" in name}
    source, teacher = load_folder(golden / "videos"), MeanTeacher(VIEW.clip_shape)
    summary = build_dataset(source, golden / "half_built", VIEW, CONFIG, teacher=teacher)
    assert summary.num_resumed == 3
    assert contents(golden / "half_built").items() >= {k: v for k, v in kept.items() if ".build" not in k}.items()
    anew = tmp_path / "anew"
    build_dataset(source, anew, VIEW, CONFIG, teacher=teacher)
    for name in ("plan.json", "failures.jsonl", "dataset.json"):
        assert (anew / name).read_bytes() == (golden / "half_built" / name).read_bytes()


def test_a_plan_made_today_is_the_plan_of_then_to_the_byte(golden: Path, tmp_path: Path) -> None:
    build_dataset(load_folder(golden / "videos"), tmp_path / "anew", VIEW, CONFIG, teacher=MeanTeacher(VIEW.clip_shape))
    assert (tmp_path / "anew/plan.json").read_bytes() == (golden / "set/plan.json").read_bytes()


@pytest.mark.parametrize("name", ["st_jepa", "salt"])
def test_a_run_resumes_with_the_losses_that_it_had(golden: Path, name: str) -> None:
    run = golden / f"run_{name}"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    recipe = str(run / "recipe.yaml")
    assert main(["train", "--recipe", recipe, "--data", f"{golden}/set", "--out", str(run), "--resume", "auto"]) == 0
    again = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in again] == [1, 2, 3, 4, 5, 6]
    assert again[:4] == rows[:4]
    for old, new in zip(rows[4:], again[4:], strict=True):
        for value in ("loss", "grad_norm", "lr"):
            assert new[value] == pytest.approx(old[value], rel=1e-3)  # rounding differs between CPUs


@pytest.mark.parametrize("state_format", [1, 2])
def test_a_state_of_then_is_the_position_that_it_was(golden: Path, state_format: int) -> None:
    record = json.loads((golden / "run_salt/checkpoints/step-00000004/checkpoint.json").read_text())
    state = record["loader"] if state_format == 2 else record["loader"] | {"format": 1, "dataset": DIGEST}
    loader = ShardLoader(ShardDataset.open(golden / "set"), LoaderConfig(global_batch_size=2, threads=1))
    loader.load_state_dict(state)
    assert (loader.epoch, loader.state_dict()["batch"]) == (1, 1)
    assert [batch.number for batch in loader] == [1, 2]
