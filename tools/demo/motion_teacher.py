"""The demo's teacher: a tiny VideoMAE that learns the motions from labels, as the real one learned Kinetics.

It sees clips of its own, drawn from another seed and never encoded into videos. The student then sees no label, only
this teacher's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shards.builder.decode.view import ViewSpec
from shards.format.pixels import IMAGENET_MEAN, IMAGENET_STD
from shards.progress import Progress, untold
from tools.demo.scenes import MOTIONS, render
from tools.demo.videos import HEIGHT, WIDTH, scene_of
from training.optim import OptimConfig, learning_rate

if TYPE_CHECKING:
    from transformers import VideoMAEForVideoClassification

    from model.grid import GridConfig

SEED_OFFSET = 1_000_003  # the teacher's clips are other clips than those of the data sets


@dataclass(frozen=True, kw_only=True)
class TeacherPlan:
    """How the teacher is trained.

    Attributes:
        num_clips: clips it learns from.
        num_test: clips it is tested on.
        steps: optimiser steps.
        batch_size: clips in a step.
        seed: of its clips, its weights and their order.
    """

    num_clips: int = 1200
    num_test: int = 240
    steps: int = 300
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_clips", "num_test", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"the teacher's {name} is {getattr(self, name)}; it has to be at least 1")


def make_teacher(
    plan: TeacherPlan,
    view: ViewSpec,
    student: GridConfig,
    folder: Path,
    progress: Progress = untold,
) -> float:
    """Train the teacher and save it with `save_pretrained` into `folder`.

    Args:
        plan: how.
        view: how clips are cut, the same as for the student.
        student: gives the grid of tokens and their width.
        folder: where it goes.
        progress: called with 1 after each step.

    Returns:
        Its top-1 accuracy on test clips.
    """
    torch.manual_seed(plan.seed)
    model = _tiny_videomae(student)
    clips = _draw_clips(plan, view, plan.num_clips + plan.num_test)
    labels = torch.arange(len(clips)) % len(MOTIONS)
    rates = OptimConfig(lr=2e-3, min_lr=1e-4, warmup=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rates.lr, betas=rates.betas, weight_decay=rates.weight_decay)
    generator = torch.Generator().manual_seed(plan.seed)
    model.train()
    for step in range(plan.steps):
        rows = torch.randint(plan.num_clips, (plan.batch_size,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan.steps, rates)
        loss = F.cross_entropy(model(pixel_values=_pixels(clips, rows)).logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), rates.clip_grad_norm)
        optimizer.step()
        progress(1)
    model.eval()
    model.save_pretrained(folder)
    return _top1(model, clips[plan.num_clips :], labels[plan.num_clips :])


def _tiny_videomae(student: GridConfig) -> VideoMAEForVideoClassification:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = VideoMAEConfig(
        image_size=student.image_size,
        patch_size=student.patch,
        num_frames=student.num_frames,
        tubelet_size=student.tubelet,
        hidden_size=student.target_dim,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * student.target_dim,
        initializer_range=0.1,
        use_mean_pooling=True,
        num_labels=len(MOTIONS),
    )
    return VideoMAEForVideoClassification(config)


def _draw_clips(plan: TeacherPlan, view: ViewSpec, count: int) -> NDArray[np.uint8]:
    """Clips of the teacher's own scenes, drawn at half the size of a video: u8 [count, T, H, W, 3]."""
    clips = np.empty((count, *view.clip_shape), dtype=np.uint8)
    for number, clip in enumerate(clips):
        scene, num_frames = scene_of(plan.seed + SEED_OFFSET, number)
        times = np.linspace(0, 1, num_frames)[view.frame_indices(num_frames)]
        clip[:] = [view.resize(frame) for frame in render(scene, times.tolist(), HEIGHT // 2, WIDTH // 2)]
    return clips


def _pixels(clips: NDArray[np.uint8], rows: Tensor) -> Tensor:
    """Normalised pixels [B, T, 3, H, W] of some clips."""
    pixels = torch.from_numpy(clips[rows.numpy()]).float() / 255
    pixels = (pixels - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return pixels.permute(0, 1, 4, 2, 3)


@torch.inference_mode()
def _top1(model: VideoMAEForVideoClassification, clips: NDArray[np.uint8], labels: Tensor) -> float:
    if not len(clips):
        return float("nan")
    rows = torch.arange(len(clips))
    parts = [rows[start : start + 64] for start in range(0, len(clips), 64)]
    found = torch.cat([model(pixel_values=_pixels(clips, part)).logits.argmax(dim=1) for part in parts])
    return float((found == labels).float().mean())
