"""A foveated VLM of random weights, small enough for tests, and the folders that it is loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.foveated import FoveatedConfig, FoveatedVLM

SIZE, VOCABULARY, END = 28, 64, 2
DINO: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": SIZE,
    "patch_size": 14,
    "mlp_ratio": 2,
}
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": END,
}


def tiny_dino(seed: int = 0, **changes: Any) -> nn.Module:
    """Weights five times as large as usual, so that what is looked at matters."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    dino: nn.Module = Dinov2Model(Dinov2Config(**DINO | {"initializer_range": 0.1} | changes))
    return dino


def tiny_llm(seed: int = 1, **changes: Any) -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    llm: nn.Module = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA | {"initializer_range": 0.1} | changes))
    return llm


def tiny_vlm(seed: int = 2, **changes: Any) -> FoveatedVLM:
    settings: dict[str, Any] = {"query_dim": 24, "visual_scale": "auto"}
    dino, llm = tiny_dino(), tiny_llm()
    torch.manual_seed(seed)
    return FoveatedVLM(dino, llm, FoveatedConfig(**settings | changes))


def save_parts(folder: Path) -> tuple[Path, Path]:
    """The folders of a DINOv2 and of a language model, as `save_pretrained` makes them."""
    dino: Any = tiny_dino()
    llm: Any = tiny_llm()
    dino.save_pretrained(folder / "dinov2")
    llm.save_pretrained(folder / "llm")
    return folder / "dinov2", folder / "llm"


def random_batch(lengths: list[tuple[int, int]], seed: int = 3, extra: tuple[int, int] = (0, 0)) -> dict[str, Tensor]:
    """Videos of so many frames and tokens each, padded to the longest, and by `extra` more.

    A video's own frames and tokens do not depend on the others: `random_batch([a, b])[0]` is `random_batch([a])[0]`.
    """
    most_frames, most_tokens = (
        max(column) + more for column, more in zip(zip(*lengths, strict=True), extra, strict=True)
    )
    frames = torch.zeros(len(lengths), most_frames, 3, SIZE, SIZE, dtype=torch.uint8)
    tokens, answer = (torch.zeros(len(lengths), most_tokens, dtype=dtype) for dtype in (torch.int32, torch.uint8))
    for row, (num_frames, num_tokens) in enumerate(lengths):
        generator = torch.Generator().manual_seed(1000 * seed + row)
        frames[row, :num_frames] = torch.randint(0, 256, (num_frames, 3, SIZE, SIZE), generator=generator)
        tokens[row, :num_tokens] = torch.randint(3, VOCABULARY, (num_tokens,), generator=generator)
        answer[row, num_tokens // 2 : num_tokens] = 1
    return {
        "frames": frames,
        "frames_length": torch.tensor([length for length, _ in lengths]),
        "tokens": tokens,
        "tokens_length": torch.tensor([length for _, length in lengths]),
        "answer": answer,
        "index": torch.arange(len(lengths)),
        "valid": torch.ones(len(lengths), dtype=torch.bool),
    }


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch, without padding."""
    num_frames, num_tokens = int(batch["frames_length"][row]), int(batch["tokens_length"][row])
    own = {name: value[row : row + 1] for name, value in batch.items()}
    own["frames"] = own["frames"][:, :num_frames]
    return own | {name: own[name][:, :num_tokens] for name in ("tokens", "answer")}
