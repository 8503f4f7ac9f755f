"""A small SAM3 out of a folder or the Hub, with its tokenizer and the statistics of its pixels; and back into one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from model.memory import MemoryConfig
from model.pretrained import load_pretrained, one_line, quiet
from model.sam3 import Sam3Student
from shards.format.publish import publish_json

MAX_TOKENS = 32
PREPROCESSOR = "preprocessor_config.json"
MEMORY_PARTS = ("memory_resampler", "memory_attention", "iou_head")  # what transformers' Sam3Model has not
ALLOWED = "Give an id on the Hub, or a folder of transformers' Sam3Model"
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
MAY_BE_MISSING = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
HALVES: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def load_sam3(name: str, image_size: int) -> nn.Module:
    """Load a Sam3Model in f32 for pictures of `image_size` px, to be trained; nothing is printed.

    Raises:
        ValueError: it cannot be loaded, or not for pictures of that size.
    """
    from transformers import Sam3Model

    changes = {"image_size": image_size, "attn_implementation": "sdpa"}
    sam = load_pretrained(Sam3Model, name, dtype=torch.float32, allowed=ALLOWED, what="student", **changes)
    for parameter in sam.parameters():  # a file's tensors lie anywhere in memory, and some kernels round by where
        parameter.data = parameter.data.clone()
    return sam.requires_grad_(True)


def pixel_statistics(name: str) -> Statistics:
    """Mean and standard deviation of pixels from 0 to 1, from the student's preprocessor_config.json; 0.5 without one.

    Raises:
        ValueError: the file is not one.
    """
    from transformers.utils.hub import cached_file

    with quiet(), one_line(name, ALLOWED, "student"):
        path = cached_file(name, PREPROCESSOR, **MAY_BE_MISSING)
    if path is None:
        return HALVES
    try:
        content = json.loads(Path(path).read_bytes())
        mean, std = (
            tuple(float(value) for value in content.get(key, half))
            for key, half in zip(("image_mean", "image_std"), HALVES, strict=True)
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no configuration of pixels ({error}); take the student's own") from None
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise ValueError(f"{path} has image_mean {list(mean)} and image_std {list(std)}; three numbers each are needed")
    return mean, std


def read_prompts(name: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Prompts as the student's own tokenizer has them, padded to 32.

    Returns:
        i64 `[P, 32]`, and bool `[P, 32]`, true where there is a word.

    Raises:
        ValueError: there is no tokenizer, or a prompt is longer.
    """
    from transformers import AutoTokenizer

    with quiet(), one_line(name, "Save the student's tokenizer (CLIP's) into its folder", "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name)
        found = tokenizer(list(prompts), padding=False)["input_ids"]
    for prompt, tokens in zip(prompts, found, strict=True):
        if len(tokens) > MAX_TOKENS:
            raise ValueError(f"the prompt {prompt!r} has {len(tokens)} tokens; the most are {MAX_TOKENS}")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    rows = [[*tokens, *[pad] * (MAX_TOKENS - len(tokens))] for tokens in found]
    lengths = torch.tensor([len(tokens) for tokens in found])
    return torch.tensor(rows), torch.arange(MAX_TOKENS) < lengths[:, None]


def save_student(student: Sam3Student, folder: Path, *, source: str, memory: MemoryConfig | None) -> Iterator[str]:
    """Write all of a student into a folder of transformers' layout, which is a student again.

    Args:
        student: on the CPU.
        folder: takes it.
        source: id or folder whose tokenizer goes with it.
        memory: the sizes of its memory, if it has one.

    Yields:
        A line for each thing written: its name and what it is.
    """
    from transformers import AutoTokenizer

    with quiet(), one_line(source, ALLOWED, "tokenizer"):
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        student.sam.save_pretrained(folder)
    yield "model.safetensors: Sam3Model, with its configuration and tokenizer"
    mean, std = ((value.flatten() / 255).tolist() for value in (student.pixel_mean, student.pixel_std))
    side = student.sam.config.vision_config.backbone_config.image_size
    size = {"height": side, "width": side}
    publish_json(
        folder / PREPROCESSOR,
        {"image_processor_type": "Sam3ImageProcessor", "image_mean": mean, "image_std": std, "size": size},
    )
    yield f"{PREPROCESSOR}: the statistics of its pixels"
    more = {name: value for name, value in student.state_dict().items() if name.split(".")[0] in MEMORY_PARTS}
    if more:
        parts = sorted({name.split(".")[0] for name in more})
        safetensors.torch.save_file(
            {name: value.contiguous() for name, value in more.items()}, folder / "memory.safetensors"
        )
        publish_json(folder / "memory.json", {} if memory is None else asdict(memory))
        yield f"memory.safetensors, memory.json: {', '.join(parts)} (model/memory.py), which Sam3Model has not"


def read_more(name: str) -> dict[str, Tensor]:
    """What stands beside a student's Sam3Model in its folder; nothing of an id on the Hub."""
    path = Path(name) / "memory.safetensors"
    found: dict[str, Any] = safetensors.torch.load_file(path) if path.is_file() else {}
    return found
