"""What a card can do at most, by the whole name of its model: one letter more is another card."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Rates that nothing exceeds.

    Attributes:
        flops_per_second: of dense matrix products in bf16 (in f16 where a card has no bf16), without sparsity.
        bytes_per_second: of the card's memory.
        source: where these are from.
    """

    flops_per_second: float
    bytes_per_second: float
    source: str = "the vendor's data sheet"


# TFLOP/s and GB/s from the vendor's data sheets. Names as the driver gives them, without the vendor's in front; a slice
# of a card (MIG) has a longer name and is none of these.
_SHEETS: dict[tuple[str, ...], tuple[float, float]] = {
    ("GB200",): (2500, 8000),
    ("B200",): (2250, 8000),
    ("GH200 480GB",): (989, 4000),
    ("GH200 144G HBM3e",): (989, 4900),
    ("H200",): (989, 4800),
    ("H200 NVL",): (835, 4800),
    ("H100 80GB HBM3", "H100 SXM5 80GB", "H800"): (989, 3350),
    ("H100 NVL",): (835, 3900),
    ("H100 PCIe", "H800 PCIe"): (756, 2000),
    ("H20",): (148, 4000),
    ("A100-SXM4-80GB", "A800-SXM4-80GB"): (312, 2039),
    ("A100 80GB PCIe", "A800 80GB PCIe"): (312, 1935),
    ("A100-SXM4-40GB", "A100-PCIE-40GB"): (312, 1555),
    ("A30",): (165, 933),
    ("A40",): (149.7, 696),
    ("A10",): (125, 600),
    ("A10G",): (70, 600),
    ("L40S",): (362, 864),
    ("L40",): (181, 864),
    ("L4",): (121, 300),
    ("RTX 6000 Ada Generation",): (364, 960),
    ("RTX A6000",): (154.8, 768),
    ("GeForce RTX 4090",): (165.2, 1008),
    ("GeForce RTX 3090",): (71, 936),
    ("V100S-PCIE-32GB",): (130, 1134),
    ("V100-SXM2-16GB", "V100-SXM2-32GB", "V100-SXM3-32GB"): (125, 900),
    ("V100-PCIE-16GB", "V100-PCIE-32GB"): (112, 900),
    ("T4",): (65, 320),
}
PEAKS = {
    name: Peaks(flops_per_second=flops * 1e12, bytes_per_second=num_bytes * 1e9)
    for names, (flops, num_bytes) in _SHEETS.items()
    for name in names
}
_VENDORS = ("NVIDIA ", "Tesla ")


def peaks_of_model(name: str) -> Peaks | None:
    """The peaks of a card as its driver names it; None for one that is not in the table."""
    for vendor in _VENDORS:
        name = name.strip().removeprefix(vendor)
    return PEAKS.get(name)


def peaks_of(device: torch.device) -> Peaks | None:
    """The peaks of a GPU; None for a CPU, or a GPU that is not in the table."""
    return peaks_of_model(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
