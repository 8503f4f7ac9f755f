"""Samples of variable length: decoded in the threads, batched by length, mixed by weight."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.mixing import MixedLoader, shares
from pipeline.order.schedule import LengthBudget
from pipeline.read.decoders import Decoder, JpegFrames, Numbers
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError
from shards.format.manifest import Manifest, shard_name
from shards.format.packed import pack_pieces, unpack_pieces
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tests.datasets import make_dataset

SIZE = 16
DECODERS: dict[str, Decoder] = {"frames": JpegFrames(SIZE, SIZE), "tokens": Numbers("<i4")}


def num_frames(number: int) -> int:
    return 1 + number * 7 % 11


def pixels(number: int, frame: int) -> NDArray[np.uint8]:
    ramp = np.linspace(0, 120, SIZE).astype(np.uint8)
    return np.broadcast_to((ramp + 5 * number + frame)[:, None, None], (SIZE, SIZE, 3)).astype(np.uint8)


def jpeg(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def frames_payload(number: int) -> bytes:
    return pack_pieces([jpeg(pixels(number, frame)) for frame in range(num_frames(number))])


def make_ragged(directory: Path, num_samples: int = 23, damaged: int | None = None) -> ShardDataset:
    schema = Schema((Field(name="frames"), Field(name="tokens")))
    infos = []
    for shard in range(2):
        with ShardWriter(directory / shard_name("train", shard, 2), schema) as writer:
            for number in range(shard, num_samples, 2):
                data = b"not frames at all" if number == damaged else frames_payload(number)
                tokens = np.arange(number + 1, dtype="<i4").tobytes()
                writer.write(f"{number:04d}", {"frames": data, "tokens": tokens})
        infos.append(writer.info)
    Manifest(split="train", schema=schema, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_ragged(tmp_path_factory.mktemp("ragged"))


def lengths_of(dataset: ShardDataset) -> NDArray[np.int64]:
    return np.array([num_frames(int(dataset.key(number))) for number in range(len(dataset))])


@given(pieces=st.lists(st.binary(max_size=50), max_size=8))
def test_pieces_come_back(pieces: list[bytes]) -> None:
    assert [bytes(piece) for piece in unpack_pieces(pack_pieces(pieces))] == pieces


@given(data=st.binary(max_size=60))
def test_what_is_no_table_of_pieces_is_refused_or_exactly_one(data: bytes) -> None:
    try:
        pieces = unpack_pieces(data)
    except ValueError:
        return
    assert pack_pieces([bytes(piece) for piece in pieces]) == data


def test_frames_and_tokens_are_decoded_and_padded_with_their_lengths(ragged: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=6, drop_last=False, fields=("frames", "tokens"), verify="always")
    for batch in ShardLoader(ragged, config, decoders=DECODERS):
        assert batch["frames"].dtype == torch.uint8
        assert batch["frames"].shape[1] == int(batch["frames_length"].max())
        for row, index in enumerate(batch["index"].tolist()):
            if index < 0:
                assert batch["frames_length"][row] == batch["tokens_length"][row] == 0
                assert not batch["frames"][row].any()
                continue
            number = int(ragged.key(index))
            length = num_frames(number)
            assert batch["frames_length"][row] == length
            assert batch["tokens"][row, : number + 1].tolist() == list(range(number + 1))
            assert not batch["tokens"][row, number + 1 :].any()
            assert not batch["frames"][row, length:].any()
            for frame in range(length):
                difference = batch["frames"][row, frame].numpy().astype(int) - pixels(number, frame)
                assert np.abs(difference).max() <= 6  # JPEG


def test_a_payload_that_does_not_decode_is_named(tmp_path: Path) -> None:
    dataset = make_ragged(tmp_path, damaged=4)
    config = LoaderConfig(global_batch_size=6, fields=("frames",))
    with pytest.raises(DamagedShardError, match="does not decode") as caught:
        list(ShardLoader(dataset, config, decoders={"frames": DECODERS["frames"]}))
    assert caught.value.key == "0004"


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=120),
    budget=st.integers(40, 200),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 100),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_budgeted_batches_hold_every_sample_once_within_the_budget_on_any_world(
    lengths: list[int], budget: int, ranks: int, seed: int, epoch: int, shuffle: bool
) -> None:
    array = np.array(lengths)
    worlds = [
        LengthBudget(array, budget, World(rank=rank, size=ranks), seed=seed, shuffle=shuffle) for rank in range(ranks)
    ]
    single = LengthBudget(array, budget, World(), seed=seed, shuffle=shuffle)
    seen: list[int] = []
    for number in range(single.num_batches(epoch)):
        whole = single.rows(epoch, number)
        parts = [schedule.rows(epoch, number) for schedule in worlds]
        assert len({len(part) for part in parts}) == 1
        assert all(len(part) <= schedule.max_rows for part, schedule in zip(parts, worlds, strict=True))
        joined = np.concatenate(parts)
        assert joined[joined >= 0].tolist() == whole.tolist()
        assert len(whole) * array[whole].max() <= budget
        seen += whole.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert all(schedule.num_batches(epoch) == single.num_batches(epoch) for schedule in worlds)


def test_a_sample_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="the longest sample, which has 9"):
        LengthBudget(np.array([3, 9]), 8, World(), seed=0, shuffle=True)


def test_a_budgeted_loader_resumes_at_every_step_on_any_world(ragged: ShardDataset) -> None:
    config = LoaderConfig(fields=("frames",), length_budget=30, seed=3)
    lengths = lengths_of(ragged)
    decoders = {"frames": DECODERS["frames"]}

    def loader(rank: int = 0, size: int = 1) -> ShardLoader:
        world = World(rank=rank, size=size)
        return ShardLoader(ragged, config, None, world, decoders=decoders, lengths=lengths)

    whole = loader()
    states, batches = [], []
    for _ in range(2):
        states.append(whole.state_dict())
        for batch in whole:
            assert batch["frames"].shape[0] * batch["frames"].shape[1] <= 30
            batches.append(batch["index"].tolist())
            states.append(whole.state_dict())
        states.pop()
    assert Counter(index for batch in batches for index in batch) == dict.fromkeys(range(len(ragged)), 2)
    for step in range(0, len(batches), 3):
        ranks = [loader(rank, 2) for rank in range(2)]
        rest: list[list[int]] = []
        for part in ranks:
            part.load_state_dict(states[step])
        while len(rest) < len(batches) - step:
            rest += [
                [index for batch in parts for index in batch["index"].tolist() if index >= 0]
                for parts in zip(*ranks, strict=True)
            ]
        assert rest == batches[step:]


@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6), total=st.integers(1, 1000))
def test_shares_add_up_and_are_within_one_of_exact(weights: list[float], total: int) -> None:
    counts = shares(weights, total)
    assert sum(counts) == total
    assert all(abs(count - weight / sum(weights) * total) < 1 for count, weight in zip(counts, weights, strict=True))


@pytest.fixture(scope="module")
def video_and_text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardDataset]:
    return {
        "video": make_dataset(tmp_path_factory.mktemp("video"), num_samples=40),
        "text": make_ragged(tmp_path_factory.mktemp("text")),
    }


def mixed(sets: dict[str, ShardDataset], world: World | None = None) -> MixedLoader:
    loaders = {
        "video": ShardLoader(sets["video"], LoaderConfig(global_batch_size=4), None, world),
        "text": ShardLoader(sets["text"], LoaderConfig(global_batch_size=4, fields=("tokens",)), None, world),
    }
    return MixedLoader(loaders, {"video": 86, "text": 14}, num_batches=50, seed=5)


def test_a_mixture_is_exact_over_an_epoch_and_the_same_on_every_rank(video_and_text: dict[str, ShardDataset]) -> None:
    whole = [(name, batch["index"].tolist()) for name, batch in mixed(video_and_text)]
    assert Counter(name for name, _ in whole) == {"video": 43, "text": 7}
    ranks = [mixed(video_and_text, World(rank=rank, size=2)) for rank in range(2)]
    for (name, index), *parts in zip(whole, *ranks, strict=True):
        assert {part[0] for part in parts} == {name}
        assert [number for _, batch in parts for number in batch["index"].tolist()] == index


def test_a_mixture_resumes_at_every_step_and_has_another_order_next_epoch(
    video_and_text: dict[str, ShardDataset],
) -> None:
    whole = mixed(video_and_text)
    states, seen = [whole.state_dict()], []
    for _ in range(2):
        for name, batch in whole:
            seen.append((name, batch["index"].tolist()))
            states.append(whole.state_dict())
    assert whole.sources(0) != whole.sources(1)
    for step in (0, 1, 17, 49, 50, 51, 99):
        resumed = mixed(video_and_text)
        resumed.load_state_dict(states[step])
        rest = [(name, batch["index"].tolist()) for _ in range(2 - step // 50) for name, batch in resumed]
        assert rest == seen[step:]


def test_a_mixture_refuses_a_state_of_other_weights(video_and_text: dict[str, ShardDataset]) -> None:
    state = mixed(video_and_text).state_dict()
    other = mixed(video_and_text)
    other.counts = {"video": 40, "text": 10}
    with pytest.raises(ValueError, match="counts"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="every source needs a weight"):
        MixedLoader(other.loaders, {"video": 1.0}, 5)
