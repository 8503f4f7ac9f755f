"""A set of SA-V, a student and recipes for runs of the three stages, made once a test process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.sam3_students import MASK_SIDE, write_student
from tests.sav_sets import SIDE, write_teacher, write_train
from tools.cli import main
from tools.recipes import RECIPES

LENGTHS = (49, 57, 45, 61, 49, 53)


@dataclass(frozen=True)
class Workshop:
    """A folder with the set `set`, the teacher that made it, and `student`.

    Attributes:
        folder: of all of it.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, lengths: Sequence[int] = LENGTHS) -> Workshop:
        """Make all of it."""
        write_train(folder / "raw", lengths)
        workshop = cls(folder)
        workshop.write_models()
        recipe = workshop.recipe("sam3_image_features")
        videos = ["--videos", str(folder / "raw" / "sav_train"), "--out", str(folder / "set")]
        assert main(["build", "--recipe", str(recipe), *videos]) == 0
        return workshop

    def write_models(self) -> None:
        """A teacher and a student."""
        write_teacher(self.folder / "teacher")
        write_student(self.folder / "student")

    def recipe(self, name: str, **sections: dict[str, Any]) -> Path:
        """A recipe as it is shipped, at the size of the tiny models."""
        content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        small: dict[str, dict[str, Any]] = {
            "view": {"size": SIDE},
            "teacher": {"id": str(self.folder / "teacher"), "image_size": SIDE},
            "objects": {"mask_size": MASK_SIDE},
            "data": {"threads": 1, "global_batch_size": 2},
            "optim": {"warmup": 0.05, "lr": 1e-3},
            "train": {"device": "cpu", "precision": "fp32", "steps": 4, "epochs": None, "log_every": 1},
        }
        if name == "sam3_video":
            small["model"] = {"num_latents": 8, "ffn_dim": 64, "num_heads": 4}
        for section, values in [*small.items(), *sections.items()]:
            content[section] = {**content.get(section, {}), **values}
        path = self.folder / f"{name}{len(list(self.folder.glob('*.yaml')))}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def arguments(self, recipe: Path, out: Path, *more: str) -> list[str]:
        """Of `reelshard train` on the set."""
        return ["train", "--recipe", str(recipe), "--data", str(self.folder / "set"), "--out", str(out), *more]

    def train(self, name: str, out: Path, *more: str, **sections: dict[str, Any]) -> Path:
        """Train by a recipe; returns the run."""
        assert main(self.arguments(self.recipe(name, **sections), out, *more)) == 0
        return out
