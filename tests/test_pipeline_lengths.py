"""Samples of variable length: read whole and padded, or as much of them as is drawn; decoded into the batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig, Reader
from pipeline.loader import ShardLoader
from pipeline.order.draws import Draw, TubeMask
from pipeline.order.windows import Window
from pipeline.read.decoders import Decoder, JpegFrames
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError
from shards.format.manifest import shard_name
from shards.format.packed import table_bytes
from shards.format.schema import Field, Schema
from shards.groups import Group, with_groups
from shards.writer import ShardWriter
from tests.datasets import damage, make_dataset
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


def test_a_piece_that_does_not_decode_is_named_or_left_out(tmp_path: Path) -> None:
    dataset = make_lengths(tmp_path, damaged=4)
    config = LoaderConfig(global_batch_size=23)
    with pytest.raises(DamagedShardError, match="piece 5 does not decode: it is not a readable JPEG") as caught:
        list(ShardLoader(dataset, config, reads=ALL))
    assert (caught.value.key, caught.value.field) == ("0004", "frames")
    (batch,) = ShardLoader(dataset, LoaderConfig(global_batch_size=23, on_error="quarantine"), reads=ALL)
    for row, index in enumerate(batch["index"].tolist()):
        if number_of(dataset, index) == 4:
            assert not batch["valid"][row]
            for name in ("features", "frames", "place", "tokens"):
                assert not batch[name][row].any()
            assert batch["frames_length"][row] == batch["tokens_length"][row] == 0
        else:
            assert_whole(batch, row, number_of(dataset, index))


def test_a_table_that_was_damaged_is_an_error_although_nothing_is_checked(tmp_path: Path) -> None:
    dataset = make_lengths(tmp_path)
    damage(dataset, dataset.index_of("0004"), "boxes", at=9)
    with pytest.raises(DamagedShardError, match=r"field boxes.*the table of 6 pieces") as caught:
        list(ShardLoader(dataset, LoaderConfig(global_batch_size=23, verify="never"), reads=drawn("query")))
    assert caught.value.key == "0004"


@readers
@pytest.mark.parametrize("field", ["features", "frames", "tokens"])
def test_what_is_checked_is_checked_whole_whatever_is_drawn(tmp_path: Path, reader: Reader, field: str) -> None:
    dataset = make_lengths(tmp_path)
    number = dataset.index_of("0008")
    size = int(dataset.extents(0, field).sizes[4])
    damage(dataset, number, field, at=size - 1)
    reads = Reads(fields=("features", "frames", "tokens"), decoders={"frames": JpegFrames(SIZE, SIZE)})
    config = LoaderConfig(global_batch_size=23, reader=reader, verify="always")
    for chosen in (reads, drawn("query")):
        if field in chosen.fields:
            with pytest.raises(DamagedShardError, match=f"key 0008, field {field}"):
                list(ShardLoader(dataset, config, reads=chosen))


def test_a_slab_grows_with_the_longest_batch_and_stays(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=2, slabs=3), reads=ALL)
    sizes = []
    for _ in range(4):
        for batch in loader:
            assert batch.memory is not None
            assert batch.layout is not None
            assert len(batch.memory) == batch.layout.num_bytes <= loader._ring.num_bytes
            del batch
        sizes.append(loader._ring.num_bytes)
    assert loader.stats().num_slabs == 3
    assert len(set(sizes[1:])) == 1


class _Beyond(Window):
    """Names a row that is not there."""

    def draw(
        self,
        seed: int,
        epoch: int,
        samples: NDArray[np.int64],
        lengths: NDArray[np.int64] | None = None,
    ) -> dict[str, NDArray[np.int64]]:
        return {name: rows + 1 for name, rows in super().draw(seed, epoch, samples, lengths).items()}


@pytest.mark.parametrize("field", ["features", "boxes"])
def test_a_draw_that_names_a_row_too_many_is_refused(dataset: ShardDataset, field: str) -> None:
    decoders = {"boxes": Places()} if field == "boxes" else {}
    reads = Reads(fields=(field,), draws=(_Beyond(field, 2),), gather={field: "query"}, decoders=decoders)
    with pytest.raises(DamagedShardError, match=rf"field {field}.*row \d+ is drawn, and there are"):
        list(ShardLoader(dataset, LoaderConfig(global_batch_size=23), reads=reads))


MASK, WINDOWS = TubeMask(num_positions=4), (WINDOW,)


@pytest.mark.parametrize(
    ("fields", "draws", "gather", "decoders", "message"),
    [
        (("features",), (), {"features": "query"}, (), "draws 'query', got no mask"),
        (("features",), WINDOWS, {"features": "masked"}, (), r"'masked', got \['context', 'query'\]"),
        (("features",), (MASK,), {"features": "masked"}, (), "positions, the mask has 4"),
        (("frames",), WINDOWS, {"frames": "query"}, (), "only with a decoder"),
        (("json",), WINDOWS, {"json": "query"}, (), "here it is bytes"),
        (("tokens",), WINDOWS, {"frames": "query"}, (), "here it is not"),
        (("tokens",), (), {}, ("tokens",), "decoders: tokens must be"),
        (("tokens",), (), {}, ("boxes",), "decoders: boxes must be among the fields"),
        (("json", "label"), (), {}, ("json",), "decoded or gives the label, not both"),
        (("boxes", "frames"), (), {}, ("boxes", "frames"), "place, size would be in a batch twice"),
    ],
)
def test_what_a_field_cannot_give_is_refused(
    dataset: ShardDataset,
    fields: tuple[str, ...],
    draws: tuple[Draw, ...],
    gather: dict[str, str],
    decoders: tuple[str, ...],
    message: str,
) -> None:
    reads = Reads(fields=fields, draws=draws, gather=gather, decoders=dict.fromkeys(decoders, Places()))
    with pytest.raises(ValueError, match=message):
        ShardLoader(dataset, LoaderConfig(global_batch_size=4), reads=reads)


def test_what_is_read_is_said_once(dataset: ShardDataset) -> None:
    with pytest.raises(ValueError, match="was said twice"):
        ShardLoader(dataset, LoaderConfig(fields=("tokens",)), reads=ALL)
    with pytest.raises(ValueError, match="the draws' outputs need different names, got query, context, query, context"):
        Reads(draws=(Window("features", 3), Window("frames", 3)))


def test_bytes_decode_to_one_piece_a_sample(dataset: ShardDataset) -> None:
    class Text(Places):
        @property
        def outputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
            return {"length": ("<i8", ())}

        def __call__(self, piece: memoryview, out: object, key: int) -> None:
            out["length"][...] = len(json.loads(bytes(piece))["text"])  # type: ignore[index]

    reads = Reads(fields=("json",), decoders={"json": Text()})
    for batch in ShardLoader(dataset, LoaderConfig(global_batch_size=5, drop_last=False), reads=reads):
        numbers = [number_of(dataset, index) if index >= 0 else 0 for index in batch["index"].tolist()]
        assert batch["length"].tolist() == numbers


def test_a_state_names_the_series_whose_lengths_count(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=8, samples_per_shard=8)
    reads = Reads(fields=("clip",), draws=(Window("audio", 2),))
    loaders = []
    for count in (3, 4):
        field = Field(name="audio", dtype="<f4", shape=(None,), group=f"audio{count}")
        with ShardWriter(tmp_path / shard_name("train", 0, 1, field.group), Schema((field,))) as writer:
            for number, key in enumerate(dataset.index(0).keys):
                writer.write(key, {"audio": np.zeros(count + number, "<f4")})
        grouped = with_groups(dataset.manifest, [Group(field.group, (field,), (writer.info,), {})])
        loaders.append(ShardLoader(ShardDataset(tmp_path, grouped), LoaderConfig(global_batch_size=4), reads=reads))
    with pytest.raises(ValueError, match="dataset is"):
        loaders[1].load_state_dict(loaders[0].state_dict())


@pytest.mark.parametrize("budgets", [{"features": 24}, {"frames": 24, "tokens": 30}])
def test_budgets_count_the_data_sets_own_lengths(dataset: ShardDataset, budgets: dict[str, int]) -> None:
    loader = ShardLoader(dataset, LoaderConfig(length_budget=budgets), reads=ALL)
    seen: list[int] = []
    for batch in loader:
        for name, budget in budgets.items():
            assert batch[name].shape[0] * batch[name].shape[1] <= budget
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(23))
