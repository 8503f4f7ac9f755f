"""Samples of variable length: read whole and padded, or as much of them as is drawn; decoded into the batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig, Reader
from pipeline.loader import ShardLoader
from pipeline.order.windows import Window
from pipeline.read.decoders import Decoder, JpegFrames
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.packed import table_bytes
from tests.lengths import SIZE, Places, features, jpeg, make_lengths, num_frames, num_tokens, pixels, record, sample

ALL = Reads(
    fields=("features", "frames", "boxes", "tokens", "json", "label"),
    decoders={"frames": JpegFrames(SIZE, SIZE), "boxes": Places()},
)
WINDOW = Window("features", 3)
readers = pytest.mark.parametrize("reader", ["mmap", "pread", "direct"])


def drawn(name: str) -> Reads:
    """A window of features, frames and boxes alike."""
    decoders: dict[str, Decoder] = {"frames": JpegFrames(SIZE, SIZE), "boxes": Places()}
    fields = ("features", "frames", "boxes")
    return Reads(fields=fields, decoders=decoders, draws=(WINDOW,), gather=dict.fromkeys(fields, name))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_lengths(tmp_path_factory.mktemp("lengths"))


def number_of(dataset: ShardDataset, index: int) -> int:
    return int(dataset.key(index))


def assert_whole(batch: Batch, row: int, number: int) -> None:
    """A row holds sample `number`, and zeros behind; -1 for padding."""
    length = num_frames(number) if number >= 0 else 0
    assert batch["features_length"][row] == batch["frames_length"][row] == batch["boxes_length"][row] == length
    if number >= 0:
        assert np.array_equal(batch["features"][row, :length].numpy(), features(number))
        assert batch["place"][row, :length].tolist() == [[number, frame] for frame in range(length)]
        assert batch["size"][row, :length].tolist() == [len(record(number, frame)) for frame in range(length)]
        text = batch["json"][int(batch["json_offsets"][row]) : int(batch["json_offsets"][row + 1])]
        assert text.numpy().tobytes() == sample(number)["json"]
        assert batch["label"][row] == number
        for frame in range(length):
            difference = batch["frames"][row, frame].numpy().astype(int) - pixels(number, frame)
            assert np.abs(difference).max() <= 6  # JPEG
    tokens = num_tokens(number) if number >= 0 else 0
    assert batch["tokens_length"][row] == tokens
    assert batch["tokens"][row, :tokens].tolist() == [1000 * number + place for place in range(tokens)]
    for name in ("features", "frames", "place", "size", "chosen"):
        assert not batch[name][row, length:].any()
    assert not batch["tokens"][row, tokens:].any()


@readers
@pytest.mark.parametrize("verify", ["never", "always"])
def test_whole_samples_are_padded_in_the_slab_with_their_lengths(
    dataset: ShardDataset, reader: Reader, verify: str, tmp_path: Path
) -> None:
    config = LoaderConfig(global_batch_size=6, drop_last=False, reader=reader, verify=verify, slabs=2)  # type: ignore[arg-type]
    loader = ShardLoader(dataset, config, reads=ALL)
    for _ in range(2):  # slabs were used before
        seen = []
        for batch in loader:
            numbers = [number_of(dataset, index) if index >= 0 else -1 for index in batch["index"].tolist()]
            longest = max(num_frames(number) for number in numbers if number >= 0)
            assert batch["frames"].shape == (6, longest, SIZE, SIZE, 3)
            assert batch.memory is not None
            assert batch.layout is not None
            assert set(batch.layout.regions) == set(batch)  # all of it lies in the slab
            for row, number in enumerate(numbers):
                assert_whole(batch, row, number)
            seen += numbers
        assert sorted(number for number in seen if number >= 0) == list(range(23))


@readers
@pytest.mark.parametrize("verify", ["never", "always"])
@pytest.mark.parametrize("name", ["query", "context"])
def test_a_draw_reads_the_rows_and_pieces_that_it_names(
    dataset: ShardDataset, reader: Reader, verify: str, name: str, tmp_path: Path
) -> None:
    config = LoaderConfig(global_batch_size=23, reader=reader, verify=verify, slabs=2)  # type: ignore[arg-type]
    loader = ShardLoader(dataset, config, reads=drawn(name))
    for _ in range(2):
        (batch,) = loader
        assert batch["features"].shape == (23, *WINDOW.shapes[name], 3, 4)
        for row, index in enumerate(batch["index"].tolist()):
            number = number_of(dataset, index)
            for place, at in enumerate(batch[name][row].tolist()):
                got = [batch[field][row, place].numpy() for field in ("features", "frames", "place")]
                if at < 0:
                    assert num_frames(number) == 0
                    assert not any(array.any() for array in got)
                    continue
                assert np.array_equal(got[0], features(number)[at])
                assert np.abs(got[1].astype(int) - pixels(number, at)).max() <= 6
                assert got[2].tolist() == [number, at]


@readers
@pytest.mark.parametrize("name", ["query", "context"])
def test_bytes_read_are_those_of_what_is_drawn(
    dataset: ShardDataset, reader: Reader, name: str, tmp_path: Path
) -> None:
    config = LoaderConfig(global_batch_size=5, drop_last=False, reader=reader, verify="never")
    loader = ShardLoader(dataset, config, reads=drawn(name))
    expected = 0
    for batch in loader:
        for row, index in enumerate(batch["index"].tolist()):
            if index >= 0:
                number = number_of(dataset, index)
                distinct = set(batch[name][row].tolist()) - {-1}
                expected += len(distinct) * 24
                expected += sum(len(jpeg(pixels(number, at))) + len(record(number, at)) for at in distinct)
                expected += 2 * table_bytes(num_frames(number))
    assert loader.stats().num_bytes == expected


@readers
def test_bytes_of_whole_samples_are_their_payloads(dataset: ShardDataset, reader: Reader, tmp_path: Path) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=23, reader=reader), reads=ALL)
    list(loader)
    names = ("features", "frames", "boxes", "tokens", "json")
    payloads = sum(int(dataset.extents(shard, name).sizes.sum()) for shard in range(2) for name in names)
    assert loader.stats().num_bytes == payloads


def test_a_rank_whose_rows_are_all_padding_gets_the_right_shapes(dataset: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=24, drop_last=False)
    for rank in range(24):
        (batch,) = ShardLoader(dataset, config, world=World(rank=rank, size=24), reads=ALL)
        assert batch["frames"].shape[2:] == (SIZE, SIZE, 3)
        assert batch["features"].shape[2:] == (3, 4)
        dtypes = [batch[name].dtype for name in ("frames", "features", "tokens", "place", "size", "json")]
        assert dtypes == [torch.uint8, torch.float16, torch.int32, torch.int64, torch.int64, torch.uint8]
    assert not batch["valid"].any()
    assert batch["frames"].shape == (1, 0, SIZE, SIZE, 3)
    assert batch["json_offsets"].tolist() == [0, 0]


@pytest.mark.parametrize("reads", [ALL, drawn("context")])
def test_batches_are_the_same_on_any_number_of_ranks_and_resumed_anywhere(dataset: ShardDataset, reads: Reads) -> None:
    config = LoaderConfig(global_batch_size=4, drop_last=False)
    whole = ShardLoader(dataset, config, reads=reads)
    states, batches = [whole.state_dict()], []
    for _ in range(2):
        for batch in whole:
            batches.append({name: tensor.clone() for name, tensor in batch.items()})
            states.append(whole.state_dict())
    for step in (0, 3, 6, 11):
        loaders = [ShardLoader(dataset, config, world=World(rank=rank, size=2), reads=reads) for rank in range(2)]
        for loader in loaders:
            loader.load_state_dict(json.loads(json.dumps(states[step])))
        parts = [[part for _ in range(2 - step // 6) for part in loader] for loader in loaders]
        for expected, *ranks in zip(batches[step:], *parts, strict=True):
            for first, part in enumerate(ranks):
                for name in ("index", "features", "frames", "place", "chosen"):
                    rows, width = expected[name][2 * first : 2 * first + 2], part[name].shape[1:2]
                    assert torch.equal(rows[:, : width[0]] if width else rows, part[name]), name
                    assert not width or not rows[:, width[0] :].any()


def test_a_decoders_key_follows_from_seed_epoch_and_sample(dataset: ShardDataset) -> None:
    def keys(seed: int, batch_size: int, *, held_out: bool = False) -> list[dict[int, set[int]]]:
        reads = Reads(fields=("boxes",), decoders={"boxes": Places()}, held_out=held_out)
        config = LoaderConfig(global_batch_size=batch_size, drop_last=False, seed=seed)
        loader = ShardLoader(dataset, config, reads=reads)
        found: list[dict[int, set[int]]] = [{}, {}]
        for epoch in found:
            for batch in loader:
                for index, row, length in zip(
                    batch["index"].tolist(), batch["chosen"].tolist(), batch["boxes_length"].tolist(), strict=True
                ):
                    if length:
                        epoch[index] = set(row[:length])
        return found

    first, second = keys(0, 5)
    assert all(len(chosen) == 1 for chosen in first.values())  # one key a sample
    assert len({min(chosen) for chosen in first.values()}) == len(first)
    assert keys(0, 7) == [first, second]
    assert first != second
    assert keys(1, 5)[0] != first
    assert keys(0, 5, held_out=True) == [first, first]


def test_held_out_data_is_drawn_alike_in_every_pass(dataset: ShardDataset) -> None:
    def windows(loader: ShardLoader) -> dict[int, list[int]]:
        return {i: w for b in loader for i, w in zip(b["index"].tolist(), b["query"].tolist(), strict=True)}

    for held_out in (True, False):
        reads = Reads(fields=("tokens",), draws=(Window("frames", 2),), held_out=held_out)
        loader = ShardLoader(dataset, LoaderConfig(global_batch_size=5, drop_last=False), reads=reads)
        assert (windows(loader) == windows(loader)) == held_out
