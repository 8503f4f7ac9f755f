"""Rows that several ranks have computed, put together."""

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.world import World


def gather_rows(rows: Tensor, world: World, device: torch.device) -> Tensor:
    """The rows of all ranks, those of rank 0 first, on the CPU of every rank.

    Args:
        rows: `[n, ...]`; n may differ between ranks, the rest may not.
        world: the ranks.
        device: where the ranks exchange tensors.
    """
    if world.size == 1:
        return rows
    rows = rows.to(device)
    count = torch.tensor([len(rows)], device=device)
    counts = [torch.zeros_like(count) for _ in range(world.size)]
    dist.all_gather(counts, count)
    longest = max(int(other.item()) for other in counts)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.zeros_like(padded) for _ in range(world.size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(other.item())] for part, other in zip(parts, counts, strict=True)]).cpu()


def sum_ranks(tensor: Tensor, world: World) -> Tensor:
    """The sum of a tensor over all ranks, on all of them; in place where there are several."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor
