"""A card's peak is found by its whole name, or not at all."""

import pytest
import torch

from training.peaks import peaks_of, peaks_of_model


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla T4", 65),
    ],
)
def test_each_model_has_a_peak_of_its_own(name: str, tflops: float) -> None:
    peaks = peaks_of_model(name)
    assert peaks is not None
    assert peaks.flops_per_second == pytest.approx(tflops * 1e12)


def test_cards_of_like_names_differ_in_their_memory_too() -> None:
    rates = [peaks_of_model(f"NVIDIA H100 {kind}") for kind in ("80GB HBM3", "PCIe", "NVL")]
    assert len({rate.bytes_per_second for rate in rates if rate}) == 3


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA L40SX", "NVIDIA H1000", "NVIDIA", ""])
def test_a_card_that_is_not_in_the_table_has_none(name: str) -> None:
    assert peaks_of_model(name) is None


def test_a_cpu_has_none() -> None:
    assert peaks_of(torch.device("cpu")) is None
