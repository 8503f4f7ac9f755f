"""Sizes of the demo of the foveated VLM, and its recipes: those that are shipped, at a size for two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shards.format.publish import publish_bytes
from tools.demo.fvlm_models import DINO_WIDTH
from tools.recipe import find_recipe

SIZE = 56  # pixels of a frame: 16 patches
STAGES = (1, 2)
# With the default number of films an epoch has 43 batches of them and 7 of text, so that every 50 steps are 14 % text.
FRAMES = {1: 120, 2: 124}
TOKENS = 2048
MADE = ("view", "chat", "build", "model.dinov2", "model.llm", "model.query_dim")  # what the demo says itself


@dataclass(frozen=True, kw_only=True)
class FoveatedPlan:
    """How much of it there is.

    Attributes:
        num_train: films that are trained on.
        num_held_out: films that are asked about.
        steps: of stage 1 and stage 2.
        num_seeds: how often both stages are trained, each time with other weights and another order.
        seed: of the films.
    """

    num_train: int = 700
    num_held_out: int = 360
    steps: tuple[int, int] = (200, 700)
    num_seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_train", 1), ("num_held_out", 2), ("num_seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least {least}")
        if min(self.steps) < 1:
            raise ValueError(f"the steps are {self.steps[0]} and {self.steps[1]}; each stage needs at least 1")

    @property
    def num_films(self) -> int:
        """All of them."""
        return self.num_train + self.num_held_out


def write_recipes(plan: FoveatedPlan, out: Path) -> None:
    """Write `out/fvlm_stageN.yaml`: the shipped recipe of each stage, made small; each seed has models of its own."""
    for stage in STAGES:
        content = yaml.safe_load(find_recipe(f"fvlm_stage{stage}").read_text(encoding="utf-8"))
        small: dict[str, dict[str, Any]] = {
            "view": {"size": SIZE},
            "chat": {"tokenizer": str((out / "tokenizer").resolve())},
            "model": {"query_dim": DINO_WIDTH, "visual_scale": "auto"},
            "data": {"length_budget": {"frames": FRAMES[stage], "tokens": TOKENS}},
            # Fresh weights have everything to learn, and so higher rates than published ones.
            "objective": {"llm_lr": 3e-3, "dinov2_lr": 3e-3},
            "optim": {"lr": 1e-3},
            "train": {
                "device": "cpu",
                "precision": "fp32",
                "epochs": None,
                "steps": plan.steps[stage - 1],
                "checkpoint_every": plan.steps[stage - 1],
                "log_every": 20,
            },
        }
        for name, values in small.items():
            content[name] = {**content.get(name, {}), **values}
        publish_bytes(recipe_path(out, stage), yaml.safe_dump(content, sort_keys=False).encode())


def recipe_path(out: Path, stage: int) -> Path:
    """Of a stage's recipe."""
    return out / f"fvlm_stage{stage}.yaml"


def refuse_own(overrides: Sequence[str]) -> None:
    """Refuse values that the demo says itself.

    Raises:
        ValueError: it says which.
    """
    for override in overrides:
        key = override.removeprefix("--").partition("=")[0]
        if any(key == made or key.startswith(f"{made}.") for made in MADE):
            raise ValueError(f"the demo makes models, tokenizer and data sets of its own; leave --{key} out")
