"""`reelshard bench --train`: any system's training is measured through its own loader, and the numbers add up."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.batch.batch import Batch
from shards.dataset import ShardDataset
from shards.progress import untold
from tests.test_training_step import Card
from tools.__main__ import main
from tools.bench.roofline import BYTES_OF_ADAMW, Work, count_step
from tools.bench.step_rate import VARIANTS, StepRate, measure_step
from tools.bench.step_report import bottleneck, report_lines
from tools.recipe import load_recipe
from tools.systems import SYSTEMS, system_of
from training.peaks import Peaks

PEAKS = ("--peak-tflops", "0.1", "--peak-gb-per-second", "10")
SMALL = ("--seconds", "0", "--batch-sizes", "4", *PEAKS)


def bench(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    assert main(["bench", *arguments, "--json", str(tmp_path / "out.json")]) == 0
    rates: list[dict[str, Any]] = json.loads((tmp_path / "out.json").read_text())["rates"]
    return rates


@pytest.mark.parametrize("recipe", ["demo", "demo_salt"])
def test_a_step_is_measured_on_data_that_is_made_for_it(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = bench(tmp_path, "--train", recipe, *SMALL, "--variants", "recipe,bf16")
    printed = capsys.readouterr().out
    assert [(rate["variant"], rate["precision"]) for rate in rates] == [("recipe", "float32"), ("bf16", "bfloat16")]
    for rate in rates:
        assert rate["batch_size"] == rate["chunk_size"] == 4
        stages = {name: seconds for name, seconds in rate["seconds"].items() if name != "step"}
        assert all(seconds >= 0 for seconds in stages.values())
        assert stages["forward"] > 0 < stages["backward"]
        assert sum(stages.values()) >= 0.99 * rate["seconds"]["step"]
        assert rate["clips_per_second"] == pytest.approx(4 / rate["seconds"]["step"], rel=0.05)
        assert rate["mfu"] > 0
        assert rate["memory_gib"]["process_gib"] > 0
        assert rate["copy_seconds"] is None
    for word in ("recipe", "bf16", "forward", "backward", "optimizer", "roofline", "bottleneck", "MFU"):
        assert word in printed


def test_every_system_either_makes_data_to_measure_with_or_asks_for_some(tmp_path: Path) -> None:
    for name in SYSTEMS:
        system = system_of(dataclasses.replace(load_recipe("demo"), system=name))
        recipe = system.recipe(system=name)
        trains = True
        with contextlib.suppress(ValueError):  # it builds sets and trains nothing
            trains = False
            system.make_objective(recipe)
            trains = True
        if trains and hasattr(recipe, "model"):
            system.synthesize(recipe, tmp_path / name, 1, untold)
            assert len(ShardDataset.open(tmp_path / name)) == 1


def test_a_data_set_is_made_once_and_then_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(tmp_path, str(tmp_path / "set"), "--train", "demo", *SMALL, "--variants", "recipe", "--synthesize", "9")
    digest = ShardDataset.open(tmp_path / "set").digest
    bench(tmp_path, str(tmp_path / "set"), "--train", "demo", *SMALL, "--variants", "recipe")
    assert ShardDataset.open(tmp_path / "set").digest == digest
    assert main(["bench", str(tmp_path / "set"), "--train", "demo", "--batch-sizes", "10", *PEAKS]) != 0
    assert "holds 9 samples, fewer than a batch of 10" in capsys.readouterr().err


def test_on_a_device_that_is_copied_to_the_copy_is_measured_beside_the_link(tmp_path: Path) -> None:
    (rate,) = bench(tmp_path, "--train", "demo", *SMALL, "--variants", "recipe", "--train.device=twin")
    assert rate["copy_seconds"] > 0
    assert rate["copy_bytes_per_second"] > 0
    assert rate["link_bytes_per_second"] > 0


def test_a_variant_that_runs_out_of_memory_is_measured_in_chunks_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("demo", ["--train.device=cpu"])
    system = system_of(recipe)
    system.synthesize(recipe, tmp_path / "set", 16, untold)
    monkeypatch.setattr(type(system), "make_objective", lambda self, recipe: Card(3))
    sets = {"": ShardDataset.open(tmp_path / "set")}
    peaks = Peaks(flops_per_second=1e11, bytes_per_second=1e10)
    rate = measure_step(recipe, sets, VARIANTS["recipe"], batch_size=8, seconds=0, peaks=peaks)
    assert (rate.out_of_memory, rate.chunk_size) == (True, 2)
    assert "8 at once do not fit into memory; --train.chunk_size 2 does" in report_lines([rate])[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--train", "demo", "--mask", "0.5"], "--mask has no meaning with --train"),
        (["--train", "demo", "--peak-tflops", "1"], "belong together"),
        (["--batch-sizes", "4"], "--train RECIPE only"),
        (["--train", "frames", *SMALL], "makes no data set"),
        (["--train", "nothing"], "there is no recipe 'nothing'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) != 0
    assert named in capsys.readouterr().err


class Square(nn.Module):
    """One product, whose work is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 32))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (batch["x"] @ self.weight.T).square().mean(1)}


