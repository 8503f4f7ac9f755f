"""A batch is cut into rows whatever its fields are."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.reads import Reads
from shards.dataset import ShardDataset
from shards.format.packed import pack_pieces
from tests.lengths import jpeg, make_lengths, num_frames, num_tokens, pixels

WIDTH = 5


def collate(pieces: list[bytes]) -> Batch:
    """A batch with a field of every kind: dense, ragged bytes, and padded with lengths."""
    size = len(pieces)
    padded = torch.zeros(size, WIDTH, dtype=torch.int64)
    for row, piece in enumerate(pieces):
        padded[row, : len(piece)] = torch.tensor(list(piece))
    return Batch(
        {
            "index": torch.tensor([sum(piece) for piece in pieces], dtype=torch.int64),
            "valid": torch.tensor([len(piece) > 0 for piece in pieces], dtype=torch.bool),
            "text": torch.from_numpy(np.frombuffer(bytearray().join(pieces), np.uint8)),
            "text_offsets": torch.tensor([0, *np.cumsum([len(piece) for piece in pieces], dtype=np.int64)]),
            "tokens": padded,
            "tokens_length": torch.tensor([len(piece) for piece in pieces], dtype=torch.int64),
        },
        epoch=3,
        number=7,
    )


@given(
    pieces=st.lists(st.binary(max_size=WIDTH), min_size=1, max_size=8),
    start=st.none() | st.integers(-9, 9),
    stop=st.none() | st.integers(-9, 9),
)
def test_a_slice_is_the_batch_that_its_rows_would_be_by_themselves(
    pieces: list[bytes], start: int | None, stop: int | None
) -> None:
    rows = slice(start, stop)
    cut, expected = collate(pieces).slice(rows), collate(pieces[rows])
    assert cut.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(cut[name], tensor), name
    assert (cut.epoch, cut.number) == (3, 7)


def test_a_dense_field_whose_name_ends_in_offsets_is_cut_by_rows() -> None:
    batch = collate([b"a", b"bc", b"def"]).replace(
        {"valid": torch.ones(3, dtype=torch.bool), "text": torch.arange(6).view(3, 2), "text_offsets": torch.arange(3)}
    )
    cut = batch.slice(slice(1, 3))
    assert cut["text"].tolist() == [[2, 3], [4, 5]]
    assert cut["text_offsets"].tolist() == [1, 2]


def test_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="a step of 2"):
        collate([b"a", b"b"]).slice(slice(None, None, 2))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_lengths(tmp_path_factory.mktemp("lengths"))


def test_rows_of_a_loaders_batch_keep_their_own_bytes_and_tokens(dataset: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=7, drop_last=False)
    for batch in ShardLoader(dataset, config, reads=Reads(fields=("frames", "tokens"))):
        for row in range(7):
            one = batch.slice(slice(row, row + 1))
            index = int(one["index"][0])
            number = int(dataset.key(index)) if index >= 0 else -1
            frames = [jpeg(pixels(number, frame)) for frame in range(num_frames(max(number, 0)))]
            assert one["frames"].numpy().tobytes() == (pack_pieces(frames) if index >= 0 else b"")
            assert one["frames_offsets"].tolist() == [0, len(one["frames"])]
            length = num_tokens(number) if index >= 0 else 0
            assert one["tokens_length"].tolist() == [length]
            assert one["tokens"][0, :length].tolist() == [1000 * number + place for place in range(length)]
            assert not one["tokens"][0, length:].any()


def test_a_cut_and_an_exchange_of_tensors_keep_the_source() -> None:
    batch = collate([b"a", b"b"])
    batch.source = "text"
    assert batch.slice(slice(1)).source == batch.replace({}).source == "text"
    assert pickle.loads(pickle.dumps(batch)).source == "text"
    assert str(batch).startswith("Batch 7 of epoch 3 from text: ")
