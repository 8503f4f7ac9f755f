"""A batch of ragged fields is trained on in chunks as it is whole."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.lengths import make_lengths
from training.clock import StepClock
from training.config import TrainConfig
from training.flops import forward_flops_per_clip
from training.learner import Learner, StepResult
from training.optim import OptimConfig

CPU = torch.device("cpu")


class MeanByte(nn.Module):
    """Scores a sample by the mean of its own bytes and tokens, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 1))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ends, lengths = batch["frames_offsets"], batch["tokens_length"]
        means = [batch["frames"][begin:end].float().mean() for begin, end in itertools.pairwise(ends)]
        tokens = batch["tokens"].sum(dim=1) / lengths
        return {"loss": (torch.stack(means)[:, None] @ self.scale)[:, 0] + tokens}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    dataset: ShardDataset = make_lengths(tmp_path_factory.mktemp("lengths"))
    reads = Reads(fields=("frames", "tokens"))
    return next(iter(ShardLoader(dataset, LoaderConfig(global_batch_size=8), reads=reads)))


def step(batch: Batch, chunk_size: int | None) -> StepResult:
    config = TrainConfig(device="cpu", chunk_size=chunk_size)
    return Learner(MeanByte(), config, OptimConfig(), World(), CPU).step(batch, 1e-3, StepClock(CPU))


@pytest.mark.parametrize("chunk_size", [1, 3, 8])
def test_every_sample_of_a_chunk_is_scored_by_its_own_bytes(batch: Batch, chunk_size: int) -> None:
    whole, chunked = step(batch, None), step(batch, chunk_size)
    torch.testing.assert_close(chunked.sample_losses, whole.sample_losses)
    torch.testing.assert_close(chunked.scores["loss"], whole.scores["loss"])


def test_the_operations_of_one_ragged_sample_can_be_counted(batch: Batch) -> None:
    assert forward_flops_per_clip(MeanByte(), batch) == 2
