"""What loaders do for a GPU: hand batches over in time, give memory back early, lock pages as the user says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.accelerator import Host, accelerator_of
from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig
from pipeline.cuda import Cuda
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.twin import Twin, TwinMark
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.datasets import POSITIONS, make_dataset
from tests.twins import GATHER, device_loader, two_epochs, until_ready


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data"), num_samples=22)


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
    until_ready(loader.loader)
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
    with pytest.raises(ValueError, match="pin_memory is true, but batches go to no GPU: leave it out"):
        ShardLoader(dataset, config, accelerator=accelerator_of("cpu"))


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
