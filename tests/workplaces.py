"""A tiny recipe with data sets to train and score on, for the tests of commands."""

import dataclasses
from pathlib import Path

import yaml

from tests.datasets import make_dataset
from tests.runs import MODEL

SECTIONS = {
    "view": {"num_frames": MODEL.num_frames, "size": MODEL.image_size},
    "build": {"tubelet": MODEL.tubelet, "patch": MODEL.patch},
    "data": {"global_batch_size": 8, "threads": 1},
    "model": dataclasses.asdict(MODEL),
    "optim": {"lr": 1e-3},
    "train": {"steps": 6, "log_every": 2, "checkpoint_every": 3, "device": "cpu"},
    "evaluate": {"epochs": 5, "seeds": [0, 1]},
}


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Paths, as a command line has them."""

    recipe: str
    train: str
    val: str


def make_workplace(folder: Path) -> Workplace:
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"system": "st_jepa", **SECTIONS}))
    make_dataset(folder / "train", num_samples=20)
    make_dataset(folder / "val", num_samples=9, split="validation")
    return Workplace(str(folder / "tiny.yaml"), str(folder / "train"), str(folder / "val"))
