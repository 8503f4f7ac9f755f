"""What a training step has to compute and to move, counted operation by operation, against what a device can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.accelerator import Accelerator
from pipeline.batch.batch import Batch
from training.peaks import Peaks
from training.scores import score_batch

Kind = Literal["products", "attention", "between", "optimiser"]
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
BYTES_OF_ADAMW = 4 * (7 + 3)  # a parameter: read it, its gradient and moments, write all but the gradient; clip that


@dataclass(frozen=True, kw_only=True)
class Work:
    """Arithmetic and traffic of a step, by what they are for; a multiply-add is two operations.

    Attributes:
        flops: of matrix products and of attention, forward and backward.
        num_bytes: read and written by operations one after the other, as without a compiler; what lies between the
            products (norms, activations, sums, copies) is what a compiler fuses.
    """

    flops: Mapping[Kind, float]
    num_bytes: Mapping[Kind, float]

    def least_seconds(self, peaks: Peaks) -> dict[Kind, float]:
        """The time below which nothing gets, for each kind: the longer one of arithmetic and traffic."""
        return {
            kind: max(
                self.flops.get(kind, 0) / peaks.flops_per_second, self.num_bytes.get(kind, 0) / peaks.bytes_per_second
            )
            for kind in self.num_bytes
        }


def count_step(
    objective: nn.Module, batch: Batch, num_samples: int, autocast: Callable[[], torch.autocast]
) -> tuple[Work, float]:
    """Count the work of a step on `num_samples`, and the operations of a forward pass of one sample.

    Passes of one and of two samples tell what each adds, and what a step costs besides. Attention is counted as
    products and a softmax for the arithmetic, and as the kernel it is for the traffic.

    Args:
        objective: with its parameters on the device; it is not compiled.
        batch: two samples at least.
        num_samples: of a step.
        autocast: the precision.
    """
    once, twice = (_bytes(objective, batch.slice(slice(count)), autocast) for count in (1, 2))
    num_bytes: dict[Kind, float] = {
        kind: once[kind] + (num_samples - 1) * max(twice[kind] - once[kind], 0) for kind in once
    }
    num_parameters = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    num_bytes["optimiser"] = BYTES_OF_ADAMW * num_parameters
    forward, (products, attention) = _flops(objective, batch.slice(slice(1)), autocast)
    flops: dict[Kind, float] = {"products": products * num_samples, "attention": attention * num_samples}
    return Work(flops=flops, num_bytes=num_bytes), forward


def _run(objective: nn.Module, batch: Batch, autocast: Callable[[], torch.autocast]) -> Tensor:
    with autocast():
        return score_batch(objective, batch).loss_sum()


def _flops(
    objective: nn.Module, batch: Batch, autocast: Callable[[], torch.autocast]
) -> tuple[float, tuple[float, float]]:
    """Operations of a forward pass; and of both passes: matrix products with weights, and attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = _run(objective, batch, autocast)
        forward = float(counter.get_total_flops())
        loss.backward()  # type: ignore[no-untyped-call]
    objective.zero_grad(set_to_none=True)
    counts = counter.get_flop_counts()["Global"]
    attention = sum(flops for op, flops in counts.items() if op.__name__ in ("bmm", "baddbmm"))
    return forward, (float(counter.get_total_flops() - attention), float(attention))


def _bytes(objective: nn.Module, batch: Batch, autocast: Callable[[], torch.autocast]) -> dict[Kind, float]:
    with _Traffic() as traffic:
        _run(objective, batch, autocast).backward()  # type: ignore[no-untyped-call]
    objective.zero_grad(set_to_none=True)
    return dict(traffic.num_bytes)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes: dict[Kind, float] = {"products": 0, "attention": 0, "between": 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        mutates = func._schema.is_mutable
        storages = {tensor.untyped_storage().data_ptr() for tensor in given}
        if not mutates and all(tensor.untyped_storage().data_ptr() in storages for tensor in made):
            return out  # a view, or nothing
        name = func.overloadpacket.__name__
        kind: Kind = "products" if name in PRODUCTS else "attention" if "attention" in name else "between"
        self.num_bytes[kind] += sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
        return out


def measure_peaks(accelerator: Accelerator, dtype: torch.dtype) -> Peaks:
    """What the device reaches in a large matrix product and in a large copy, where no data sheet is at hand."""
    device = accelerator.device
    size, num_bytes = (1024, 2**26) if device.type == "cpu" else (8192, 2**30)  # moments on either
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(4):
            begin = accelerator.stamp()
            run()
            end = accelerator.stamp()
            accelerator.synchronize()
            times.append(accelerator.seconds_between(begin, end))
        return min(times)

    return Peaks(
        flops_per_second=2 * size**3 / best(lambda: left @ right),
        bytes_per_second=2 * len(source) / best(lambda: target.copy_(source)),
        source=f"measured in {str(dtype).removeprefix('torch.')}",
    )
