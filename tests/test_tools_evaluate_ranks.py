"""Evaluations under torchrun: two ranks share the clips and give what one gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluations import make_clips, save_videomae
from tools.cli import main


def torchrun(*arguments: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launcher, "-m", "tools", "evaluate", *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr


def results(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())["results"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["knn", "linear", "attentive", "arrow"])
def test_two_ranks_give_what_one_gives(tmp_path: Path, name: str) -> None:
    make_clips(tmp_path / "train", 21)
    make_clips(tmp_path / "val", 7, seed=1, views=2, split="validation")
    save_videomae(tmp_path / "videomae", seed=7)
    sets = ["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val"), "--batch-size", "6"]
    command = [name, "--checkpoint", str(tmp_path / "videomae"), *sets]
    if name in ("linear", "attentive"):
        command = ["probe", *command[1:], "--kind", name, "--lr", "1e-3", "3e-3", "--baselines", "--epochs", "3"]
    if name == "knn":
        command += ["--k", "3"]
    assert main(["evaluate", *command, "--out", str(tmp_path / "one")]) == 0
    torchrun(*command, "--out", str(tmp_path / "two"))
    one, two = (results(tmp_path / folder, command[0]) for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for which, result in one.items():
        other = two[which]
        assert result["digests"] == other["digests"]
        assert result["protocol"] == other["protocol"]
        assert [row["key"] for row in result["rows"]] == [row["key"] for row in other["rows"]]
        for metric, value in result["metrics"].items():
            assert other["metrics"][metric] == pytest.approx(value, abs=0.15), metric  # rounding may turn a guess


@pytest.mark.slow
def test_two_ranks_share_the_shards_of_arrays(tmp_path: Path) -> None:
    make_clips(tmp_path / "set", 20)
    save_videomae(tmp_path / "videomae", seed=7)
    command = ["features", str(tmp_path / "set"), "--checkpoint", str(tmp_path / "videomae"), "--arrays"]
    assert main(["evaluate", *command, str(tmp_path / "one")]) == 0
    torchrun(*command, str(tmp_path / "two"))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / f).iterdir()} for f in ("one", "two"))
    assert one.keys() == two.keys()
    assert len(one) == 3 + 1
    assert one["features.json"] == two["features.json"]
