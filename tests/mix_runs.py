"""A run on a mix of frames and text whose samples differ in length: `torchrun ... -m tests.mix_runs VIDEO TEXT OUT`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import DeviceLoader, LoaderConfig, MixedLoader, ShardLoader, World
from shards.dataset import ShardDataset
from tests.mixed_ranks import PIXELS, TEXT, VIDEO
from tests.ranks import say
from training.checkpoint import newest_checkpoint
from training.config import TrainConfig
from training.distributed import process_group
from training.loop import Trainer
from training.optim import OptimConfig

STEPS = 24


class Captions(nn.Module):
    """Tokens are scored by what precedes them, and by the frames where there are any; a sample weighs its tokens."""

    uses_all = False

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.words = nn.Linear(3, 8), nn.Embedding(64, 8)
        self.head = nn.Linear(8, 64)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tokens, length = batch["tokens"].long() % 64, batch["tokens_length"]
        before = nn.functional.pad(tokens, (1, 0))[:, :-1]
        hidden = self.words(before)  # [B, L, 8]
        if "frames" in batch:
            here = torch.arange(batch["frames"].shape[1]) < batch["frames_length"][:, None]
            seen = self.eye(batch["frames"].mean(dim=(2, 3))) * here[..., None]  # [B, F, 8], and F may be 0
            hidden = hidden + seen.sum(dim=1, keepdim=True)
        costs = nn.functional.cross_entropy(self.head(hidden).transpose(1, 2), tokens, reduction="none")
        mine = torch.arange(tokens.shape[1]) < length[:, None]
        return {"loss": (costs * mine).sum(dim=1) / length.clamp(min=1), "weight": length.float()}


def make_mix_trainer(video: Path, text: Path, run_dir: Path, world: World = World(), **train: Any) -> Trainer:  # noqa: B008
    config = LoaderConfig(global_batch_size=4, threads=1)
    sources = {
        name: ShardLoader(ShardDataset.open(path), config, world=world, reads=reads)
        for name, path, reads in (("video", video, VIDEO), ("text", text, TEXT))
    }
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "device": "cpu",
        "steps": STEPS,
        "checkpoint_every": 5,
        "log_every": 1,
        "keep_checkpoints": 99,
    }
    return Trainer(
        Captions(),
        DeviceLoader(MixedLoader(sources, {"video": 0.7, "text": 0.3}), "cpu", normalize=PIXELS),
        config=TrainConfig(**settings | {"keep_checkpoints": 99} | train),
        optim=OptimConfig(lr=1e-2),
        recipe={},
        run_dir=run_dir,
        world=world,
        report=say,
    )


def main() -> None:
    world = World.from_env()
    video, text, out = map(Path, sys.argv[1:])
    with process_group(world, torch.device("cpu")):
        trainer = make_mix_trainer(video, text, out, world)
        checkpoint = newest_checkpoint(out / "checkpoints")
        if checkpoint is not None:
            trainer.resume(checkpoint)
        say(f"rank {world.rank} pid {os.getpid()}")
        trainer.run()
        trainer.loader.close()
        del trainer


if __name__ == "__main__":
    main()
