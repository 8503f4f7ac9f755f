"""Sizes of the SAM3 demo."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_CLIPS = 64  # held out


@dataclass(frozen=True, kw_only=True)
class Sam3Plan:
    """Sizes of the demo.

    Attributes:
        num_alone: training videos without look-alikes, for the image stages.
        num_train: training videos with them, for the memory.
        num_held_out: of which everything is measured; at least 64.
        feature_steps: of the first image stage.
        image_steps: of the second.
        memory_steps: of each run of the memory stage.
        by_heart_steps: of the second image stage on a few videos alone.
        num_seeds: runs of the memory stage with the two embeddings, and as many without them.
    """

    num_alone: int = 240
    num_train: int = 480
    num_held_out: int = 256
    feature_steps: int = 40
    image_steps: int = 200
    memory_steps: int = 500
    by_heart_steps: int = 80
    num_seeds: int = 1

    def __post_init__(self) -> None:
        if self.num_held_out < LEAST_CLIPS:
            raise ValueError(f"num_held_out is {self.num_held_out}; differences are taken over {LEAST_CLIPS} or more")
        if (
            min(
                self.num_alone,
                self.num_train,
                self.feature_steps,
                self.image_steps,
                self.memory_steps,
                self.by_heart_steps,
            )
            < 16
        ):
            raise ValueError("the demo needs 16 training videos and 16 steps of each stage at least")
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds is {self.num_seeds}; give 1 or more")
