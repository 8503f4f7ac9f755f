"""A small SAM3 out of a folder or the Hub, with its tokenizer and the statistics of its pixels; and back into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from model.memory import MemoryAttention, MemoryConfig, MemoryResampler
from model.parts import lies_in
from model.pretrained import load_pretrained, one_line, quiet
from model.sam3 import HALVES, IoUHead, Sam3Student, Statistics
from shards.format.json_files import read_json
from shards.format.publish import publish_json

MAX_TOKENS = 32
KEYS = ("image_mean", "image_std")
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS, SIZES = "memory.safetensors", "memory.json"
MEMORY_PARTS = ("memory_resampler", "memory_attention", "iou_head")  # what transformers' Sam3Model has not
ALLOWED = "Give an id on the Hub, or a folder of transformers' Sam3Model"
MAY_BE_MISSING = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


def load_sam3(name: str, image_size: int) -> nn.Module:
    """Load a Sam3Model in f32 for pictures of `image_size` px, to be trained; nothing is printed.

    Raises:
        ValueError: it cannot be loaded, or not for pictures of that size.
    """
    from transformers import Sam3Model

    changes: Any = {"image_size": image_size, "attn_implementation": "sdpa"}
    sam = load_pretrained(Sam3Model, name, dtype=torch.float32, allowed=ALLOWED, what="student", **changes)
    for parameter in sam.parameters():  # a file's tensors lie anywhere in memory, and some kernels round by where
        parameter.data = parameter.data.clone()
    return sam.requires_grad_(True)


def pixel_statistics(name: str) -> Statistics:
    """Mean and standard deviation of pixels from 0 to 1, from the student's preprocessor_config.json; 0.5 without one.

    Raises:
        ShardError: the file is no JSON.
        ValueError: it says something else.
    """
    from transformers.utils.hub import cached_file

    with quiet(), one_line(name, ALLOWED, "student"):
        path = cached_file(name, PREPROCESSOR, **MAY_BE_MISSING)
    if path is None:
        return HALVES
    try:
        content = read_json(Path(path), f"{ALLOWED}, with a file that says {' and '.join(KEYS)}")
        (a, b, c), (d, e, f) = (content.get(key, half) for key, half in zip(KEYS, HALVES, strict=True))
        mean, std = (float(a), float(b), float(c)), (float(d), float(e), float(f))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not say {' and '.join(KEYS)} in three numbers each ({error})") from None
    if not min(std) > 0:
        raise ValueError(f"{path} has {KEYS[1]} {list(std)}; each has to be more than 0")
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


def save_student(
    student: Sam3Student, folder: Path, *, source: str, memory: tuple[MemoryConfig, int, int] | None = None
) -> Iterator[str]:
    """Write all of a student into a folder of transformers' layout, which is a student again.

    Args:
        student: on the CPU.
        folder: takes it.
        source: id or folder whose tokenizer goes with it.
        memory: the sizes of its memory, if it has one: the most frames, and the cells of each.

    Yields:
        A line for each thing written: its name and what it is.
    """
    from transformers import AutoTokenizer

    with quiet(), one_line(source, ALLOWED, "tokenizer"):
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        student.sam.save_pretrained(folder)
    yield "model.safetensors, config.json: Sam3Model, and its tokenizer"
    mean, std = ((value.flatten() / 255).tolist() for value in (student.pixel_mean, student.pixel_std))
    publish_json(
        folder / PREPROCESSOR,
        {"image_processor_type": "Sam3ImageProcessor", **dict(zip(KEYS, (mean, std), strict=True))},
    )
    yield f"{PREPROCESSOR}: the statistics of its pixels"
    more = {name: value.contiguous() for name, value in student.state_dict().items() if lies_in(name, MEMORY_PARTS)}
    if more:
        safetensors.torch.save_file(more, folder / WEIGHTS)
        parts = ", ".join(sorted({name.split(".")[0] for name in more}))
        yield f"{WEIGHTS}: {parts} (model/memory.py), which Sam3Model has not"
    if memory is not None:
        config, num_frames, num_cells = memory
        sizes = {field.name: getattr(config, field.name) for field in fields(MemoryConfig)}
        publish_json(folder / SIZES, {**sizes, "num_frames": num_frames, "num_cells": num_cells})
        yield f"{SIZES}: the sizes of the memory"


def load_student(folder: Path, image_size: int) -> Sam3Student:
    """Load what `save_student` wrote, to be used.

    Raises:
        ValueError: it cannot be loaded.
    """
    student = Sam3Student(load_sam3(str(folder), image_size), statistics=pixel_statistics(str(folder)))
    more = read_more(str(folder))
    if any(lies_in(name, ("iou_head",)) for name in more):
        student.iou_head = IoUHead(student.width)
    if (folder / SIZES).is_file():
        sizes = read_json(folder / SIZES, "take the folder whole")
        places = {name: sizes.pop(name) for name in ("num_frames", "num_cells")}
        student.memory_resampler = MemoryResampler(student.width, MemoryConfig(**sizes), **places)
        student.memory_attention = MemoryAttention(student.width, MemoryConfig(**sizes))
    parts = {name: value for name, value in student.state_dict().items() if lies_in(name, MEMORY_PARTS)}
    wrong = [f"{name} is missing" for name in parts if name not in more]
    wrong += [f"{name} has no place" for name in more if name not in parts]
    if wrong:
        raise ValueError(f"{folder / WEIGHTS} does not fit {SIZES}: {wrong[0]}; take the folder whole")
    student.load_state_dict(more, strict=False)
    return student.eval()


def read_more(name: str) -> dict[str, Tensor]:
    """What stands beside a student's Sam3Model in its folder; nothing of an id on the Hub."""
    path = Path(name) / WEIGHTS
    found: dict[str, Tensor] = safetensors.torch.load_file(path) if path.is_file() else {}
    return found
