"""One rank of steps in which ranks see different things: `torchrun ... -m tests.two_paths OUT [strict]`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.batch.batch import Batch
from pipeline.stats import LoaderStats
from pipeline.world import World
from training.clock import StepClock
from training.config import TrainConfig
from training.distributed import process_group
from training.learner import Learner
from training.metrics import Interval
from training.optim import OptimConfig

CPU = torch.device("cpu")
OPTIM = OptimConfig(lr=1e-2, weight_decay=0.5, clip_grad_norm=1e9)
RATE = 1e-2
CHUNK = 2
# What two ranks see, step by step: a source, the weight of its samples (None: none is given), how many are valid.
PLAN: list[list[tuple[str, float | None, int]]] = [
    [("video", None, 4), ("video", None, 4)],
    [("video", None, 4), ("text", 7.0, 4)],
    [("text", 2.0, 4), ("text", 3.0, 3)],
    [("text", 0.0, 4), ("text", 5.0, 4)],
    [("video", None, 0), ("video", None, 4)],
    [("text", 0.0, 4), ("text", 0.0, 4)],
    [("text", 1.0, 4), ("video", None, 2)],
]


class TwoPaths(nn.Module):
    """Videos go through an eye and a mind, texts through the mind alone; nothing goes through the ear."""

    def __init__(self, *, uses_all: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.eye, self.ear, self.mind = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 1)
        self.uses_all = uses_all

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sees = "pixels" in batch
        value = self.mind(self.eye(batch["pixels"]).tanh() if sees else batch["tokens"])[:, 0]
        scores = {"loss": (value - 1).square(), "sight" if sees else "reading": value.abs()}
        return scores | ({"weight": batch["weight"]} if "weight" in batch else {})


def make_batch(step: int, rank: int) -> Batch:
    source, weight, num_valid = PLAN[step][rank]
    generator = torch.Generator().manual_seed(100 * step + rank)
    tensors = {"index": torch.arange(4), "valid": torch.arange(4) < num_valid}
    if source == "video":
        tensors["pixels"] = torch.randn(4, 3, generator=generator)
    else:
        tensors["tokens"] = torch.randn(4, 4, generator=generator)
    if weight is not None:
        tensors["weight"] = weight * (1 + torch.arange(4))
    return Batch(tensors, source=source)


def flat(module: nn.Module) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in module.state_dict().items()}


def main() -> None:
    out, strict = Path(sys.argv[1]), "strict" in sys.argv[2:]
    world = World.from_env()
    with process_group(world, CPU):
        learner = Learner(TwoPaths(uses_all=strict), TrainConfig(device="cpu", chunk_size=CHUNK), OPTIM, world, CPU)
        steps = []
        for number in range(len(PLAN)):
            window = Interval(CPU, LoaderStats(reader=""))
            window.add(learner.step(make_batch(number, world.rank), RATE, StepClock(CPU)))
            row = window.row(LoaderStats(reader=""), world)
            kept = {name: row[name] for name in row if name.startswith(("loss", "sight", "reading", "num_"))}
            steps.append({"row": kept, "weights": flat(learner.objective)})
        (out / f"rank{world.rank}.json").write_text(json.dumps(steps))
        del learner


if __name__ == "__main__":
    main()
