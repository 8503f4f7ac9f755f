"""Who waits for whom between loader and GPU, shown on a CPU that plays one: no wait is missing, and none too many."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.accelerator import Accelerator
from pipeline.batch.slab import SlabRing
from pipeline.device import DeviceLoader
from pipeline.mixed import MixedLoader
from pipeline.twin import POISON, Twin
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.twins import (
    NeverDone,
    NoHostWait,
    NoKeep,
    NoQuestion,
    NoSynchronize,
    NoWait,
    assert_equal,
    device_loader,
    two_epochs,
    until_ready,
)
from training.clock import StepClock


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data"), num_samples=22)


@pytest.mark.parametrize("pin", [None, True, False])
@pytest.mark.parametrize("twin", [Twin, NeverDone])
def test_batches_of_a_late_device_are_those_of_a_cpu_to_the_bit(
    dataset: ShardDataset, twin: Callable[[], Twin], pin: bool | None
) -> None:
    expected = two_epochs(device_loader(dataset, "cpu"))
    played = twin()
    with_gpu = device_loader(dataset, played, pin_memory=pin)
    assert_equal(two_epochs(with_gpu), expected)
    assert with_gpu.stats().num_slabs <= 4, "slabs come back in time"
    played.check()


@pytest.mark.parametrize(
    ("twin", "said"),
    [
        (NoWait, "^index"),  # the first field that is not what it is on a CPU
        (NoKeep, "freed without `keep`"),
        (NoQuestion, "while a copy of it may be under way"),
        (NoHostWait, "while a copy of it may be under way"),
    ],
)
def test_a_missing_wait_is_seen(dataset: ShardDataset, twin: Callable[[], Twin], said: str) -> None:
    expected = two_epochs(device_loader(dataset, "cpu"))
    with pytest.raises((AssertionError, RuntimeError), match=said):
        assert_equal(two_epochs(device_loader(dataset, twin())), expected)


@pytest.mark.parametrize(("twin", "seen"), [(Twin, False), (NoQuestion, True)])
def test_a_consumer_who_leaves_waits_for_what_is_under_way(
    dataset: ShardDataset, twin: Callable[[], Twin], seen: bool
) -> None:
    """Its slabs are read again by the copies, and filled again by the next iteration."""
    played = twin()
    loader = device_loader(dataset, played)
    errors = []
    for _ in range(4):
        try:
            for _batch in loader:
                until_ready(loader.loader)
                break
        except RuntimeError as error:
            errors.append(str(error))
    assert bool(errors) == seen


def test_times_are_read_behind_a_wait_for_the_device() -> None:
    for twin, seen in ((Twin(), False), (NoSynchronize(), True)):
        clock = StepClock(twin)
        with clock.stage("data"), clock.stage("forward"):
            pass
        if seen:
            with pytest.raises(RuntimeError, match="not known before `synchronize`"):
                clock.seconds()
            continue
        assert clock.seconds()["forward"] >= 0


def test_copies_are_made_late_and_read_what_is_there_by_then() -> None:
    twin, memory = Twin(), mmap.mmap(-1, 4096)
    address = twin.lock(memory)
    source = torch.from_numpy(np.frombuffer(memory, np.uint8))
    (first, second), mark = twin.copy([source[:8], source[8:16].view(torch.float16)])
    beside = torch.arange(3)
    (third,), other = twin.copy([beside])
    source[:16] = 7
    beside += 1
    assert not mark.done()
    assert first.tolist() == [POISON] * 8
    assert second.isnan().all()
    assert third.tolist() == [-1, -1, -1]
    twin.wait_for(other)
    assert third.tolist() == [0, 1, 2], "memory that is not page-locked is read when the copy begins"
    assert not mark.done(), "one mark says nothing of another"
    twin.wait_for(mark)
    assert mark.done()
    assert first.tolist() == [7] * 8
    twin.unlock(address)
    for tensor in (first, second, third):
        twin.keep(tensor)
    del first, second, third, tensor
    twin.check()


def test_memory_that_is_unlocked_under_a_copy_is_seen() -> None:
    twin, memory = Twin(), mmap.mmap(-1, 4096)
    address = twin.lock(memory)
    twin.copy([torch.from_numpy(np.frombuffer(memory, np.uint8))])
    twin.unlock(address)
    with pytest.raises(RuntimeError, match="unlocked while a copy of it was under way"):
        twin.check()


def test_a_slab_that_comes_back_is_poisoned() -> None:
    ring = SlabRing(2, Twin())
    lease = ring.take(4096, grow=False)
    assert lease is not None
    lease[:] = 1
    del lease
    again = ring.take(4096, grow=False)
    assert again is not None
    assert (again == POISON).all()


@given(st.integers(0, 7), st.booleans(), st.sampled_from([Twin, NeverDone]))
def test_a_consumer_may_leave_and_come_back_and_resume(
    dataset: ShardDataset, taken: int, mixed: bool, twin: Callable[[], Twin]
) -> None:
    """Whatever the loader has read ahead for it, the consumer's position is that of a consumer on a CPU."""

    def make(accelerator: Accelerator | str) -> DeviceLoader:
        loader = device_loader(dataset, accelerator)
        return DeviceLoader(MixedLoader({"a": loader.loader}, {"a": 1.0}), accelerator) if mixed else loader

    def indices(loader: DeviceLoader, states: list[dict[str, Any]]) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < 10:
            for batch in loader:
                found.append(batch["index"].tolist())
                states.append(loader.state_dict())
                if len(found) == taken:
                    break
        return found

    on_cpu: list[dict[str, Any]] = []
    on_twin: list[dict[str, Any]] = []
    assert indices(make("cpu"), on_cpu) == indices(make(twin()), on_twin)
    assert on_cpu == on_twin
    resumed = [make(accelerator) for accelerator in ("cpu", twin())]
    for loader in resumed:
        loader.load_state_dict(on_cpu[taken])
    one, other = ([batch["index"].tolist() for batch in loader] for loader in resumed)
    assert one == other
