"""Tiny students in folders as transformers saves them, with a tokenizer of the recipe's words; and batches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.memory import MemoryAttention, MemoryConfig, MemoryResampler
from model.sam3 import IoUHead, Sam3Student
from model.sam3_files import load_sam3, pixel_statistics, read_prompts
from tests.clip_text import save_tokenizer
from tests.sav_sets import CHANNELS, SIDE, write_teacher
from training.masks_objective import MaskObjective, Prompts

PROMPTS = ("objects in the video", "all objects", "segment everything", "things and stuff")
WORDS = sorted({word for prompt in PROMPTS for word in prompt.split()})
CELLS, NUM_FRAMES, NUM_OBJECTS, MASK_SIDE = SIDE // 28, 8, 20, 32
MEMORY = MemoryConfig(num_latents=8, ffn_dim=64, num_heads=4)
TRAINED = ("memory_resampler", "memory_attention")


def write_student(folder: Path, *, seed: int = 1, loud: float = 0.1, **sizes: Any) -> Path:
    """A tiny student whose weights are spread by `loud`, so that what it is shown matters to its answers."""
    write_teacher(folder, seed=seed, **sizes)
    sam: Any = load_sam3(str(folder), sizes.get("side", SIDE))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(loud * torch.randn(parameter.shape, generator=generator))
    sam.save_pretrained(folder)
    save_tokenizer(folder, words=WORDS)
    return folder


def load_student(
    folder: Path, *, seed: int = 2, iou_head: bool = False, memory: MemoryConfig | None = MEMORY, side: int = SIDE
) -> Sam3Student:
    """The student of a folder, with fresh modules for its memory."""
    sam = load_sam3(str(folder), side)
    torch.manual_seed(seed)
    parts = None
    if memory is not None:
        resampler = MemoryResampler(CHANNELS, memory, num_frames=NUM_FRAMES, num_cells=CELLS**2)
        parts = (resampler, MemoryAttention(CHANNELS, memory))
    head = IoUHead(CHANNELS) if iou_head else None
    return Sam3Student(sam, memory=parts, iou_head=head, statistics=pixel_statistics(str(folder)))


def read_all(folder: Path) -> Prompts:
    """The recipe's prompts, by the student's tokenizer."""
    return Prompts(*read_prompts(str(folder), PROMPTS))


def memory_objective(folder: Path, **options: Any) -> MaskObjective:
    """What trains the memory of a student."""
    return MaskObjective(load_student(folder, **options), read_all(folder), trainable=TRAINED, memory="context")


def random_batch(counts: list[int], seed: int = 3) -> dict[str, Tensor]:
    """A row for each count of objects: noise for frames and context, and rectangles for objects."""
    generator = torch.Generator().manual_seed(seed)
    size = len(counts)
    masks = torch.zeros(size, NUM_OBJECTS, MASK_SIDE, MASK_SIDE, dtype=torch.uint8)
    boxes = torch.zeros(size, NUM_OBJECTS, 4)
    for row, count in enumerate(counts):
        for number in range(count):
            x0, y0 = (int(torch.randint(0, MASK_SIDE - 8, (), generator=generator)) for _ in range(2))
            wide, high = (int(torch.randint(4, 9, (), generator=generator)) for _ in range(2))
            masks[row, number, y0 : y0 + high, x0 : x0 + wide] = 1
            boxes[row, number] = torch.tensor([x0, y0, x0 + wide, y0 + high]) / MASK_SIDE
    return {
        "frames": torch.randint(0, 256, (size, 1, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        "fpn": torch.randn(size, NUM_FRAMES, CHANNELS, CELLS, CELLS, generator=generator).half(),
        "object_masks": masks,
        "object_boxes": boxes,
        "num_objects": torch.tensor(counts),
        "num_lost": torch.zeros(size, dtype=torch.long),
        "prompt": torch.arange(size) % len(PROMPTS),
        "index": torch.arange(size),
        "valid": torch.ones(size, dtype=torch.bool),
    }
