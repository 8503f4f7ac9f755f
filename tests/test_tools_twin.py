"""`--train.device twin`: the commands' way from a loader to a GPU, on any machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.twin import Twin
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.runs import numbers
from tests.workplaces import Workplace, make_workplace
from tools.cli import main
from tools.loaders import make_loader
from tools.recipe import load_recipe
from tools.systems import system_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


def train(place: Workplace, run_dir: Path, *more: str) -> int:
    short = ("--train.steps", "3", "--train.checkpoint_every", "2")
    return main(["train", "--recipe", place.recipe, "--data", place.train, "--out", str(run_dir), *short, *more])


def test_a_run_and_its_evaluations_are_those_of_a_cpu_to_the_bit(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, reports = [], []
    for device in ("cpu", "twin"):
        run = tmp_path / device
        measured = ("--val", place.val, "--evaluate", "probe", "--data.evaluation_batch_size", "5")
        assert train(place, run, *measured, "--train.device", device) == 0
        rows.append(numbers(run))
        capsys.readouterr()
        sets = ("--train", place.train, "--val", place.val)
        assert main(["evaluate", "probe", "--run", str(run), *sets, "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert rows[0] == rows[1]
    assert {"validation_loss", "probe_top1"} < rows[0][-1].keys()
    assert reports[0]["trained"] == reports[1]["trained"]


def test_preflight_rehearses_on_it(place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--out", str(tmp_path), "--batches", "3", "--json", "--train.device", "twin")
    assert main(["preflight", "--recipe", place.recipe, "--data", place.train, *flags]) == 0
    assert json.loads(capsys.readouterr().out)["num_failed"] == 0


def test_a_run_says_at_launch_that_a_card_without_bf16_makes_auto_fp16(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path, "--train.device", "twin:fp16") == 0
    said = capsys.readouterr().out
    assert "float16 on cpu (a CPU that plays a GPU without bf16)" in said
    assert "a CPU that plays a GPU without bf16 has no bf16: auto takes fp16, and scales the loss" in said
    assert json.loads((tmp_path / "run.json").read_text())["precision"] == "float16"


@pytest.mark.parametrize("recipe", ["salt_ti_ssv2", "salt_s_ssv2", "salt_b_ssv2"])
def test_salts_recipes_refuse_such_a_card_and_name_both(
    recipe: str, place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--recipe", recipe, "--data", place.train, "--out", str(tmp_path / "run")]
    assert main([*command, "--train.device", "twin:fp16"]) != 0
    said = capsys.readouterr().err
    assert "train.precision is bf16, and a CPU that plays a GPU without bf16 has no bf16" in said
    assert not (tmp_path / "run").exists()


def test_a_device_that_nobody_knows_is_answered_with_those_there_are(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path / "run", "--train.device", "twinn") == 1
    assert "train.device is 'twinn'; give auto, cpu, cuda, " in capsys.readouterr().err
    assert train(place, tmp_path / "run", "--data.pin_memory", "true") == 1
    assert "pin_memory is true, but batches go to no GPU" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_evaluation_takes_batches_of_its_own_size_from_page_locked_slabs(place: Workplace) -> None:
    overrides = ["--data.global_batch_size=16", "--data.evaluation_batch_size=3"]
    recipe, dataset, twin = load_recipe(place.recipe, overrides), ShardDataset.open(place.val), Twin()
    feed = system_of(recipe).feed(recipe, dataset)
    loader = make_loader(recipe, dataset, feed, twin)
    assert [len(batch["valid"]) for batch in loader] == [3, 3, 3]
    assert twin._locked
    ranks = [make_loader(recipe, dataset, feed, torch.device("cpu"), World(rank=rank, size=2)) for rank in range(2)]
    assert [[len(batch["valid"]) for batch in loader] for loader in ranks] == [[3, 3], [3, 3]]
