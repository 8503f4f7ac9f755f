"""A memory of eight past frames for a small SAM3, which is frozen: the resampler and the attention that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.masks import MasksConfig
from evaluation.tracks import measure_all
from model.memory import MemoryAttention, MemoryConfig, MemoryResampler
from model.parts import lies_in
from model.sam3 import Sam3Student
from model.sam3_files import MEMORY_PARTS, save_student
from tools.systems.base import Evaluation
from tools.systems.sam3_image import show_found, spell_pixels
from tools.systems.sam3_students import (
    StudentConfig,
    open_student,
    prompts_of,
    settle,
    source_of,
    statistics_of,
    take_apart,
)
from tools.systems.sav_sets import CELL, SavRecipe, SavSystem
from training.masks_objective import MEMORIES, MaskObjective, Memory

if TYPE_CHECKING:
    from torch import nn

    from shards.dataset import ShardDataset


@dataclass(frozen=True, kw_only=True)
class VideoStudentConfig(StudentConfig, MemoryConfig):
    """A student of single pictures, and the sizes of its memory."""

    def __post_init__(self) -> None:
        StudentConfig.__post_init__(self)
        MemoryConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class VideoObjectiveConfig:
    """What is trained, on what.

    Attributes:
        trainable: prefixes of the student's modules that are trained, and that checkpoints hold; all else is frozen.
        memory: "context" is the features of the frames before; "constant" is zeros in their place, for an ablation.
    """

    trainable: tuple[str, ...] = MEMORY_PARTS[:2]
    memory: Memory = "context"

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ValueError(f"objective.memory is {self.memory!r}; choose 'context' or 'constant'")
        missing = [part for part in MEMORY_PARTS[:2] if not lies_in(part, self.trainable)]
        if missing:
            raise ValueError(
                f"objective.trainable is {list(self.trainable)}, without {' and '.join(missing)}: these begin with "
                "random weights and would stay noise; name them, too"
            )


@dataclass(frozen=True, kw_only=True)
class Sam3VideoRecipe(SavRecipe):
    """A resolved recipe of a student with a memory.

    Attributes:
        model: the student, and the sizes of its memory.
        objective: what is trained.
    """

    system: str = "sam3_video"
    model: VideoStudentConfig = field(default_factory=VideoStudentConfig)
    objective: VideoObjectiveConfig = field(default_factory=VideoObjectiveConfig)

    def __post_init__(self) -> None:
        if not self.memory.num_context:
            raise ValueError("memory.num_context is 0, which is image mode: give 1 or more, or a recipe of sam3_image")


class Sam3VideoSystem(SavSystem[Sam3VideoRecipe]):
    """A query frame with its objects, and the teacher's features of the frames before it."""

    name, title = "sam3_video", "Small SAM3 with a memory"
    loss = "masks, boxes and presence against ground truth"
    recipe = Sam3VideoRecipe
    evaluators: Mapping[str, Evaluation] = {
        "masks": Evaluation(
            measure=measure_all,
            config=lambda recipe: MasksConfig(
                num_context=recipe.memory.num_context if recipe.objective.memory == "context" else 0
            ),
            roles=("val",),
            exhibits=show_found,
        )
    }

    def settled(self, recipe: Sam3VideoRecipe, run_dir: Path, init: Path | None) -> Sam3VideoRecipe:
        """With the student named, the newest beside the run if nothing else, and its pixels' statistics."""
        return settle(recipe, run_dir, init, search=True)

    def make_objective(self, recipe: Sam3VideoRecipe) -> MaskObjective:
        """The student of its folder or run, as it is, and a fresh memory."""
        opened = open_student(recipe.model, recipe.view.size)
        student = Sam3Student(opened.sam, iou_head=opened.iou_head, statistics=statistics_of(recipe.model))
        cells = (recipe.view.size // CELL) ** 2
        student.memory_resampler = MemoryResampler(
            student.width, recipe.model, num_frames=recipe.memory.num_context, num_cells=cells
        )
        student.memory_attention = MemoryAttention(student.width, recipe.model)
        return MaskObjective(
            student,
            prompts_of(recipe, recipe.model),
            trainable=recipe.objective.trainable,
            memory=recipe.objective.memory,
        )

    def describe(self, recipe: Sam3VideoRecipe, dataset: ShardDataset) -> Mapping[str, str]:
        """Whose features the data set holds, and how pixels are normalised."""
        return {**super().describe(recipe, dataset), "pixels": spell_pixels(recipe.model)}

    def export(self, recipe: Sam3VideoRecipe, objective: nn.Module, folder: Path) -> Iterator[str]:
        """A folder of transformers' Sam3Model, with its tokenizer and the memory beside it."""
        yield from save_student(
            take_apart(objective),
            folder,
            source=source_of(recipe.model),
            memory=(recipe.model, recipe.memory.num_context, (recipe.view.size // CELL) ** 2),
        )


SYSTEM = Sam3VideoSystem()
