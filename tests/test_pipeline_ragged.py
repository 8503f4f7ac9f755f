"""Samples of variable length: decoded in the threads, batched by length, mixed by weight."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.read.decoders import Decoder, JpegFrames, Numbers
from pipeline.reads import Reads
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError
from shards.format.manifest import Manifest, shard_name
from shards.format.packed import pack_pieces, unpack_pieces
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter

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
    config = LoaderConfig(global_batch_size=6, drop_last=False, verify="always")
    for batch in ShardLoader(ragged, config, reads=Reads(fields=("frames", "tokens"), decoders=DECODERS)):
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
    reads = Reads(fields=("frames",), decoders={"frames": DECODERS["frames"]})
    with pytest.raises(DamagedShardError, match="does not decode") as caught:
        list(ShardLoader(dataset, LoaderConfig(global_batch_size=6), reads=reads))
    assert caught.value.key == "0004"