def test_the_work_of_a_step_is_what_arithmetic_says() -> None:
    valid = torch.ones(2, dtype=torch.bool)
    batch = Batch({"x": torch.ones(2, 32), "index": torch.arange(2), "valid": valid})
    work, forward = count_step(Square(), batch, 100, lambda: torch.autocast("cpu", enabled=False))
    assert forward == 2 * 32 * 64
    assert work.flops["products"] == 100 * 2 * forward  # back to the weight alone: nothing is behind the pixels
    weight = 4 * 32 * 64
    once = 4 * (32 + 64)  # a row of the input, and one of the output
    assert work.num_bytes["products"] == 2 * weight + 100 * 2 * once
    assert work.num_bytes["optimiser"] == BYTES_OF_ADAMW * 32 * 64


def rate_of(**changes: Any) -> StepRate:
    work = Work(
        flops={"products": 1e12, "attention": 1e11},
        num_bytes={"products": 1e9, "attention": 1e8, "between": 3e10, "optimiser": 1e8},
    )
    seconds = {"data": 0.0, "forward": 0.02, "backward": 0.03, "optimizer": 0.001, "other": 0.0, "step": 0.051}
    found = StepRate(
        variant="recipe",
        batch_size=32,
        chunk_size=32,
        out_of_memory=False,
        precision="bfloat16",
        compiled=None,
        device="a card",
        clips_per_second=600.0,
        seconds=seconds,
        data_wait_share=0.0,
        copy_seconds=0.001,
        copy_bytes_per_second=2e10,
        link_bytes_per_second=2.5e10,
        memory_gib={"gpu_memory_gib": 1.0},
        mfu=0.3,
        work=work,
        peaks=Peaks(flops_per_second=1e15, bytes_per_second=1e12),
    )
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize(
    ("changes", "what", "key"),
    [
        ({"data_wait_share": 0.3}, "batches", "data.threads"),
        ({"copy_seconds": 0.2}, "copy", "data.pin_memory"),
        ({"seconds": {**rate_of().seconds, "optimizer": 0.03}}, "optimiser", "data.global_batch_size"),
        ({"seconds": {**rate_of().seconds, "step": 0.4}}, "host", "train.compile default"),
        ({"seconds": {**rate_of().seconds, "step": 0.4}, "compiled": "default"}, "host", "reduce-overhead"),
        ({}, "between matrix products", "train.compile default"),
        ({"precision": "float32"}, "in f32", "train.precision bf16"),
        ({"compiled": "default"}, "between matrix products", "No key"),
        (
            {"peaks": Peaks(flops_per_second=3e13, bytes_per_second=1e13), "compiled": "default"},
            "matrix products",
            "No",
        ),
    ],
)
def test_the_bottleneck_and_the_key_that_changes_it_follow_from_the_numbers(
    changes: dict[str, Any], what: str, key: str
) -> None:
    found, advice = bottleneck(rate_of(**changes))
    assert what in found
    assert key in advice


def test_a_variant_that_is_faster_than_the_recipe_is_named_with_its_flags() -> None:
    faster = rate_of(variant="bf16", clips_per_second=900.0)
    assert (
        report_lines([rate_of(), faster])[-1]
        == "bf16 at 32 is 1.50 times as fast as the recipe: --train.precision bf16"
    )
