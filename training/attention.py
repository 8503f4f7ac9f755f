"""Which of torch's attention kernels a card runs fastest, by measurement on the longest attention of a step."""

import contextlib
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pipeline.accelerator import Accelerator
from pipeline.batch.batch import Batch

log = logging.getLogger(__name__)

ON_GPU = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
NUM_RUNS = 5
MAX_ELEMENTS = 2**26  # of a query in a measurement: 128 MiB in bf16


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """A call of scaled dot-product attention.

    Attributes:
        query: `[B, heads, L, d]`.
        key: `[B, heads, L', d]`.
        dtype: of both.
        causal: whether a query sees only what is in front of it.
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    dtype: torch.dtype
    causal: bool = False

    @property
    def flops(self) -> int:
        """Of a forward pass."""
        return 4 * math.prod(self.query) * self.key[-2]


class _Calls(TorchFunctionMode):
    """Notes the calls of scaled dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[AttentionShape] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key = args[0], args[1]
            if (kwargs or {}).get("attn_mask") is None and len(args) < 4:
                causal = bool((kwargs or {}).get("is_causal", False))
                shape = AttentionShape(query=tuple(query.shape), key=tuple(key.shape), dtype=query.dtype, causal=causal)
                self.shapes.append(shape)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def longest_attention(objective: nn.Module, batch: Batch, num_samples: int) -> AttentionShape | None:
    """The attention without a mask that costs most in a step on `num_samples`; None where there is none.

    A forward pass of one sample tells, in the precision around the call; the attention of more has more rows.
    """
    with _Calls() as calls:
        objective.forward(dict(batch.slice(slice(1))))  # itself, and not what torch.compile made of it
    if not calls.shapes:
        return None
    found = max(calls.shapes, key=lambda shape: shape.flops)
    rows = max(1, min(num_samples, MAX_ELEMENTS // math.prod(found.query)))
    return AttentionShape(
        query=(found.query[0] * rows, *found.query[1:]),
        key=(found.key[0] * rows, *found.key[1:]),
        dtype=found.dtype,
        causal=found.causal,
    )


def measure_backends(
    shape: AttentionShape, accelerator: Accelerator, backends: Sequence[SDPBackend]
) -> Mapping[SDPBackend, float]:
    """Seconds of a pass forward and backward, of each backend that can do it; fastest first."""
    found: dict[SDPBackend, list[float]] = {}
    for number in range(NUM_RUNS + 1):  # in turn; the first warms up
        for backend in [backend for backend in backends if number == 0 or backend in found]:
            with contextlib.suppress(RuntimeError):  # "No available kernel": not for this shape, dtype or card
                seconds = _run(shape, accelerator, backend)
                found.setdefault(backend, []).extend([seconds] if number else [])
    medians = {backend: statistics.median(times) for backend, times in found.items() if times}
    return dict(sorted(medians.items(), key=lambda item: item[1]))


def _run(shape: AttentionShape, accelerator: Accelerator, backend: SDPBackend) -> float:
    """Seconds of one pass forward and backward; the generator of the run is left alone."""
    device = accelerator.device
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(size, dtype=shape.dtype, device=device, generator=generator).requires_grad_()
        for size in (shape.query, shape.key, shape.key)
    )
    with sdpa_kernel(backend):
        begin = accelerator.stamp()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=shape.causal)
        out.backward(out.detach())  # type: ignore[no-untyped-call]
        end = accelerator.stamp()
    accelerator.synchronize()
    return accelerator.seconds_between(begin, end)


class FastestAttention:
    """The order in which torch tries its attention kernels: by their speed, measured once, where there are several."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Nothing is measured yet; on a CPU, which has one kernel, nothing ever is."""
        self._accelerator = accelerator
        self._backends = ON_GPU if accelerator.device.type == "cuda" else ()
        self._order: list[SDPBackend] | None = None

    def choose(self, objective: nn.Module, batch: Batch, num_samples: int) -> None:
        """Measure on the longest attention of a step on `num_samples`, once; in the precision around the call."""
        if self._order is not None or not self._backends:
            return
        self._order = []
        shape = longest_attention(objective, batch, num_samples)
        if shape is None:
            return
        seconds = measure_backends(shape, self._accelerator, self._backends)
        self._order = [*seconds, *(backend for backend in self._backends if backend not in seconds), SDPBackend.MATH]
        times = ", ".join(f"{backend.name.lower()} {1e3 * time:.2f} ms" for backend, time in seconds.items())
        log.info(
            "attention of %s on %s: %s", list(shape.query), list(shape.key), times or "no kernel but plain products"
        )

    def used(self) -> contextlib.AbstractContextManager[object]:
        """The order that was measured, for all attention within; torch's own before that and on a CPU."""
        return sdpa_kernel(self._order, set_priority=True) if self._order else contextlib.nullcontext()
