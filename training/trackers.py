"""Experiment trackers, for those who ask for one: the rows of the metrics file go there too."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.metrics import Row

MODULES = {"wandb": "wandb", "tensorboard": "torch.utils.tensorboard"}
Track = Callable[[Row], None]


def refuse_missing_trackers(names: Sequence[str]) -> None:
    """Look for the packages; nothing is opened.

    Raises:
        ValueError: If a tracker's package is not installed.
    """
    for name in names:
        _import(MODULES[name], name)


def open_trackers(names: Sequence[str], run_dir: Path, recipe: Mapping[str, Any]) -> list[Track]:
    """One function per tracker, which takes each row."""
    openers = {"wandb": _open_wandb, "tensorboard": _open_tensorboard}
    return [openers[name](run_dir, recipe) for name in names]


def _open_wandb(run_dir: Path, recipe: Mapping[str, Any]) -> Track:
    wandb: Any = _import(MODULES["wandb"], "wandb")
    run = wandb.init(project="reelshard", name=run_dir.name, dir=str(run_dir), config=dict(recipe), resume="allow")
    return lambda row: run.log(row, step=int(row["step"]))


def _open_tensorboard(run_dir: Path, recipe: Mapping[str, Any]) -> Track:
    writer = _import(MODULES["tensorboard"], "tensorboard").SummaryWriter(str(run_dir / "tensorboard"))

    def track(row: Row) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, int(row["step"]))
        writer.flush()

    return track


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"train.trackers asks for {package}, which is not installed; pip install {package}, or leave it out"
        ) from error
