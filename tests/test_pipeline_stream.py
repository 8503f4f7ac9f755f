"""The general path on fields whose samples differ in length: the same batches as the fast one, or one clear line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline import LoaderConfig, Reads, ShardLoader, StreamLoader
from pipeline.read.decoders import Outputs
from shards.dataset import ShardDataset
from shards.format.errors import ShardError, UnsafeMemberError
from shards.format.schema import Field, Schema
from tests.datasets import LENGTHS_SCHEMA, lengths_sample, make_dataset, make_lengths_dataset
from tests.marks import reads_with_stock_webdataset


@dataclass(frozen=True)
class Measure:
    """A piece's size, its first bytes, and the key that it is decoded with."""

    name: str

    @property
    def outputs(self) -> Outputs:
        return {
            f"{self.name}_size": ("<i8", ()),
            f"{self.name}_head": ("|u1", (4,)),
            f"{self.name}_key": ("<u8", (1,)),
        }

    def __call__(self, piece: memoryview, out: Mapping[str, NDArray[Any]], key: int) -> None:
        if bytes(piece[:3]) == b"bad":
            raise ValueError("it is bad")
        out[f"{self.name}_size"][...] = len(piece)
        head = np.frombuffer(piece, np.uint8)[:4]
        out[f"{self.name}_head"][: len(head)] = head
        out[f"{self.name}_key"][0] = key


def urls(dataset: ShardDataset) -> list[str]:
    return [str(dataset.tar_path(shard)) for shard in range(dataset.num_shards)]


@reads_with_stock_webdataset
@pytest.mark.parametrize("decoded", [(), ("frames",), ("frames", "json")])
def test_rows_and_pieces_become_the_same_batches(tmp_path: Path, decoded: tuple[str, ...]) -> None:
    dataset = make_lengths_dataset(tmp_path, num_samples=13, samples_per_shard=4)
    decoders = {name: Measure(name) for name in decoded}
    config = LoaderConfig(global_batch_size=5, shuffle=False, drop_last=False, verify="always")
    fast = ShardLoader(dataset, config, reads=Reads(fields=dataset.schema.names, decoders=decoders))
    general = StreamLoader(urls(dataset), 5, fields=dataset.schema.names, schema=dataset.schema, decoders=decoders)
    for _ in range(2):
        for one, two in zip(fast, general, strict=True):
            assert {"features_length", "times_length"} <= set(one)
            assert set(one) == set(two)
            size = len(two["index"])
            for name in one:
                size = len(two[name])
                assert torch.equal(one[name][:size], two[name]), name
                assert not one[name][size:].any() or name.endswith(("_offsets", "index")), name
        general.epoch = fast.epoch
    assert general.stats().num_samples == 26


@reads_with_stock_webdataset
def test_what_is_not_as_the_schema_says_is_refused_by_name(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path / "lengths", num_samples=3)
    rows = Field(name="features", dtype="<f2", shape=(None, 2, 3))
    for field, message in (
        (rows, r"sample 000000, member 'features': it is <f2 \(2, 3, 2\), the schema says <f2 \(None, 2, 3\)"),
        (Field(name="features"), "it is an array, the schema says bytes"),
        (Field(name="frames", dtype="<f2", shape=(None,)), "it is bytes, the schema says rows"),
        (Field(name="json", layout="packed"), "member 'json': .* table of pieces"),
    ):
        with pytest.raises(ShardError, match=message):
            list(StreamLoader(urls(dataset), 3, fields=(field.name,), schema=Schema((field,))))
    with pytest.raises(ShardError, match=r"field features: .* rows have to be in the schema"):
        list(StreamLoader(urls(dataset), 3, fields=("features",)))
    with pytest.raises(ValueError, match="no field 'clip'"):
        StreamLoader(urls(dataset), 3, schema=LENGTHS_SCHEMA)


def test_a_decoder_of_no_bytes_is_refused(tmp_path: Path) -> None:
    for fields, name in ((("frames",), "json"), (("features",), "features"), (("label",), "label")):
        with pytest.raises(ValueError, match=f"decoders: {name} must be among the fields"):
            StreamLoader(["x.tar"], 1, fields=fields, schema=LENGTHS_SCHEMA, decoders={name: Measure(name)})


@reads_with_stock_webdataset
def test_a_piece_that_does_not_decode_is_one_line(tmp_path: Path) -> None:
    sample = {**lengths_sample(1), "frames": [b"good", b"bad"]}
    dataset = make_lengths_dataset(tmp_path, samples={"a": sample})
    loader = StreamLoader(
        urls(dataset), 1, fields=("frames",), schema=dataset.schema, decoders={"frames": Measure("frames")}
    )
    with pytest.raises(ShardError, match="field frames, samples a to a: piece 1 does not decode: it is bad"):
        list(loader)


@reads_with_stock_webdataset
def test_a_hostile_npy_header_is_one_line_and_wrecks_nothing(tmp_path: Path) -> None:
    header = "-" * 9000 + "1"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    schema = Schema((Field(name="x.npy"),))  # as bytes, so that anything can be written
    dataset = make_lengths_dataset(tmp_path / "hostile", schema=schema, samples={"a": {"x.npy": data}})
    with pytest.raises(ShardError, match=r"sample a, member 'x': the \.npy header does not parse"):
        list(StreamLoader(urls(dataset), 1, fields=("x",)))
    sound = make_dataset(tmp_path / "sound", num_samples=2)
    assert len(list(StreamLoader(urls(sound), 2))) == 1


@reads_with_stock_webdataset
def test_a_pickled_array_is_unsafe(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    data = (tmp_path / "x.npy").read_bytes()
    schema = Schema((Field(name="x.npy"),))
    dataset = make_lengths_dataset(tmp_path / "set", schema=schema, samples={"a": {"x.npy": data}})
    with pytest.raises(UnsafeMemberError, match="pickled objects"):
        list(StreamLoader(urls(dataset), 1, fields=("x",)))
