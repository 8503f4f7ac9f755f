"""Who waits for whom between loader and GPU, shown on a CPU that plays one: no wait is missing, and none too many."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.accelerator import Accelerator, Host, accelerator_of
from pipeline.batch.batch import Batch
from pipeline.batch.slab import SlabRing
from pipeline.config import LoaderConfig
from pipeline.cuda import Cuda
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.order.draws import TubeMask
from pipeline.source import BatchSource
from pipeline.twin import POISON, Twin, TwinMark
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.datasets import POSITIONS, make_dataset
from training.clock import StepClock

GATHER = {"clip": "visible", "target": "masked"}
NUM_SAMPLES = 22


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data"), num_samples=NUM_SAMPLES)


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
                _until_ready(loader.loader)
                break
        except RuntimeError as error:
            errors.append(str(error))
    assert bool(errors) == seen


def _until_ready(loader: BatchSource) -> None:
    assert isinstance(loader, ShardLoader)
    assert loader._iteration is not None
    for pending in loader._iteration._pending:
        for future in pending.futures:
            future.result()


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


def test_a_batch_is_handed_over_when_it_is_there_and_not_when_the_next_was_read(dataset: ShardDataset) -> None:
    log: list[str] = []

    class Noted(ShardLoader):
        def ready(self) -> bool:
            return False

        def __iter__(self) -> Any:
            for number, batch in enumerate(super().__iter__()):
                log.append(f"read {number}")
                yield batch

    config = LoaderConfig(global_batch_size=4, fields=("clip", "target"))
    for number, _batch in enumerate(DeviceLoader(Noted(dataset, config), Twin())):
        log.append(f"handed over {number}")
    assert log == [what for number in range(5) for what in (f"read {number}", f"handed over {number}")]


def test_a_batch_that_is_ready_is_sent_before_the_one_in_front_of_it_is_handed_over(dataset: ShardDataset) -> None:
    sent: list[int] = []

    class Counted(Twin):
        def copy(self, tensors: Any) -> tuple[Any, TwinMark]:
            sent.append(len(tensors))
            return super().copy(tensors)

    loader = device_loader(dataset, Counted())
    batches = iter(loader)
    next(batches)
    _until_ready(loader.loader)
    next(batches)
    assert len(sent) >= 3


def test_the_host_waits_for_no_copy_while_the_device_has_work(dataset: ShardDataset) -> None:
    waited: list[bool] = []

    class Overheard(Twin):
        def copy(self, tensors: Any) -> tuple[Any, TwinMark]:
            copies, mark = super().copy(tensors)
            wait = mark.wait
            mark.wait = lambda: (waited.append(mark.made), wait())[1]  # type: ignore[func-returns-value,method-assign]
            return copies, mark

    assert len(two_epochs(device_loader(dataset, Overheard()))) == len(waited)
    assert all(waited), "each slab went back behind a question, not a wait"


def test_slabs_are_free_again_as_soon_as_their_copy_is_over(dataset: ShardDataset) -> None:
    """Two slabs are enough, though the consumer holds all batches: what it holds is the device's."""
    loader = device_loader(dataset, Twin(), slabs=2)
    held = [*loader, *loader]
    assert loader.stats().num_slabs <= 2 < len(held)


def test_the_pixels_of_a_batch_are_dropped_when_they_are_normalised(dataset: ShardDataset) -> None:
    alive: dict[int, int] = {}

    class Weighed(Twin):
        def copy(self, tensors: Any) -> tuple[Any, TwinMark]:
            copies, mark = super().copy(tensors)
            alive.update({copy.data_ptr(): copy.nbytes for copy in copies})
            return copies, mark

        def _freed(self, address: int) -> None:
            alive.pop(address, None)
            super()._freed(address)

    class NotReady(ShardLoader):
        def ready(self) -> bool:
            return False

    config = LoaderConfig(global_batch_size=4, gather=GATHER, fields=("clip", "target"))
    twin = Weighed()
    loader = NotReady(dataset, config, TubeMask(num_positions=POSITIONS), accelerator=twin)
    for batch in DeviceLoader(loader, twin, normalize={"clip": IMAGENET}):
        pixels = batch["clip"].numel()
        assert sum(alive.values()) < batch["target"].nbytes + pixels
        del batch


def test_an_accelerator_is_the_same_one_every_time() -> None:
    """One copying stream a process: what the allocator keeps for a stream is lost to others."""
    assert accelerator_of("twin") is accelerator_of("twin")
    assert accelerator_of("cpu") is accelerator_of(torch.device("cpu"))
    assert isinstance(accelerator_of("cpu"), Host)
    twin = Twin()
    assert accelerator_of(twin) is twin
    if torch.cuda.is_available():
        assert isinstance(accelerator_of("cuda"), Cuda)
        assert accelerator_of("cuda") is accelerator_of(f"cuda:{torch.cuda.current_device()}")


def test_page_locks_without_a_gpu_are_refused_with_the_key_to_change(dataset: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=4, pin_memory=True)
    loader = ShardLoader(dataset, config, accelerator=accelerator_of("cpu"))
    with pytest.raises(RuntimeError, match=r"pin_memory is true, but there is no GPU .* leave pin_memory out"):
        next(iter(loader))


@pytest.mark.parametrize(("pin", "locked"), [(None, True), (True, True), (False, False)])
def test_pin_memory_is_what_the_user_says(dataset: ShardDataset, pin: bool | None, locked: bool) -> None:
    twin = Twin()
    loader = device_loader(dataset, twin, pin_memory=pin)
    batch: Batch = next(iter(loader))
    assert batch["valid"].all()
    assert bool(twin._locked) == locked


def test_only_the_accelerators_make_cudas_calls() -> None:
    """Streams, events, page locks and waits are told through them, so that the twin plays all there are."""
    calls = ("cuda.Stream", "cuda.stream(", "cuda.Event", "cudaHost", "cudart(", "record_stream", "cuda.synchronize")
    root = Path(__file__).parents[1]
    for folder in ("shards", "pipeline", "model", "training", "evaluation", "tools"):
        for path in (root / folder).rglob("*.py"):
            if path != root / "pipeline" / "cuda.py":
                found = [call for call in calls if call in path.read_text()]
                assert not found, path
