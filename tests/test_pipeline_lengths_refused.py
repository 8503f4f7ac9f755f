"""Samples of variable length: what is damaged, what grows, and what a draw may not ask for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import LoaderConfig, Reader
from pipeline.loader import ShardLoader
from pipeline.order.draws import Draw, TubeMask
from pipeline.order.windows import Window
from pipeline.read.decoders import JpegFrames
from pipeline.reads import Reads
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError
from shards.format.manifest import shard_name
from shards.format.schema import Field, Schema
from shards.groups import Group, with_groups
from shards.writer import ShardWriter
from tests.datasets import damage, make_dataset
from tests.lengths import SIZE, Places, make_lengths
from tests.test_pipeline_lengths import ALL, WINDOW, assert_whole, drawn, number_of, readers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_lengths(tmp_path_factory.mktemp("lengths"))


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


class _Square(Window):
    """Draws more than a list."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"context": (3, 3)}


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
        (("label",), (), {}, ("label",), "decoders: label must be"),
        (("features",), (_Square("features", 3),), {"features": "context"}, (), r"with shape \(3, 3\)"),
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
