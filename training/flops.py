"""Arithmetic of a training step, and the share of the hardware's peak that it makes use of (MFU)."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.batch.batch import Batch


@torch.no_grad()
def forward_flops_per_clip(objective: nn.Module, batch: Batch) -> float:
    """Count the matrix products of a forward pass of one sample, FLOP = 2 * multiply-adds (attention included)."""
    with FlopCounterMode(display=False) as counter:
        objective.forward(dict(batch.slice(slice(1))))  # itself, and not what torch.compile made of it
    return float(counter.get_total_flops())


def model_flops_utilisation(forward_flops_per_second: float, peak: float, num_devices: int = 1) -> float:
    """Share of the peak: a training step costs three forward passes (Chowdhery et al. 2022, PaLM, appendix B)."""
    return forward_flops_per_second * 3 / (peak * num_devices)
