"""A tiny ST-JEPA run on a tiny real data set, for the tests of training and evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from model.salt import SALTConfig
from model.st_jepa import STJEPA, STJEPAConfig
from pipeline.accelerator import Accelerator, accelerator_of
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.datasets import DIM, FRAMES, PATCH, SIZE, TUBELET
from tools.systems.st_jepa import STJEPAObjective
from training.config import TrainConfig
from training.loop import Trainer
from training.metrics import TIMINGS, Row, read_metrics
from training.optim import OptimConfig

MODEL = STJEPAConfig(
    num_frames=FRAMES,
    image_size=SIZE,
    tubelet=TUBELET,
    patch=PATCH,
    dim=32,
    depth=2,
    num_joint=1,
    heads=2,
    predictor_depth=1,
    predictor_dim=32,
    target_dim=DIM,
)

SALT_MODEL = SALTConfig(
    num_frames=FRAMES,
    image_size=SIZE,
    tubelet=TUBELET,
    patch=PATCH,
    dim=32,
    depth=2,
    heads=2,
    predictor_dim=16,
    predictor_depth=1,
    predictor_heads=2,
    target_dim=DIM,
)


def make_loader(
    dataset: ShardDataset,
    *,
    batch_size: int = 8,
    gather: bool = True,
    world: World = World(),  # noqa: B008
    device: str | Accelerator = "cpu",
    **data: Any,
) -> DeviceLoader:
    accelerator = accelerator_of(device)
    config = LoaderConfig(
        global_batch_size=batch_size,
        seed=0,
        fields=STJEPAObjective.fields,
        gather=STJEPAObjective.gather if gather else {},
        threads=1,
        **data,
    )
    mask = TubeMask(num_positions=MODEL.num_positions)
    loader = ShardLoader(dataset, config, mask, world, accelerator=accelerator)
    return DeviceLoader(loader, accelerator, normalize={"clip": IMAGENET})


def make_trainer(
    dataset: ShardDataset,
    run_dir: Path,
    *,
    batch_size: int = 8,
    model: STJEPAConfig = MODEL,
    optim: OptimConfig = OptimConfig(lr=1e-3),  # noqa: B008
    report: Callable[[str], None] = lambda line: None,
    world: World = World(),  # noqa: B008
    validation: ShardDataset | None = None,
    data: Mapping[str, Any] = MappingProxyType({}),
    profile: int = 0,
    **train: Any,
) -> Trainer:
    settings: dict[str, Any] = {"device": "cpu", "log_every": 1, "checkpoint_every": 3, "steps": 8} | train
    config = TrainConfig(**settings)
    device = config.accelerator(world.local_rank)
    torch.manual_seed(config.seed)
    held_out: dict[str, Any] = {"world": world, "device": device, "shuffle": False, "drop_last": False}
    return Trainer(
        STJEPAObjective(STJEPA(model)),
        make_loader(dataset, batch_size=batch_size, world=world, device=device, **data),
        config=config,
        optim=optim,
        recipe={"system": "st_jepa", "model": dataclasses.asdict(model), "optim": dataclasses.asdict(optim)},
        run_dir=run_dir,
        report=report,
        world=world,
        validation=None if validation is None else make_loader(validation, **held_out),
        key_of=dataset.key,
        profile=profile,
    )


def numbers(run_dir: Path) -> list[Row]:
    """What a run's metrics say apart from the clock and the machine."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]
