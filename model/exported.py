"""A foveated VLM as folders that transformers reads, and the layers between its models beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from model.foveated import FoveatedVLM
from model.pretrained import one_line, quiet
from shards.format.publish import publish_json

PARTS = ("dinov2", "llm")


def save_foveated(vlm: FoveatedVLM, folder: Path, *, tokenizer: str) -> Iterator[str]:
    """Write `dinov2/` and `llm/` by `save_pretrained`, `connector.safetensors` and `foveated.json`.

    Args:
        vlm: on the CPU.
        folder: takes them.
        tokenizer: id or folder of the language model's; it is saved with it.

    Yields:
        A line for each: its name and what it is.

    Raises:
        ValueError: there is no such tokenizer.
    """
    from transformers import AutoTokenizer

    with quiet(), one_line(tokenizer, "Give chat.tokenizer, an id on the Hub or a folder", "tokenizer"):
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / "llm")
    for name in PARTS:
        part: Any = vlm.get_submodule(name)
        with quiet():
            part.save_pretrained(folder / name)
        yield f"{name}: {type(part).__name__}{' and its tokenizer' if name == 'llm' else ''}"
    between = {name: value for name, value in vlm.state_dict().items() if name.split(".")[0] not in PARTS}
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in between.items()}, folder / "connector.safetensors"
    )
    publish_json(folder / "foveated.json", {**asdict(vlm.config), "dinov2": "dinov2", "llm": "llm"})
    yield f"connector.safetensors: {', '.join(sorted(between))}"
    yield "foveated.json: how they are put together (model/foveated.py)"
