"""docs/format.md is enough to read format 2: a reader made of nothing but what it says."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash

from shards.codecs import CODECS
from shards.format.packed import pack_pieces
from tests.datasets import lengths_sample

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden" / "format2"
DOCS = (TESTS.parent / "docs" / "format.md").read_text()


def test_the_bytes_of_packed_pieces_are_those_of_the_docs() -> None:
    (example,) = re.findall(r"```\n((?:[0-9a-f]+ ?)+)\n```", DOCS)
    data = bytes.fromhex(example)
    assert data == pack_pieces([b"ab", b"", b"cde"])
    assert f"are the {len(data)} bytes" in DOCS


def test_the_arithmetic_of_the_docs_is_that_of_the_codec_of_pixels() -> None:
    (example,) = re.findall(r"```python\n(y = .*?)```", DOCS, re.DOTALL)
    pixels = np.random.default_rng(0).integers(0, 256, (400, 1, 2, 2, 3), np.uint8)
    codec = CODECS["yuv420"]
    stored = codec.encode(pixels).reshape(400, 6).astype(int)
    decoded = codec.decode(codec.encode(pixels), "|u1", pixels.shape).reshape(400, 4, 3)
    r, g, b = pixels.reshape(400, 4, 3).astype(int).transpose(2, 0, 1)
    values: dict[str, Any] = {"r": r, "g": g, "b": b}
    values |= {f"sum_{name}": values[name].sum(axis=1, keepdims=True) for name in "rgb"}
    for line in example.splitlines():
        name, _, formula = line.partition(" = ")
        values[name] = np.clip(eval(formula, {}, values), 0, 255)
    assert np.array_equal(np.concatenate([values["y"], values["u"], values["v"]], axis=1), stored)
    assert np.array_equal(np.stack([values["red"], values["green"], values["blue"]], axis=-1), decoded)


def test_a_reader_made_from_the_docs_reads_rows_and_pieces() -> None:
    manifest = json.loads((GOLDEN / "dataset.json").read_bytes())
    assert manifest["format"] == 2
    number = 0
    for shard in manifest["shards"]:
        outer = msgpack.unpackb((GOLDEN / shard["name"].replace(".tar", ".idx")).read_bytes())
        body = msgpack.unpackb(outer["body"])
        assert (outer["format"], outer["digest"]) == (2, xxhash.xxh3_128_hexdigest(outer["body"]))
        assert body["shard"] == shard
        tar = (GOLDEN / shard["name"]).read_bytes()
        for row in range(shard["samples"]):
            sample = lengths_sample(number)
            for field in body["fields"]:
                offset, size, checksum = (
                    struct.unpack_from("<Q", field[name], 8 * row)[0] for name in ("offsets", "sizes", "checksums")
                )
                payload = tar[offset : offset + size]
                assert xxhash.xxh3_64_intdigest(payload) == checksum
                if field["layout"] == "packed":
                    (count,) = struct.unpack_from("<I", payload)
                    ends = [0, *struct.unpack_from(f"<{count}Q", payload, 4)]
                    first = 4 + 8 * count
                    pieces = [payload[first + ends[i] : first + ends[i + 1]] for i in range(count)]
                    assert struct.unpack_from("<Q", field["pieces"], 8 * row) == (count,)
                    assert pieces == sample[field["name"]]
                elif field["dtype"] is not None:
                    assert field["shape"][0] is None
                    assert "pieces" not in field
                    rows = np.frombuffer(payload, field["dtype"]).reshape(-1, *field["shape"][1:])
                    np.testing.assert_array_equal(rows, np.asarray(sample[field["name"]]))
                else:
                    assert payload == sample[field["name"]]
            number += 1
    assert number == 3
