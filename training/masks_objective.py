"""A small SAM3 trained on a teacher's features, on the objects of a frame, or, with a memory, on those alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model.parts import lies_in
from model.sam3 import CONTEXT_LEVEL, Predictions, Sam3Student, Text
from training.masks_losses import feature_losses, mask_losses

Stage = Literal["features", "outputs"]
Memory = Literal["context", "constant"]
READS_TEXT = ("student.sam.text_encoder", "student.sam.text_projection")
NOT_USED = (  # by any output that is scored
    "student.sam.geometry_encoder",
    "student.sam.mask_decoder.semantic_projection",
    "student.sam.mask_decoder.pixel_decoder.conv_layers.2",  # the pyramid's three levels are joined by two
    "student.sam.mask_decoder.pixel_decoder.norms.2",
    "student.sam.text_encoder.text_projection",
)


@dataclass(frozen=True)
class Prompts:
    """The texts of a recipe, by its order.

    Attributes:
        tokens: i64 `[P, L]`.
        words: bool `[P, L]`, true where there is a word.
    """

    tokens: Tensor
    words: Tensor


class MaskObjective(nn.Module):
    """A student that is asked for the objects of a frame, and what its answers cost."""

    tokens: Tensor
    words: Tensor
    features: Tensor | None

    def __init__(
        self, student: Sam3Student, prompts: Prompts, *, trainable: tuple[str, ...] | None = None, memory: Memory
    ) -> None:
        """Read the prompts, once for all where the parts that do so are frozen.

        Args:
            student: with a memory, if parts of it alone are trained.
            prompts: by the numbers that batches have.
            trainable: prefixes of the parts that are trained and kept in checkpoints, all others being frozen; None
                trains and keeps everything.
            memory: "context", or "constant", zeros in its place, for an ablation.
        """
        super().__init__()
        self.student, self.memory = student, memory
        if trainable is not None:
            self.trainable = tuple(f"student.{prefix}" for prefix in trainable)
        self.register_buffer("tokens", prompts.tokens, persistent=False)
        self.register_buffer("words", prompts.words, persistent=False)
        self.register_buffer("features", None, persistent=False)
        if trainable is not None and not any(
            lies_in(prefix, READS_TEXT) or lies_in(part, (prefix,)) for prefix in self.trainable for part in READS_TEXT
        ):
            with torch.no_grad():
                self.features = student.eval().read(prompts.tokens, prompts.words).features

    def text(self, prompt: Tensor) -> Text:
        """The prompts of numbers `[B]`, each read once."""
        if self.features is not None:
            return Text(self.features[prompt], self.words[prompt])
        if len(prompt) <= len(self.tokens):
            return self.student.read(self.tokens[prompt], self.words[prompt])
        read = self.student.read(self.tokens, self.words)
        return Text(read.features[prompt], self.words[prompt])

    def find(self, batch: Mapping[str, Tensor]) -> Predictions:
        """What is found in the frames of a batch, with its context as the memory where there is one."""
        pixels, text = self.student.pixels(batch["frames"][:, 0]), self.text(batch["prompt"])
        if "fpn" not in batch:
            return self.student.image(pixels, text)
        context = batch["fpn"]
        return self.student.video(pixels, text, context if self.memory == "context" else torch.zeros_like(context))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score a batch, sample by sample.

        Args:
            batch: `frames` (u8 `[B, 1, 3, H, W]`), `prompt` (i64 `[B]`), what `mask_losses` takes, and `fpn`
                (`[B, T, C, h, w]`, of the frames before; without it the frame is looked at alone).

        Returns:
            See `mask_losses`.
        """
        return self.score(self.find(batch), batch)

    def score(self, found: Predictions, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What predictions cost against the objects of a batch, see `mask_losses`."""
        return mask_losses(found, batch)


class ImageObjective(MaskObjective):
    """The student before it has a memory: it learns a teacher's features, or the objects with some of that kept."""

    def __init__(self, student: Sam3Student, prompts: Prompts, *, stage: Stage, feature_weight: float) -> None:
        """All that has a part in the loss is trained, and all is kept.

        Args:
            student: without a memory.
            prompts: by the numbers that batches have.
            stage: "features" learns the pyramid's level 3 alone.
            feature_weight: of that loss beside the other, in stage "outputs".
        """
        super().__init__(student, prompts, memory="context")
        self.stage, self.feature_weight = stage, feature_weight
        names = [name for name, _ in self.named_parameters()]
        others = [f"student.{name}" for name, _ in student.named_children() if name != "sam"]
        others += [f"student.sam.{name}" for name, _ in student.sam.named_children() if name != "vision_encoder"]
        others += [f"student.sam.vision_encoder.neck.fpn_layers.{level}" for level in range(CONTEXT_LEVEL)]
        unused = NOT_USED if student.iou_head is None else (*NOT_USED, "student.sam.dot_product_scoring")
        frozen = others if stage == "features" else unused
        self.frozen = tuple(part for part in frozen if any(lies_in(name, (part,)) for name in names))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score a batch, sample by sample.

        Args:
            batch: see `MaskObjective`; `fpn` is the teacher's of the frame itself, `[B, 1, C, h, w]`.

        Returns:
            See `feature_losses`, and `loss`, which is their sum; in stage "outputs" `mask_losses`, too, whose `loss`
            takes in a share of it.
        """
        seen = self.student.see(self.student.pixels(batch["frames"][:, 0]))
        learnt = feature_losses(seen.context, batch["fpn"][:, -1])
        sum_of_both = learnt["feature_mse"] + learnt["feature_cosine"]
        if self.stage == "features":
            return {"loss": sum_of_both, **learnt}
        scores = self.score(self.student.find(seen, self.text(batch["prompt"])), batch)
        return {**scores, **learnt, "loss": scores["loss"] + self.feature_weight * sum_of_both}


STAGES: tuple[Stage, ...] = get_args(Stage)
MEMORIES: tuple[Memory, ...] = get_args(Memory)
