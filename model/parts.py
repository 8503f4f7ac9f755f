"""Parts of a model, named by the prefixes of what lies in them: `encoder` is `encoder.norm.weight`, not `encoder2`."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """A part that learns at a rate of its own.

    Attributes:
        prefixes: of the names of its parameters.
        lr: its peak learning rate; the warm-up and the cosine, floor included, are those of the run, scaled to it.
        scale: in the place of `lr`: its rate is this many times that of the run.
    """

    prefixes: tuple[str, ...]
    lr: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.lr is not None and self.scale != 1.0:
            raise ValueError(
                f"lr={self.lr} and scale={self.scale}; a group has a rate of its own or a share of another"
            )
        for name, value in (("lr", self.lr), ("scale", self.scale)):
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} of a parameter group; it has to be finite and not negative")

    def scale_of(self, lr: float) -> float:
        """Its rate in multiples of the run's, whose peak is `lr`."""
        return self.scale if self.lr is None else self.lr / lr


def lies_in(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a parameter, a buffer or a module of this name belongs to one of the parts."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Names weights: xxh3-128 of their names, dtypes, shapes and bytes, whatever their order and device."""
    digest = xxhash.xxh3_128()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
