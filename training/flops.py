"""Arithmetic of a training step, and the share of the hardware's peak that it makes use of (MFU)."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.batch.batch import Batch

# Dense bf16 (V100: f16) peak in FLOP/s by a part of the device's name, from the vendor's data sheets; first match wins.
PEAK_FLOPS_PER_SECOND = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L4": 1.21e14,
    "A10": 1.25e14,
    "V100": 1.25e14,
}


def peak_flops_per_second(device: torch.device) -> float | None:
    """The device's peak; None for a CPU or a GPU that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS_PER_SECOND.items() if part in name), None)


@torch.no_grad()
def forward_flops_per_clip(objective: nn.Module, batch: Batch) -> float:
    """Count the matrix products of a forward pass of one sample, FLOP = 2 * multiply-adds (attention included)."""
    with FlopCounterMode(display=False) as counter:
        objective.forward(dict(batch.slice(slice(1))))  # itself, and not what torch.compile made of it
    return float(counter.get_total_flops())


def model_flops_utilisation(forward_flops_per_second: float, peak: float, num_devices: int = 1) -> float:
    """Share of the peak: a training step costs three forward passes (Chowdhery et al. 2022, PaLM, appendix B)."""
    return forward_flops_per_second * 3 / (peak * num_devices)
