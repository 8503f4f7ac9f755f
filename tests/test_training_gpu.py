"""What a run on a GPU leaves is what a run on the CPU leaves. A CPU plays the GPU; where there is one, it runs too."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from model.st_jepa import STJEPA
from pipeline.twin import Twin
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL, make_loader, make_trainer, numbers
from tools.systems.st_jepa import STJEPAObjective
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.learner import Learner
from training.metrics import read_metrics
from training.optim import OptimConfig

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["twin", pytest.param("cuda", marks=needs_gpu)]
GRAPH_MODES = ["reduce-overhead", "max-autotune"]
SHORT: Mapping[str, Any] = {"steps": 4, "checkpoint_every": 3}  # beyond an epoch of two batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "val", num_samples=11)


def assert_same(found: list[dict[str, float]], expected: list[dict[str, float]], device: str, rel: float) -> None:
    """Equal to the bit where a CPU plays the GPU."""
    if device == "twin":
        assert found == expected
        return
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=rel)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("chunk_size", "pin"), [(None, None), (3, False)], ids=["page-locked", "chunks, pageable"])
def test_a_gpu_follows_the_cpu_in_training_and_validation(
    dataset: ShardDataset, held_out: ShardDataset, tmp_path: Path, device: str, chunk_size: int | None, pin: bool | None
) -> None:
    settings: dict[str, Any] = {"validation": held_out, "chunk_size": chunk_size, **SHORT}
    make_trainer(dataset, tmp_path / "cpu", **settings).run()
    settings |= {"device": device, "precision": "fp32", "data": {"pin_memory": pin}}
    make_trainer(dataset, tmp_path / "gpu", **settings).run()
    found = numbers(tmp_path / "gpu")
    assert sum("validation_loss" in row for row in found) == 2
    assert_same(found, numbers(tmp_path / "cpu"), device, rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gpu_run_resumes_where_it_stopped(
    dataset: ShardDataset, held_out: ShardDataset, tmp_path: Path, device: str
) -> None:
    settings: dict[str, Any] = {"device": device, "precision": "fp32", "validation": held_out, **SHORT}
    make_trainer(dataset, tmp_path / "whole", **settings).run()
    again = make_trainer(dataset, tmp_path / "again", **settings)
    again.resume(load_checkpoint(tmp_path / "whole" / "checkpoints" / "step-00000003"))
    again.run()
    assert_same(numbers(tmp_path / "again"), numbers(tmp_path / "whole")[3:], device, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_is_not_finite_is_skipped_on_a_gpu(tmp_path: Path, device: str) -> None:
    clips = make_dataset(tmp_path / "train", num_samples=8, spoiled=5)
    trainer = make_trainer(clips, tmp_path / "run", steps=1, device=device)
    before = {name: value.clone() for name, value in trainer.objective.state_dict().items()}
    trainer.run()
    assert all(torch.equal(before[name], value) for name, value in trainer.objective.state_dict().items())


@pytest.mark.parametrize("mode", GRAPH_MODES)
@pytest.mark.parametrize("device", DEVICES)
def test_chunks_are_refused_where_kernels_are_replayed(
    dataset: ShardDataset, tmp_path: Path, device: str, mode: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"{mode} and train.chunk_size 4: .* --train.compile max-autotune-no-cudagraphs"
    ):
        make_trainer(dataset, tmp_path, device=device, compile=mode, chunk_size=4)


@pytest.mark.parametrize("mode", GRAPH_MODES)
def test_chunks_are_allowed_where_nothing_is_replayed(dataset: ShardDataset, tmp_path: Path, mode: str) -> None:
    for device in ("cpu", "twin"):
        make_trainer(dataset, tmp_path, device=device, compile="max-autotune-no-cudagraphs", chunk_size=4)
    make_trainer(dataset, tmp_path, device="cpu", compile=mode, chunk_size=4)
    make_trainer(dataset, tmp_path, device="twin", compile=mode)


def learner(config: TrainConfig, twin: Twin) -> Learner:
    return Learner(STJEPAObjective(STJEPA(MODEL)), config, OptimConfig(), World(), twin)


def test_auto_is_fp16_with_a_loss_scaler_on_a_card_without_bf16(dataset: ShardDataset, tmp_path: Path) -> None:
    found = learner(TrainConfig(), Twin(has_bf16=False))
    assert found.dtype is torch.float16
    assert found.scaler.is_enabled()
    assert learner(TrainConfig(precision="fp32"), Twin(has_bf16=False)).dtype is None
    assert learner(TrainConfig(precision="bf16"), Twin()).dtype is torch.bfloat16
    summary = make_trainer(dataset, tmp_path / "auto", device="twin:fp16", **SHORT).run()
    make_trainer(dataset, tmp_path / "fp16", device="cpu", precision="fp16", **SHORT).run()
    assert math.isfinite(summary.final_loss)
    assert numbers(tmp_path / "auto") == numbers(tmp_path / "fp16")


def test_bf16_is_refused_by_a_card_without_it_naming_both() -> None:
    with pytest.raises(ValueError, match=r"train.precision is bf16, and .* without bf16 has no bf16: .* fp16"):
        learner(TrainConfig(precision="bf16"), Twin(has_bf16=False))


gpu = pytest.mark.usefixtures("_gpu")


@pytest.fixture
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_follows_the_curve_of_the_cpu_in_every_precision(
    dataset: ShardDataset, tmp_path: Path, precision: str
) -> None:
    make_trainer(dataset, tmp_path / "cpu").run()
    make_trainer(dataset, tmp_path / "gpu", device="cuda", precision=precision).run()
    pairs = zip(numbers(tmp_path / "cpu"), read_metrics(tmp_path / "gpu" / "metrics.jsonl"), strict=True)
    for cpu, gpu in pairs:
        assert gpu["loss"] == pytest.approx(cpu["loss"], rel=1e-3 if precision == "fp32" else 5e-2)
        assert gpu["gpu_reserved_gib"] >= gpu["gpu_memory_gib"] > 0
        assert gpu["forward_seconds"] > 0 < gpu["backward_seconds"]


@gpu
@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mode", "chunk_size"),
    [("default", 4), ("max-autotune-no-cudagraphs", 4), ("reduce-overhead", None), ("max-autotune", None)],
)
def test_a_compiled_objective_trains_on_the_gpu(
    dataset: ShardDataset, tmp_path: Path, mode: str, chunk_size: int | None
) -> None:
    make_trainer(dataset, tmp_path / "plain", device="cuda", precision="fp32").run()
    make_trainer(
        dataset, tmp_path / "compiled", device="cuda", precision="fp32", compile=mode, chunk_size=chunk_size
    ).run()
    for plain, compiled in zip(numbers(tmp_path / "plain"), numbers(tmp_path / "compiled"), strict=True):
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-3)


@gpu
@pytest.mark.gpu
def test_epochs_strand_no_memory(dataset: ShardDataset) -> None:
    """The copying stream is one and the same, and so is the memory that the allocator keeps for it."""
    loader = make_loader(dataset, device="cuda")
    reserved = []
    for _ in range(6):
        for batch in loader:
            batch["clip"].sum()
        torch.cuda.synchronize()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] == reserved[1]
