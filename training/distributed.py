"""Several processes that train as one: their group, sums over it, and a stop that all of them agree on."""

import contextlib
import gc
import signal
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.world import World

# A rank that waits longer than this for the others gives up: longer than any checkpoint or validation takes.
TIMEOUT = timedelta(minutes=30)


def use_device(device: torch.device) -> None:
    """Make a GPU the one that is meant where none is named; to be called before anything is put on it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


@contextlib.contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the other ranks, by NCCL on GPUs and gloo elsewhere; nothing to do for a single process.

    Whatever uses the group, such as a `Trainer`, must be out of reach when this ends: threads of a group that is still
    referred to outlive it, and may abort the process while the interpreter shuts down. After an error the group is left
    as it is: the other ranks may be waiting in it, and the launcher ends them.
    """
    if world.size == 1:
        yield
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        rank=world.rank,
        world_size=world.size,
        timeout=TIMEOUT,
        device_id=device if on_gpu else None,
    )
    yield
    gc.collect()  # a distributed wrapper is full of cycles
    dist.barrier(device_ids=[device.index] if on_gpu else None)
    dist.destroy_process_group()


def sum_over_ranks(tensor: Tensor, world: World) -> Tensor:
    """The sum of a tensor over all ranks, on all of them; in place where there are several."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def number_from_rank_zero(number: int, world: World, device: torch.device) -> int:
    """Rank 0's number, on all ranks."""
    if world.size == 1:
        return number
    shared = torch.tensor([number], device=device)
    dist.broadcast(shared, src=0)
    return int(shared.item())


def union_over_ranks(names: Iterable[str], world: World, device: torch.device) -> list[str]:
    """The names that any rank has, sorted, on all of them; names hold no line breaks."""
    own = sorted(set(names))
    if world.size == 1:
        return own
    text = torch.tensor(list("\n".join(own).encode()), dtype=torch.uint8, device=device)
    length = torch.tensor([len(text)], device=device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    longest = int(length.item())
    if longest == 0:
        return []
    texts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in range(world.size)]
    dist.all_gather(texts, torch.nn.functional.pad(text, (0, longest - len(text))))
    spoken = (bytes(theirs.tolist()).rstrip(b"\0").decode() for theirs in texts)
    return sorted({name for text in spoken for name in text.split("\n") if name})


class StopRequest:
    """SIGTERM, which a scheduler may send to one rank or to all, turned into a stop after the same step on all ranks.

    The ranks exchange a flag on the CPU after every step and look at it one step later, so that nobody waits for it.
    """

    def __init__(self, world: World) -> None:
        """Prepare; on every rank at the same point of the program."""
        self._world = world
        self._asked = False
        self._group = dist.new_group(backend="gloo", timeout=TIMEOUT) if world.size > 1 else None
        self._pending: tuple[dist.Work, Tensor] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM as a request for as long as this lasts; only the main thread can, elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Whether to stop now. To be called once after each step, by every rank."""
        if self._group is None:
            return self._asked
        before = self._pending
        flag = torch.tensor([float(self._asked)])
        self._pending = dist.all_reduce(flag, group=self._group, async_op=True), flag
        if before is None:
            return False
        work, flag = before
        work.wait()
        return bool(flag.item())

    def settle(self) -> None:
        """Wait for the last exchange, before the group is taken apart."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
