"""One rank of a run under stock DDP, on a mix of video and text: `torchrun -m tests.mixed_ranks VIDEO TEXT`."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.read.decoders import JpegFrames
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.lengths import SIZE
from training.distributed import process_group

VIDEO = Reads(fields=("frames", "tokens"), decoders={"frames": JpegFrames(SIZE, SIZE)})
TEXT = Reads(fields=("tokens",))
PIXELS = {"frames": ((0.5,) * 3, (0.5,) * 3)}


class TwoHeads(nn.Module):
    """Frames through one head where there are any, tokens through the other; a loss per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.tokens = nn.Linear(3, 1), nn.Embedding(4, 1)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        here = torch.arange(batch["tokens"].shape[1]) < batch["tokens_length"][:, None]
        loss: Tensor = (self.tokens(batch["tokens"].long() % 4)[..., 0] * here).sum(dim=1)
        if "frames" in batch:
            means = batch["frames"].mean(dim=(2, 3))  # [B, L, 3], and L may be 0
            loss = loss + self.frames(means)[..., 0].sum(dim=1)
        return loss * batch["valid"]


def make_mix(video: Path, text: Path, world: World) -> MixedLoader:
    config = LoaderConfig(global_batch_size=2, drop_last=False)
    loaders = {
        "video": ShardLoader(ShardDataset.open(video), config, world=world, reads=VIDEO),
        "text": ShardLoader(ShardDataset.open(text), config, world=world, reads=TEXT),
    }
    return MixedLoader(loaders, {"video": 0.75, "text": 0.25})


def main() -> None:
    world = World.from_env()
    torch.manual_seed(0)
    with process_group(world, torch.device("cpu")):
        loader = DeviceLoader(make_mix(Path(sys.argv[1]), Path(sys.argv[2]), world), "cpu", normalize=PIXELS)
        model = DistributedDataParallel(TwoHeads(), find_unused_parameters=True)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        lines = []
        for _ in range(2):
            for batch in loader:
                optimizer.zero_grad()
                model(batch).sum().backward()
                optimizer.step()
                shape = list(batch["frames"].shape) if "frames" in batch else None
                lines.append([batch.source, batch["index"].tolist(), int(batch["valid"].sum()), shape])
        weights = [parameter.tolist() for parameter in model.parameters()]
        line = json.dumps({"rank": world.rank, "batches": lines, "weights": weights, "state": loader.state_dict()})
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main()
