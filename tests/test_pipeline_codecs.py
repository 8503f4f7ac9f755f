"""Batches of fields that codecs have stored: the same tensors, whoever decodes them, reads them or draws from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.accelerator import accelerator_of
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.order.draws import TubeMask
from pipeline.read.decode import WAYS, decode_into
from pipeline.reads import Reads
from pipeline.stream import StreamLoader
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from shards.format.schema import Field
from tests.datasets import POSITIONS, make_dataset
from tests.marks import reads_with_stock_webdataset
from tests.object_store import http_files
from tests.remote_sets import epoch_of, load, open_cached
from tests.twins import assert_equal, device_loader, two_epochs

CODEC = {"clip": "yuv420", "target": "int8"}
GATHER = {"clip": "visible", "target": "masked"}


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("coded"), codec=CODEC)


@pytest.fixture(scope="module")
def decoded(coded: ShardDataset, tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    """A raw set of exactly what the codecs have left of the samples."""
    from shards.format.manifest import Manifest
    from shards.writer import ShardWriter

    folder = tmp_path_factory.mktemp("decoded")
    schema = coded.schema.with_codecs({})
    raw = type(schema)(tuple(Field.from_json({k: v for k, v in f.to_json().items() if k != "codec"}) for f in schema))
    infos, first = [], 0
    for info in coded.manifest.shards:
        with ShardWriter(folder / info.name, raw) as writer:
            for number in range(first, first + info.num_samples):
                writer.write(coded.key(number), coded[number])
        infos.append(writer.info)
        first += info.num_samples
    Manifest(split="train", schema=raw, shards=tuple(infos), label_names=coded.manifest.label_names).write(folder)
    return ShardDataset.open(folder)


def epoch(dataset: ShardDataset, *, masked: bool = True, **config: Any) -> list[dict[str, torch.Tensor]]:
    reads = Reads(
        fields=("clip", "target", "label"),
        draws=(TubeMask(num_positions=POSITIONS),) if masked else (),
        gather=GATHER if masked else {},
    )
    with ShardLoader(dataset, LoaderConfig(global_batch_size=3, drop_last=False, **config), reads=reads) as loader:
        return [{name: tensor.clone() for name, tensor in batch.items()} for batch in loader]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("reader", ["mmap", "pread", "direct"])
@pytest.mark.parametrize("verify", ["never", "always"])
def test_every_reader_gives_what_a_raw_set_of_the_decoded_samples_gives(
    coded: ShardDataset, decoded: ShardDataset, reader: str, masked: bool, verify: str
) -> None:
    assert_equal(epoch(coded, masked=masked, reader=reader, verify=verify), epoch(decoded, masked=masked))


@pytest.mark.parametrize("masked", [True, False])
def test_a_device_decodes_to_the_same_bits(coded: ShardDataset, decoded: ShardDataset, masked: bool) -> None:
    config: dict[str, Any] = {} if masked else {"gather": {}}
    on_twin = two_epochs(device_loader(coded, "twin", **config))
    assert_equal(on_twin, two_epochs(device_loader(decoded, "twin", **config)))
    assert_equal(on_twin, two_epochs(device_loader(coded, "cpu", **config)))


def test_slabs_for_a_device_hold_the_stored_bytes(coded: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=4, gather=GATHER, reader="mmap", verify="never")
    loader = ShardLoader(coded, config, TubeMask(num_positions=POSITIONS))
    for batch in loader:
        assert batch["clip"].shape[2:] == coded.schema["clip"].fixed_shape[1:]
        assert not batch.coded
    loader.leave_coded()
    for batch in loader:
        assert set(batch.coded) == {"clip", "target"}
        for name, mask in GATHER.items():
            assert batch[name].dtype == torch.uint8
            for row, number in enumerate(batch["index"].tolist()):
                whole = coded.read_stored(number, name)
                assert isinstance(whole, np.ndarray)
                assert np.array_equal(batch[name][row].numpy(), whole[batch[mask][row].numpy()])
    kept = sum(
        coded.schema[name].num_bytes // POSITIONS * batch[mask].shape[1] for name, mask in GATHER.items()
    )  # fewer bytes are asked of storage, too
    assert loader.stats().num_bytes == kept * loader.stats().num_samples
    loader.close()


def test_sources_of_a_mix_leave_decoding_to_the_device(coded: ShardDataset, decoded: ShardDataset) -> None:
    def batches(dataset: ShardDataset, device: str) -> list[dict[str, torch.Tensor]]:
        reads = Reads(fields=("clip", "target"))
        sources = {name: ShardLoader(dataset, LoaderConfig(global_batch_size=4), reads=reads) for name in ("a", "b")}
        loader = DeviceLoader(MixedLoader(sources, {"a": 1, "b": 1}), device, normalize={"clip": IMAGENET})
        return [{name: tensor.clone() for name, tensor in batch.items()} for batch in loader]

    assert_equal(batches(coded, "twin"), batches(decoded, "cpu"))


@reads_with_stock_webdataset
def test_stock_tars_of_a_coded_set_stream_to_the_same_tensors(coded: ShardDataset) -> None:
    urls = [str(coded.tar_path(shard)) for shard in range(coded.num_shards)]
    (batch,) = StreamLoader(urls, len(coded), schema=coded.schema)
    for number in range(len(coded)):
        for name, value in coded[number].items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(batch[name][number].numpy(), value)


@pytest.mark.parametrize("device", ["cpu", "twin"])
def test_a_stopped_epoch_goes_on_with_the_same_batches(coded: ShardDataset, device: str) -> None:
    whole = two_epochs(device_loader(coded, accelerator_of(device)))
    loader = device_loader(coded, accelerator_of(device))
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    state = loader.state_dict()
    del batches
    other = device_loader(coded, accelerator_of(device))
    other.load_state_dict(state)
    rest = [{name: tensor.clone() for name, tensor in batch.items()} for batch in other]
    assert_equal(rest, whole[2 : 2 + len(rest)])
    assert len(rest) == len(whole) // 2 - 2


def test_two_ranks_read_together_what_one_reads(coded: ShardDataset) -> None:
    def indices(world: World) -> list[list[int]]:
        loader = ShardLoader(coded, LoaderConfig(global_batch_size=4, drop_last=False), world=world)
        loader.leave_coded()
        return [batch["index"].tolist() for batch in loader]

    ranks = [indices(World(rank=rank, size=2)) for rank in range(2)]
    assert [one + two for one, two in zip(*ranks, strict=True)] == indices(World())


def test_a_damaged_sample_is_left_out_and_its_row_is_zero(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, codec=CODEC)
    tar = dataset.tar_path(0)
    data = bytearray(tar.read_bytes())
    data[int(dataset.extents(0, "target").offsets[1]) + 5] ^= 1
    tar.write_bytes(data)
    for leave in (False, True):
        config = LoaderConfig(global_batch_size=5, verify="always", on_error="quarantine", max_quarantined=2)
        with ShardLoader(dataset, config) as loader:
            if leave:
                loader.leave_coded()
            batches = {int(number): (batch, row) for batch in loader for row, number in enumerate(batch["index"])}
        assert [number for number, (batch, row) in batches.items() if not batch["valid"][row]] == [1]
        batch, row = batches[1]
        assert not batch["target"][row].any()
        assert not batch["clip"][row].any()


def test_a_file_that_is_cut_is_an_error_also_where_rows_are_decoded(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, codec=CODEC)
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=2, shuffle=False, reader="mmap", verify="never"))
    batches = iter(loader)
    next(batches)
    with dataset.tar_path(2).open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(Exception, match=r"train-00002-of-00004\.tar"):
        list(batches)
    loader.close()


shapes = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))


@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_way_to_decode_gives_the_same_pixels(shape: tuple[int, int, int], seed: int) -> None:
    count, height, width = shape
    field = Field(name="clip", dtype="|u1", shape=(count, 2 * height, 2 * width, 3), layout="frames", codec="yuv420")
    stored = np.random.default_rng(seed).integers(0, 256, field.as_stored.fixed_shape, np.uint8)
    assert_all_ways(field, stored)


@given(count=st.integers(1, 5), width=st.integers(1, 40), bits=st.binary(min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_every_way_to_decode_gives_the_same_tokens(dtype: str, count: int, width: int, bits: bytes) -> None:
    field = Field(name="target", dtype=dtype, shape=(count, width), codec="int8")
    stored = np.random.default_rng(width).integers(0, 256, field.as_stored.fixed_shape, np.uint8)
    stored[:, :4] = np.frombuffer(bits, np.uint8)
    assert_all_ways(field, stored)


def assert_all_ways(field: Field, stored: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    from pipeline.coded import colours_on
    from pipeline.coded import decoded as on_device

    found = []
    for way in WAYS:
        out = np.empty(field.fixed_shape, field.dtype)
        decode_into(field, stored, out, way=way)
        found.append(out)
    with np.errstate(all="ignore"):
        expected = field.decode(stored)
    found.append(on_device(field, torch.from_numpy(stored), colours_on(torch.device("cpu"))).numpy())
    for out in found:
        assert np.array_equal(out, expected, equal_nan=expected.dtype.kind == "f")


def test_a_coded_set_elsewhere_is_read_and_copied_as_the_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore", reason="the extra 's3' is not installed")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    local = make_dataset(tmp_path / "served/set", num_samples=9, samples_per_shard=3, codec=CODEC)
    with http_files(tmp_path / "served") as server:
        elsewhere = open_cached(f"{server}/set", tmp_path / "cache")
        with load(local) as expected, load(elsewhere) as found:
            assert epoch_of(found) == epoch_of(expected)
        for name in CODEC:
            assert np.array_equal(np.asarray(elsewhere.read_stored(5, name)), np.asarray(local.read_stored(5, name)))
