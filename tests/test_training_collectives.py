"""When the ranks of a step wait for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.batch.batch import Batch
from pipeline.world import World
from training.clock import StepClock
from training.config import TrainConfig
from training.learner import Learner
from training.optim import OptimConfig

CPU = torch.device("cpu")


class Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what ranks do together."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if "c10d" in str(func):
            self.log.append("all ranks")
        return func(*args, **(kwargs or {}))


class Line(nn.Module):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.line, self.log = nn.Linear(3, 1), log

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.log.append("forward")
        return {"loss": self.line(batch["x"])[:, 0].square()}


@pytest.fixture
def ranks() -> Iterator[World]:
    """What is said to be two ranks; the other one adds nothing."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield World(rank=0, size=2)
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning")
@pytest.mark.parametrize("num_chunks", [1, 3])
def test_ranks_meet_where_gradients_are_exchanged_and_once_behind_that(ranks: World, num_chunks: int) -> None:
    """So none of them waits for the others before it begins, only to hear how many of their samples are valid."""
    log: list[str] = []
    config = TrainConfig(device="cpu", chunk_size=6 // num_chunks)
    learner = Learner(Line(log), config, OptimConfig(), ranks, CPU)
    batch = Batch({"index": torch.arange(6), "valid": torch.arange(6) != 2, "x": torch.randn(6, 3)})
    with Noted(log):
        result = learner.step(batch, 1e-3, StepClock(CPU))
    assert log == ["forward"] * num_chunks + ["all ranks"] * 2
    assert (int(result.num_samples), int(result.num_valid)) == (6, 5)
    expected = result.sample_losses[batch["valid"]].mean()
    torch.testing.assert_close(result.scores["loss"], expected)
