"""How long a run trains, and what it leaves behind."""

from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop, apart from what is trained on what.

    Attributes:
        steps: optimiser steps of the whole run, one global batch each.
        seed: draws the initial weights.
        device: "auto" is the GPU where there is one, otherwise the CPU; or a torch device.
        precision: "bf16" runs the forward pass under bf16 autocast with fp32 weights; "auto" does so on a GPU only.
        chunk_size: clips of a rank's batch that go forward and backward at once; the gradients of the chunks add up
            to those of the batch. None takes the batch whole; smaller chunks need less memory.
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints; the last step always leaves one.
        keep_checkpoints: how many of the newest checkpoints are kept.
    """

    steps: int = 1000
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    chunk_size: int | None = None
    log_every: int = 10
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; it has to be at least 1")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size={self.chunk_size}; it has to be at least 1, or null for the whole batch")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision={self.precision!r}; allowed are 'auto', 'fp32' and 'bf16'")

    def torch_device(self, local_rank: int = 0) -> torch.device:
        """The device this process trains on."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def uses_bf16(self, device: torch.device) -> bool:
        """Whether the forward pass runs under bf16 autocast."""
        return self.precision == "bf16" or (self.precision == "auto" and device.type == "cuda")
