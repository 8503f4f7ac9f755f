"""One rank of a tiny run: `torchrun --nproc-per-node N -m tests.ranks DATASET RUN STEPS [--slow RANK]`."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.batch.batch import Batch
from pipeline.device import DeviceLoader
from pipeline.stats import LoaderStats
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.runs import make_trainer
from training.checkpoint import newest_checkpoint
from training.distributed import process_group

# The curve of 200 steps at the geometry of the tests, the same on any number of ranks. One rank cuts its batch in four
# chunks, eight ranks have less than a chunk.
CURVE: dict[str, Any] = {
    "batch_size": 8,
    "chunk_size": 2,
    "checkpoint_every": 50,
    "data": {"on_error": "quarantine", "verify": "first"},
}


class SlowLoader:
    """A loader that takes its time."""

    def __init__(self, loader: DeviceLoader, seconds: float) -> None:
        self.loader, self.seconds = loader, seconds

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            time.sleep(self.seconds)
            yield batch

    @property
    def epoch(self) -> int:
        return self.loader.epoch

    def close(self) -> None:
        self.loader.close()

    def __len__(self) -> int:
        return len(self.loader)

    def num_batches(self, epoch: int) -> int:
        return self.loader.num_batches(epoch)

    def ready(self) -> bool:
        return self.loader.ready()

    def stats(self) -> LoaderStats:
        return self.loader.stats()

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loader.load_state_dict(state)


def say(line: str) -> None:
    """Write a line at once, so that two ranks do not write into each other's."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--slow", type=int, default=-1)
    args = parser.parse_args()
    world = World.from_env()
    with process_group(world, torch.device("cpu")):
        train(args, world)


def train(args: argparse.Namespace, world: World) -> None:
    trainer = make_trainer(
        ShardDataset.open(args.dataset), args.run_dir, steps=args.steps, world=world, report=say, **CURVE
    )
    if world.rank == args.slow:
        assert isinstance(trainer.loader, DeviceLoader)
        trainer.loader = SlowLoader(trainer.loader, 0.01)
    checkpoint = newest_checkpoint(trainer.checkpoints)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    say(f"rank {world.rank} pid {os.getpid()}")
    trainer.run()


if __name__ == "__main__":
    main()
