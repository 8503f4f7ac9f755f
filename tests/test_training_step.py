"""What a step does once and not for each chunk, which kernels it takes, and what it says when memory is short."""

import dataclasses
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.accelerator import accelerator_of
from pipeline.batch.batch import Batch
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL, make_trainer
from training.attention import ON_GPU, AttentionShape, FastestAttention, longest_attention, measure_backends
from training.clock import StepClock
from training.compiling import compile_mode, why_not_compiled
from training.config import TrainConfig
from training.learner import Learner
from training.optim import OptimConfig
from training.profiling import NUM_LEFT_OUT, TRACE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


class Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts casts by the shape and the dtype of their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[tuple[tuple[int, ...], torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "_to_copy" and out.dtype != args[0].dtype:
            self.seen[tuple(out.shape), out.dtype] += 1
        return out


def test_weights_are_cast_once_a_step_however_many_chunks_there_are(dataset: ShardDataset, tmp_path: Path) -> None:
    found, gradients = [], []
    for chunk_size in (None, 4, 2):
        trainer = make_trainer(dataset, tmp_path / str(chunk_size), precision="bf16", chunk_size=chunk_size)
        batch = next(iter(trainer.loader))
        with Casts() as casts:
            trainer.learner.backward(batch, StepClock(CPU))
        weight = trainer.objective.get_parameter("student.encoder.blocks.0.mlp.fc1.weight")
        found.append(casts.seen[tuple(weight.shape), torch.bfloat16])
        gradients.append(weight.grad)
    assert found == [found[0]] * 3
    assert found[0] > 0
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_backward_pass_of_products_that_are_meant_to_be_f32_is_f32(precision: str) -> None:
    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, 33))

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            with torch.autocast("cpu", enabled=False):
                return {"loss": (batch["pixels"] @ self.weight.T)[:, 0]}

    torch.manual_seed(0)
    config = TrainConfig(device="cpu", precision=precision)  # type: ignore[arg-type]
    learner = Learner(Exact(), config, OptimConfig(), World(), CPU)
    pixels = torch.randn(8, 33)
    learner.backward(rows(pixels), StepClock(CPU))
    assert isinstance(learner.objective, Exact)
    torch.testing.assert_close(learner.objective.weight.grad, pixels.mean(0)[None])


def rows(pixels: Tensor) -> Batch:
    count = len(pixels)
    return Batch({"pixels": pixels, "index": torch.arange(count), "valid": torch.ones(count, dtype=torch.bool)})


