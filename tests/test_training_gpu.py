"""What only a GPU can show. Without one these tests are skipped, saying so."""

import math
from pathlib import Path

import pytest
import torch

from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import make_trainer
from training.checkpoint import load_checkpoint
from training.metrics import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_follows_the_curve_of_the_cpu(dataset: ShardDataset, tmp_path: Path, precision: str) -> None:
    make_trainer(dataset, tmp_path / "cpu").run()
    make_trainer(dataset, tmp_path / "gpu", device="cuda", precision=precision).run()
    pairs = zip(
        read_metrics(tmp_path / "cpu" / "metrics.jsonl"), read_metrics(tmp_path / "gpu" / "metrics.jsonl"), strict=True
    )
    for cpu, gpu in pairs:
        assert gpu["loss"] == pytest.approx(cpu["loss"], rel=1e-3 if precision == "fp32" else 5e-2)
        assert gpu["gpu_memory_gib"] > 0
        assert gpu["forward_seconds"] > 0 < gpu["backward_seconds"]


def test_a_step_that_is_not_finite_is_skipped_on_the_gpu(tmp_path: Path) -> None:
    clips = make_dataset(tmp_path / "train", num_samples=8, spoiled=5)
    trainer = make_trainer(clips, tmp_path / "run", steps=1, device="cuda")
    before = {name: value.clone() for name, value in trainer.objective.state_dict().items()}
    trainer.run()
    assert all(torch.equal(before[name], value) for name, value in trainer.objective.state_dict().items())


def test_a_gpu_run_resumes_where_it_stopped(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path / "whole", device="cuda", precision="fp32", keep_checkpoints=9).run()
    again = make_trainer(dataset, tmp_path / "again", device="cuda", precision="fp32")
    again.resume(load_checkpoint(tmp_path / "whole" / "checkpoints" / "step-00000003"))
    again.run()
    whole = [row["loss"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert [row["loss"] for row in read_metrics(tmp_path / "again" / "metrics.jsonl")] == pytest.approx(
        whole[3:], rel=1e-4
    )


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_objective_trains_on_the_gpu(dataset: ShardDataset, tmp_path: Path) -> None:
    summary = make_trainer(dataset, tmp_path, device="cuda", compile="max-autotune", chunk_size=4).run()
    assert math.isfinite(summary.final_loss)
