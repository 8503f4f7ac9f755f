"""A tiny ST-JEPA run on a tiny real data set, for the tests of training and evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from model.salt import SALTConfig
from model.st_jepa import STJEPA, STJEPAConfig
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
    **data: Any,
) -> DeviceLoader:
    config = LoaderConfig(
        global_batch_size=batch_size,
        seed=0,
        fields=STJEPAObjective.fields,
        gather=STJEPAObjective.gather if gather else {},
        threads=1,
        **data,
    )
    loader = ShardLoader(dataset, config, TubeMask(num_positions=MODEL.num_positions), world)
    return DeviceLoader(loader, "cpu", normalize={"clip": IMAGENET})


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
    **train: Any,
) -> Trainer:
    settings: dict[str, Any] = {"device": "cpu", "log_every": 1, "checkpoint_every": 3, "steps": 8} | train
    config = TrainConfig(**settings)
    torch.manual_seed(config.seed)
    return Trainer(
        STJEPAObjective(STJEPA(model)),
        make_loader(dataset, batch_size=batch_size, world=world, **data),
        config=config,
        optim=optim,
        recipe={"system": "st_jepa", "model": dataclasses.asdict(model), "optim": dataclasses.asdict(optim)},
        run_dir=run_dir,
        report=report,
        world=world,
        validation=None if validation is None else make_loader(validation, world=world, shuffle=False, drop_last=False),
        key_of=dataset.key,
    )
