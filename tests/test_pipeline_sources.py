"""All sources of batches have one protocol, under torch's own loaders and wrappers too; reading ahead never stops."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.read.decoders import Outputs
from pipeline.reads import Reads
from pipeline.source import BatchSource
from pipeline.stream import StreamLoader
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.lengths import SIZE, make_lengths, num_frames
from tests.marks import reads_with_stock_webdataset
from tests.mixed_ranks import make_mix
from tests.test_pipeline_failures import reader_threads


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("set"))


def make_source(dataset: ShardDataset, kind: str) -> BatchSource:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4))
    sources: dict[str, BatchSource] = {
        "shards": loader,
        "mixed": MixedLoader({"a": loader}, {"a": 1.0}),
        "device": DeviceLoader(loader, "cpu"),
        "device of mixed": DeviceLoader(MixedLoader({"a": loader}, {"a": 1.0}), "cpu"),
    }
    return sources[kind]


def indices(source: BatchSource) -> list[list[int]]:
    return [batch["index"].tolist() for batch in source]


@pytest.mark.parametrize("kind", ["shards", "mixed", "device", "device of mixed"])
def test_every_source_counts_resumes_and_closes(dataset: ShardDataset, kind: str) -> None:
    source = make_source(dataset, kind)
    assert (len(source), source.num_batches(7), source.epoch) == (5, 5, 0)
    first = next(iter(source))["index"].tolist()
    state = json.loads(json.dumps(source.state_dict()))
    rest = indices(source)
    assert source.epoch == 1
    source.close()
    assert not reader_threads()
    second = indices(source)
    resumed = make_source(dataset, kind)
    resumed.load_state_dict(state)
    assert indices(resumed) == rest
    assert indices(resumed) == second
    assert len({tuple(rows) for rows in [first, *rest]}) == 5
    assert source.stats().num_batches == 10
    source.load_state_dict(state)  # after it has read ahead into another epoch
    assert indices(source) == rest


@reads_with_stock_webdataset
def test_a_stream_has_the_same_protocol_and_says_what_it_cannot_do(dataset: ShardDataset) -> None:
    source: BatchSource = StreamLoader([str(dataset.tar_path(0))], 4)
    assert [len(batch) for batch in (rows for _ in range(2) for rows in indices(source))] == [4, 2, 4, 2]
    assert source.epoch == 2
    stats = source.stats()
    assert (stats.num_batches, stats.num_samples, stats.reader) == (4, 12, "webdataset")
    members = sum(4096 + dataset.schema[name].num_bytes for name in ("clip", "target"))  # with their headers
    assert stats.num_bytes == 12 * members
    with pytest.raises(TypeError, match="reelshard index"):
        len(source)
    with pytest.raises(ValueError, match="reelshard index"):
        source.num_batches(0)
    for call in (source.state_dict, lambda: source.load_state_dict({})):
        with pytest.raises(ValueError, match=r"cannot resume.*reelshard index"):
            call()
    next(iter(source))
    source.close()
    (batch, *_) = DeviceLoader(source, "cpu", normalize={"clip": ((0.5,) * 3, (0.5,) * 3)})
    assert batch["clip"].dtype == torch.float32


def test_torchs_stateful_loader_resumes_it_in_three_lines(dataset: ShardDataset) -> None:
    def make() -> StatefulDataLoader[Batch]:
        return StatefulDataLoader(ShardLoader(dataset, LoaderConfig(global_batch_size=4)), batch_size=None)

    loader = make()
    batches = iter(loader)
    next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    expected = [batch["index"].tolist() for batch in batches]

    resumed = make()
    resumed.load_state_dict(state)
    assert [batch["index"].tolist() for batch in resumed] == expected


def test_torchs_own_loader_passes_batches_of_any_source_through(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4))
    assert [type(batch) for batch in DataLoader(loader, batch_size=None)] == [Batch] * 5
    assert loader.state_dict()["epoch"] == 1


class Counting:
    """A decoder that notices when more samples were read than an epoch has."""

    outputs: ClassVar[Outputs] = {"read": ("|b1", ())}

    def __init__(self, num_samples: int) -> None:
        self.left, self.beyond, self._lock = num_samples, threading.Event(), threading.Lock()

    def __call__(self, piece: memoryview, out: Mapping[str, NDArray[Any]], key: int) -> None:
        with self._lock:
            self.left -= 1
            if self.left < 0:
                self.beyond.set()


def counting_loader(dataset: ShardDataset, *, held_out: bool = False) -> tuple[ShardLoader, Counting]:
    counting = Counting(len(dataset))
    reads = Reads(fields=("json",), decoders={"json": counting}, held_out=held_out)
    return ShardLoader(dataset, LoaderConfig(global_batch_size=4, slabs=3), reads=reads), counting


@pytest.mark.parametrize("mixed", [False, True])
def test_reading_ahead_goes_on_beyond_the_end_of_an_epoch(dataset: ShardDataset, mixed: bool) -> None:
    loader, counting = counting_loader(dataset)
    source = MixedLoader({"a": loader}, {"a": 1.0}) if mixed else loader
    first = indices(source)
    assert counting.beyond.wait(60)  # nobody has asked for the next epoch
    assert loader.stats().num_batches == 5
    threads = threading.enumerate()
    second = indices(source)
    assert set(threads) <= set(threading.enumerate())  # the same went on
    other = ShardLoader(dataset, LoaderConfig(global_batch_size=4))
    assert [first, second] == [indices(other), indices(other)]
    source.close()
    del other
    assert not reader_threads()


@pytest.mark.parametrize("by", ["close", "collection"])
def test_threads_that_read_ahead_end_with_their_loader(dataset: ShardDataset, by: str) -> None:
    loader, _ = counting_loader(dataset)
    indices(loader)
    assert reader_threads()
    if by == "close":
        loader.close()
    else:
        del loader
    assert not reader_threads()


def test_nothing_is_read_beyond_a_pass_over_held_out_data(dataset: ShardDataset) -> None:
    loader, counting = counting_loader(dataset, held_out=True)
    indices(loader)
    assert counting.left == 0
    assert not reader_threads()


@pytest.mark.slow
def test_two_ranks_train_on_a_mix_under_stock_ddp_whatever_a_rank_has_to_read(tmp_path: Path) -> None:
    video = make_lengths(tmp_path / "video", num_samples=9)  # the last batch leaves rank 1 nothing but padding
    text = make_lengths(tmp_path / "text", num_samples=5)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    paths = [str(video.directory), str(text.directory)]
    result = subprocess.run(
        [*command, "-m", "tests.mixed_ranks", *paths], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    ranks = sorted((json.loads(line) for line in result.stdout.splitlines()), key=lambda rank: rank["rank"])
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["state"] == ranks[1]["state"]
    mix = make_mix(video.directory, text.directory, World())
    whole = [(batch.source, batch["index"].tolist()) for _ in range(2) for batch in mix]
    padding = 0
    for (source, index), one, two in zip(whole, ranks[0]["batches"], ranks[1]["batches"], strict=True):
        assert one[0] == two[0] == source
        assert one[1] + two[1] == index
        for rows, valid, shape in (one[1:], two[1:]):
            assert (shape is None) == (source == "text")
            if shape is not None:
                length = max((num_frames(int(video.key(row))) for row in rows if row >= 0), default=0)
                assert shape == [1, length, SIZE, SIZE, 3]
                padding += valid == 0
    assert padding == 2  # once an epoch
    assert [source for source, _ in whole].count("text") == 4
