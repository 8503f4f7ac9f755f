"""A small SAM3 of single pictures: it learns a teacher's features first, then the objects of frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.masks import MasksConfig
from evaluation.tracks import measure_all
from model.sam3 import IoUHead, Sam3Student
from model.sam3_files import save_student
from tools.systems.base import Evaluation
from tools.systems.sam3_students import (
    StudentConfig,
    open_student,
    prompts_of,
    settle,
    source_of,
    statistics_of,
    take_apart,
)
from tools.systems.sav_sets import MemoryConfig, SavRecipe, SavSystem
from training.masks_objective import STAGES, ImageObjective, Stage

if TYPE_CHECKING:
    from torch import nn

    from shards.dataset import ShardDataset
    from tools.pages.html import Html


@dataclass(frozen=True, kw_only=True)
class ImageStudentConfig(StudentConfig):
    """A student of single pictures.

    Attributes:
        iou_head: whether it says by a head of its own how well a mask fits; otherwise sigmoid(logit) does.
        clip: of a fresh student, whose text encoder and tokenizer it takes.
    """

    iou_head: bool = False
    clip: str = "openai/clip-vit-base-patch32"


@dataclass(frozen=True, kw_only=True)
class ImageObjectiveConfig:
    """What it learns.

    Attributes:
        stage: "features" learns the teacher's level 3; "outputs" learns objects, and keeps some of that.
        feature_weight: of the first beside the second.
    """

    stage: Stage = "outputs"
    feature_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"objective.stage is {self.stage!r}; choose 'features' or 'outputs'")
        if not 0 <= self.feature_weight < float("inf"):
            raise ValueError(f"objective.feature_weight is {self.feature_weight}; it has to be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Sam3ImageRecipe(SavRecipe):
    """A resolved recipe of a student of single pictures.

    Attributes:
        memory: none.
        model: the student.
        objective: what it learns.
    """

    system: str = "sam3_image"
    memory: MemoryConfig = field(default_factory=lambda: MemoryConfig(num_context=0))
    model: ImageStudentConfig = field(default_factory=ImageStudentConfig)
    objective: ImageObjectiveConfig = field(default_factory=ImageObjectiveConfig)

    def __post_init__(self) -> None:
        if self.memory.num_context:
            raise ValueError(
                f"memory.num_context is {self.memory.num_context}; a student of single pictures has none: give 0, or a "
                "recipe of sam3_video"
            )


def show_found(recipe: SavRecipe, objective: nn.Module, datasets: Mapping[str, ShardDataset]) -> Iterator[Html]:
    """What is found in some held-out videos, as pictures."""
    from tools.systems.mask_strips import show_masks

    yield from show_masks(recipe, objective, datasets)


class Sam3ImageSystem(SavSystem[Sam3ImageRecipe]):
    """Frames, their objects, and the teacher's features of each."""

    name, title = "sam3_image", "Small SAM3 of single pictures"
    loss = "masks, boxes and presence against ground truth, features against the teacher's"
    recipe = Sam3ImageRecipe
    evaluators: Mapping[str, Evaluation] = {
        "masks": Evaluation(
            measure=measure_all,
            config=lambda recipe: MasksConfig(memories=("none",)),
            roles=("val",),
            exhibits=show_found,
        )
    }

    def settled(self, recipe: Sam3ImageRecipe, run_dir: Path, init: Path | None) -> Sam3ImageRecipe:
        """With the student named, and its pixels' statistics."""
        return settle(recipe, run_dir, init, search=False)

    def make_objective(self, recipe: Sam3ImageRecipe) -> ImageObjective:
        """The student of its folder or run; a head of its own is fresh if it has none yet."""
        opened, objective = open_student(recipe.model, recipe.view.size), recipe.objective
        student = Sam3Student(opened.sam, statistics=statistics_of(recipe.model))
        if recipe.model.iou_head:
            student.iou_head = opened.iou_head or IoUHead(student.width)
        return ImageObjective(
            student,
            prompts_of(recipe, recipe.model),
            stage=objective.stage,
            feature_weight=objective.feature_weight,
        )

    def describe(self, recipe: Sam3ImageRecipe, dataset: ShardDataset) -> Mapping[str, str]:
        """Whose features the data set holds, and how pixels are normalised."""
        return {**super().describe(recipe, dataset), "pixels": spell_pixels(recipe.model)}

    def export(self, recipe: Sam3ImageRecipe, objective: nn.Module, folder: Path) -> Iterator[str]:
        """A folder of transformers' Sam3Model, with its tokenizer, which is a student again."""
        yield from save_student(take_apart(objective), folder, source=source_of(recipe.model))


def spell_pixels(config: StudentConfig) -> str:
    """Whose statistics pixels are normalised by."""
    mean, std = statistics_of(config)
    return f"less {list(mean)}, over {list(std)}; student {config.student}"


SYSTEM = Sam3ImageSystem()
