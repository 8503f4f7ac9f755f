"""Batches on the device: same data, normalised there, position kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.accelerator import accelerator_of
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader, _copied
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.read.decoders import JpegFrames
from pipeline.reads import Reads
from pipeline.twin import Twin
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.datasets import POSITIONS, make_dataset, tubes_sample
from tests.lengths import Places, make_lengths

GATHER = {"clip": "visible", "target": "masked"}


def device_loader(dataset: ShardDataset, device: str, dtype: torch.dtype = torch.float32) -> DeviceLoader:
    config = LoaderConfig(global_batch_size=4, gather=GATHER, fields=("clip", "target", "label"))
    accelerator = accelerator_of(device)
    loader = ShardLoader(dataset, config, TubeMask(num_positions=POSITIONS), accelerator=accelerator)
    return DeviceLoader(loader, accelerator, dtype, {"clip": IMAGENET})


def assert_right(batch: dict[str, torch.Tensor], tolerance: float) -> None:
    mean, std = (np.array(values, np.float64) for values in IMAGENET)
    for row, number in enumerate(batch["index"].tolist()):
        sample = tubes_sample(number)
        clip, target = sample["clip"], sample["target"]
        assert isinstance(clip, np.ndarray)
        assert isinstance(target, np.ndarray)
        visible, masked = batch["visible"][row].cpu().numpy(), batch["masked"][row].cpu().numpy()
        expected = (clip[visible] / 255 - mean) / std
        assert np.abs(batch["clip"][row].float().cpu().numpy() - expected).max() < tolerance
        assert np.array_equal(batch["target"][row].cpu().numpy(), target[masked])
        assert batch["label"][row] == number % 3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_on_a_cpu_batches_pass_through_and_are_normalised(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    loader = device_loader(make_dataset(tmp_path), "cpu", dtype)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    for batch in batches:
        assert batch["clip"].dtype == dtype
        assert_right(batch, tolerance)


needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
GPUS = ["twin", pytest.param("cuda", marks=needs_gpu)]


@pytest.mark.parametrize("device", GPUS)
def test_on_a_gpu_batches_arrive_right_in_order_and_are_not_overwritten(tmp_path: Path, device: str) -> None:
    dataset = make_dataset(tmp_path)
    expected = [batch["index"].tolist() for batch in device_loader(dataset, "cpu")]
    loader = device_loader(dataset, device)
    states, held = [loader.state_dict()], []
    for batch in loader:
        held.append(batch)
        states.append(loader.state_dict())
    assert [batch["index"].tolist() for batch in held] == expected
    for batch in held:
        assert batch["clip"].device.type == loader.device.type
        assert_right(batch, 1e-5)
    for step, state in enumerate(states[:-1]):
        resumed = device_loader(dataset, device)
        resumed.load_state_dict(state)
        assert [batch["index"].tolist() for batch in resumed] == expected[step:]


LENGTHS = Reads(
    fields=("features", "frames", "boxes", "tokens", "json", "label"),
    decoders={"frames": JpegFrames(16, 16), "boxes": Places()},
)


@pytest.mark.parametrize("device", ["cpu", *GPUS])
@pytest.mark.parametrize("apart", [(), ("index", "frames", "boxes"), ("label",)])
def test_the_block_of_a_batch_holds_fields_of_every_kind_wherever_it_is_copied(
    tmp_path: Path, device: str, apart: tuple[str, ...]
) -> None:
    config, accelerator = LoaderConfig(global_batch_size=6, drop_last=False), accelerator_of(device)
    for batch in ShardLoader(make_lengths(tmp_path), config, reads=LENGTHS, accelerator=accelerator):
        assert batch.layout is not None
        assert batch.memory is not None
        beside = batch.replace({name: torch.zeros_like(tensor) for name, tensor in batch.items()})
        beside.memory, beside.layout = batch.memory, batch.layout  # so that only the block can tell
        copied, blocks, mark = _copied(beside, accelerator, apart)
        accelerator.wait_for(mark)
        for block in blocks:
            accelerator.keep(block)
        mark.wait()
        assert copied.keys() == batch.keys()
        for name, tensor in batch.items():
            assert torch.equal(copied[name].cpu(), tensor), name


@pytest.mark.parametrize("device", GPUS)
def test_slabs_are_page_locked_once(tmp_path: Path, device: str) -> None:
    loader = device_loader(make_dataset(tmp_path), device)
    addresses = set()
    for _ in range(3):
        for batch in loader.loader:
            assert batch.memory is not None
            addresses.add(batch.memory.data_ptr())
            if device == "cuda":
                assert batch.memory.is_pinned()
            else:
                assert isinstance(loader.accelerator, Twin)
                assert batch.memory.data_ptr() in loader.accelerator._locked
            del batch
    assert len(addresses) == loader.loader.stats().num_slabs <= 5