class Card(nn.Module):
    """Runs out of memory, as a card does, with more than some samples at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.weight, self.room = nn.Parameter(torch.ones(2)), room

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(batch["valid"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {"loss": batch["clip"].float().flatten(1).mean(1) * self.weight.sum()}


@pytest.mark.parametrize(
    ("room", "advice"), [(7, "chunk_size 4 fits"), (3, "chunk_size 2 fits"), (1, "chunk_size 1 fits")]
)
def test_running_out_of_memory_names_a_chunk_size_that_fits(
    dataset: ShardDataset, tmp_path: Path, room: int, advice: str
) -> None:
    trainer = make_trainer(dataset, tmp_path / "run")
    trainer.learner = Learner(Card(room), trainer.config, trainer.optim, World(), CPU)
    with pytest.raises(ValueError, match=f"ran out of memory with 8 samples at once: --train.{advice}"):
        trainer.run()
    assert all(parameter.grad is None for parameter in trainer.learner.objective.parameters())
    size = int(advice.split()[1])
    learner = Learner(Card(room), dataclasses.replace(trainer.config, chunk_size=size), trainer.optim, World(), CPU)
    learner.step(next(iter(trainer.loader)), 1e-3, StepClock(CPU))  # it does


def test_where_not_one_sample_fits_that_is_said(dataset: ShardDataset, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path / "run")
    trainer.learner = Learner(Card(0), trainer.config, trainer.optim, World(), CPU)
    with pytest.raises(ValueError, match="one alone does not fit either"):
        trainer.run()


def test_auto_compiles_on_a_gpu_and_not_on_a_cpu() -> None:
    assert compile_mode("auto", CPU) is None
    assert why_not_compiled(CPU) == "not a GPU"
    assert compile_mode("default", CPU) == "default"
    assert compile_mode(None, torch.device("cuda")) is None
    assert TrainConfig().compile == "auto"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_compiles_on_this_gpu_where_triton_works() -> None:
    device = torch.device("cuda", 0)
    assert compile_mode("auto", device) == (None if why_not_compiled(device) else "default")


def test_the_longest_attention_of_a_step_is_found_whatever_the_model(dataset: ShardDataset, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path, precision="bf16")
    batch = next(iter(trainer.loader))
    with trainer.learner.autocast():
        found = longest_attention(trainer.objective, batch, 8)
    size = MODEL.predictor_dim // MODEL.heads
    grid = (8, MODEL.heads, MODEL.num_tokens, size)
    asked = (8, MODEL.heads, MODEL.num_tokens * 3 // 4, size)  # its only block is for the masked tokens
    assert found == AttentionShape(query=asked, key=grid, dtype=torch.bfloat16)
    assert longest_attention(Card(9), batch, 8) is None


def test_backends_are_ordered_by_their_measured_speed_and_those_that_cannot_are_left_out() -> None:
    shape = AttentionShape(query=(1, 2, 512, 16), key=(1, 2, 512, 16), dtype=torch.float32)
    found = measure_backends(shape, accelerator_of("cpu"), (SDPBackend.MATH, *ON_GPU))
    assert set(found) == {SDPBackend.MATH, SDPBackend.FLASH_ATTENTION}  # which a CPU has
    assert list(found.values()) == sorted(found.values())


def test_measuring_attention_leaves_the_runs_generator_alone() -> None:
    before = torch.get_rng_state()
    shape = AttentionShape(query=(1, 1, 8, 8), key=(1, 1, 8, 8), dtype=torch.float32)
    measure_backends(shape, accelerator_of("cpu"), (SDPBackend.MATH,))
    assert torch.equal(before, torch.get_rng_state())


def test_a_cpu_has_one_attention_kernel_and_measures_nothing(dataset: ShardDataset, tmp_path: Path) -> None:
    class Unused(nn.Module):
        def forward(self, batch: Any) -> None:
            raise AssertionError("a pass for a measurement")

    choice = FastestAttention(accelerator_of("cpu"))
    choice.choose(Unused(), next(iter(make_trainer(dataset, tmp_path).loader)), 8)
    with choice.used():
        F.scaled_dot_product_attention(*torch.zeros(3, 1, 1, 4, 4))


@pytest.mark.parametrize(("count", "first"), [(1, NUM_LEFT_OUT), (2, NUM_LEFT_OUT), (7, 1), (99, 0)])
def test_a_run_leaves_a_trace_of_as_many_steps_as_were_asked_for(
    dataset: ShardDataset, tmp_path: Path, count: int, first: int
) -> None:
    lines: list[str] = []
    trainer = make_trainer(dataset, tmp_path, report=lines.append, profile=count)
    trainer.run()
    with gzip.open(tmp_path / TRACE) as file:
        events = json.load(file)["traceEvents"]
    steps = sum(event["name"].startswith("Optimizer.step") for event in events if event.get("ph") == "X")
    assert steps == min(count, 8 - first)
    assert any(event["name"] == "aten::scaled_dot_product_attention" for event in events)
    assert sum(line.startswith(f"trace    {steps} steps behind the first {first}:") for line in lines) == 1
    assert not list(tmp_path.glob("tmp.*"))


def test_a_run_without_it_leaves_none(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path).run()
    assert not (tmp_path / TRACE).exists()
