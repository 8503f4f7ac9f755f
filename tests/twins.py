"""Twins that skip a wait, and loaders that send batches to them."""

from __future__ import annotations

import gc
from typing import Any

import torch

from pipeline.accelerator import Accelerator, accelerator_of
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.source import BatchSource
from pipeline.twin import Twin, TwinMark
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.datasets import POSITIONS

GATHER = {"clip": "visible", "target": "masked"}


def device_loader(dataset: ShardDataset, accelerator: Accelerator | str, **config: Any) -> DeviceLoader:
    accelerator = accelerator_of(accelerator)
    settings: dict[str, Any] = {"gather": GATHER, "fields": ("clip", "target", "label"), "drop_last": False}
    mask = TubeMask(num_positions=POSITIONS)
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4, **settings | config), mask, accelerator=accelerator)
    return DeviceLoader(loader, accelerator, normalize={"clip": IMAGENET})


def two_epochs(loader: DeviceLoader) -> list[dict[str, Any]]:
    """Every batch as it was when it came, its own memory given back before the next one is asked for."""
    found = []
    for _ in range(2):
        for batch in loader:
            found.append({name: tensor.clone() for name, tensor in batch.items()})
            del batch
    gc.collect()
    return found


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(mine[name], tensor), name


def until_ready(loader: BatchSource) -> None:
    assert isinstance(loader, ShardLoader)
    assert loader._iteration is not None
    for pending in loader._iteration._pending:
        for future in pending.futures:
            future.result()


class NeverDone(Twin):
    """Copies take longer than anybody asks for."""

    def copy(self, tensors: Any) -> tuple[Any, TwinMark]:
        copies, _ = super().copy(tensors)
        mark = self._marks[-1]
        mark.done = lambda: False  # type: ignore[method-assign]
        return copies, mark


class NoWait(Twin):
    """The device does not wait for copies."""

    def wait_for(self, mark: Any) -> None:
        del mark


class NoKeep(Twin):
    """The allocator is not told who reads a copy."""

    def keep(self, tensor: torch.Tensor) -> None:
        del tensor


class NoQuestion(Twin):
    """Slabs go back without a question whether the copy is over."""

    def copy(self, tensors: Any) -> tuple[Any, TwinMark]:
        copies, mark = super().copy(tensors)
        mark.done = lambda: True  # type: ignore[method-assign]
        mark.wait = lambda: None  # type: ignore[method-assign]
        return copies, mark


class NoHostWait(NeverDone):
    """The host goes on although too many copies are under way."""

    def copy(self, tensors: Any) -> tuple[Any, TwinMark]:
        copies, mark = super().copy(tensors)
        mark.wait = lambda: None  # type: ignore[method-assign]
        return copies, mark


class NoSynchronize(Twin):
    """Times are read while kernels run."""

    def synchronize(self) -> None:
        pass
