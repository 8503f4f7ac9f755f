"""Codecs: what comes back, how near it is, what is refused, and sets, builds and tools that have such fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.adopt import index_directory
from shards.codecs import CODECS
from shards.codecs.base import Fidelity
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, ManifestError
from shards.format.index import index_path
from shards.format.layout import clip_to_tubes, tubes_to_clip
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.format.schema import Field, Schema
from shards.groups import Group, with_groups
from shards.verify import verify_dataset
from shards.writer import ShardWriter
from tests.builds import contents
from tests.datasets import make_dataset, tubes_sample, tubes_schema

GOLDEN = Path(__file__).parent / "golden" / "format3"
CODEC = {"clip": "yuv420", "target": "int8"}
YUV, INT8 = CODECS["yuv420"], CODECS["int8"]


def through(codec: Any, array: NDArray[Any]) -> NDArray[Any]:
    stored = codec.encode(array)
    assert stored.dtype == np.uint8
    assert stored.shape == codec.stored_shape(array.dtype.str, array.shape)
    decoded: NDArray[Any] = codec.decode(stored, array.dtype.str, array.shape)
    assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
    return decoded


colours = st.tuples(*[st.integers(0, 255)] * 3)


@given(colour=colours, size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=300)
def test_a_plane_of_one_colour_comes_back_within_two_levels(colour: tuple[int, ...], size: tuple[int, int]) -> None:
    pixels = np.broadcast_to(np.array(colour, np.uint8), (1, 2 * size[0], 2 * size[1], 3))
    decoded = through(YUV, np.ascontiguousarray(pixels))
    assert np.abs(decoded.astype(int) - pixels).max() <= 2
    if len(set(colour)) == 1:
        assert np.array_equal(decoded, pixels)


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 3), side=st.integers(1, 12))
def test_grey_of_any_shape_is_exact_and_light_never_far(seed: int, frames: int, side: int) -> None:
    random = np.random.default_rng(seed)
    grey = np.repeat(random.integers(0, 256, (frames, 2 * side, 2 * side, 1), np.uint8), 3, axis=-1)
    assert np.array_equal(through(YUV, grey), grey)
    soft = random.integers(64, 192, (frames, 2 * side, 2 * side, 3), np.uint8)  # nothing is cut off at 0 or 255
    soft[..., :] = (soft.astype(int) + 128 * 3) // 4
    light = np.array([0.299, 0.587, 0.114])
    assert np.abs(through(YUV, soft) @ light - soft @ light).max() <= 1.5


def test_frames_and_tubes_store_the_same_of_each_square() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    assert np.array_equal(through(YUV, clip), tubes_to_clip(through(YUV, clip_to_tubes(clip, 2, 8)), 4))


@given(
    tokens=st.lists(st.lists(st.floats(-65504, 65504, width=16), min_size=3, max_size=3), min_size=1, max_size=8),
    dtype=st.sampled_from(["<f2", "<f4"]),
)
def test_no_number_of_a_token_is_off_by_more_than_half_its_scale(tokens: list[list[float]], dtype: str) -> None:
    array = np.array(tokens, dtype)
    decoded = through(INT8, array).astype(np.float64)
    assert np.isfinite(decoded).all()
    peaks = np.abs(array.astype(np.float64)).max(axis=-1, keepdims=True)
    rounding = peaks * 2.0**-10 + 2.0**-24  # to f16, and of the scale itself
    assert (np.abs(decoded - array) <= peaks / 254 + rounding).all()


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e-45, 0.0])
def test_the_ends_of_the_range_of_f32_stay_finite(value: float) -> None:
    decoded = through(INT8, np.full((2, 4), value, np.float32))
    assert np.isfinite(decoded).all()
    assert np.allclose(decoded, value, rtol=1e-5, atol=1e-40)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_no_number_is_refused(tmp_path: Path, bad: float) -> None:
    schema, sample = tubes_schema().with_codecs(CODEC), tubes_sample(0)
    target = np.array(sample["target"])
    target[0, 0, 0] = bad
    with (
        pytest.raises(ValueError, match="key a, field target: codec int8 stores finite numbers"),
        ShardWriter(tmp_path / "train-00000-of-00001.tar", schema) as writer,
    ):
        writer.write("a", {**sample, "target": target})
    assert not list(tmp_path.iterdir())


def test_targets_of_a_bell_keep_their_direction() -> None:
    array = np.random.default_rng(0).standard_normal((196, 8, 384)).astype(np.float16)
    fidelity = INT8.measure(array, through(INT8, array))
    assert fidelity.least > 0.999
    assert fidelity.count == 196 * 8


@pytest.mark.parametrize(
    ("field", "codec", "problem"),
    [
        (Field(name="x", dtype="|u1", shape=(4, 33, 32, 3), layout="frames"), "yuv420", "even height and width"),
        (Field(name="x", dtype="|u1", shape=(4, 32, 31, 3), layout="frames"), "yuv420", "even height and width"),
        (Field(name="x", dtype="|u1", shape=(4, 32, 32, 4), layout="frames"), "yuv420", "even height and width"),
        (Field(name="x", dtype="|u1", shape=(32, 32, 3)), "yuv420", "even height and width"),
        (Field(name="x", dtype="<f2", shape=(4, 32, 32, 3)), "yuv420", "stores pixels"),
        (Field(name="x", dtype="|u1", shape=(4, 8)), "int8", "stores tokens"),
        (Field(name="x", dtype="<f2", shape=(4,)), "int8", "stores tokens"),
        (Field(name="x", dtype="<f8", shape=(4, 8)), "int8", "stores tokens"),
        (Field(name="x", dtype="<f2", shape=(None, 8)), "int8", "only arrays of fixed shape"),
        (Field(name="x", layout="packed"), "int8", "only arrays of fixed shape"),
        (Field(name="x"), "yuv420", "only arrays of fixed shape"),
        (Field(name="x", dtype="<f2", shape=(4, 8)), "mp3", "codec 'mp3' is not known; this version reads yuv420 and"),
    ],
)
def test_what_a_codec_does_not_store_is_one_line(field: Field, codec: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        replace(field, codec=codec)
    assert "\n" not in str(refused.value)


def test_a_coded_set_reads_verifies_and_says_its_codecs(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, codec=CODEC)
    raw, coded = tubes_schema(), dataset.schema
    assert coded.format == 3
    assert 2 * coded["clip"].num_bytes == raw["clip"].num_bytes
    assert coded["target"].num_bytes * raw["target"].fixed_shape[-1] * 2 == raw["target"].num_bytes * (8 + 6)
    for number in range(len(dataset)):
        for name, value in tubes_sample(number).items():
            found = dataset[number][name]
            if isinstance(value, np.ndarray):
                assert isinstance(found, np.ndarray)
                assert (found.dtype, found.shape) == (value.dtype, value.shape)
                assert np.array_equal(found, coded[name].decode(coded[name].encode(value)))
            else:
                assert found == value
    assert verify_dataset(tmp_path).problems == ()
    assert "codec yuv420" in str(dataset)
    tar = bytearray(dataset.tar_path(0).read_bytes())
    tar[int(dataset.extents(0, "clip").offsets[2]) + 7] ^= 1
    dataset.tar_path(0).write_bytes(tar)
    assert any("field clip" in problem for problem in verify_dataset(tmp_path).problems)
    with pytest.raises(DamagedShardError, match="checksum"):
        dataset.read(2, "clip")


def test_what_is_stored_is_written_again_without_loss(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "one", num_samples=4, codec=CODEC)
    (tmp_path / "two").mkdir()
    with ShardWriter(tmp_path / "two" / dataset.manifest.shards[0].name, dataset.schema) as writer:
        for number in range(4):
            stored = {name: dataset.read_stored(number, name) for name in dataset.schema.names}
            writer.write(dataset.key(number), stored)
    assert writer.info == dataset.manifest.shards[0]
    assert writer.fidelity == {}


def test_lost_sidecars_and_a_lost_plan_are_no_loss_of_codecs(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, codec=CODEC)
    before = contents(tmp_path)
    index_path(dataset.tar_path(1)).unlink()
    index_directory(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / MANIFEST_NAME).unlink()
    index_directory(tmp_path)
    assert Manifest.read(tmp_path).schema == dataset.schema


def test_a_tar_without_sidecar_is_what_is_stored_to_others(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=3, codec=CODEC)
    for path in (tmp_path / MANIFEST_NAME, index_path(dataset.tar_path(0))):
        path.unlink()
    field = index_directory(tmp_path).schema["clip"]
    assert (field.dtype, field.shape, field.codec) == ("|u1", dataset.schema["clip"].as_stored.shape, None)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    import hashlib

    from shards.format.publish import canonical_json

    record = json.loads((folder / MANIFEST_NAME).read_bytes())
    change(record)
    body = {key: value for key, value in record.items() if key != "digest"}
    record["digest"] = hashlib.sha256(canonical_json(body)).hexdigest()
    (folder / MANIFEST_NAME).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("codec", "problem"),
    [
        ("av2", "codec 'av2' is not known; this version reads yuv420 and int8, and arrays as they are"),
        ("a\nb\x1b[31m", r"codec 'a\\nb\\x1b\[31m' is not known"),
        (7, "a field's codec"),
        (None, "a field's codec"),
        ("int8", "codec int8 stores tokens"),
    ],
)
def test_another_codec_in_a_manifest_is_one_clear_line(tmp_path: Path, codec: object, problem: str) -> None:
    make_dataset(tmp_path, num_samples=2, codec=CODEC)
    edit(tmp_path, lambda record: record["schema"][0].update(codec=codec))
    with pytest.raises(ManifestError, match=problem) as refused:
        ShardDataset.open(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_manifest_of_codecs_that_says_an_older_format_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path, num_samples=2, codec=CODEC)
    edit(tmp_path, lambda record: record.update(format=1))
    with pytest.raises(ManifestError, match="it says format 1, its fields are those of format 3"):
        ShardDataset.open(tmp_path)


def test_the_golden_shards_of_format_3_are_read_and_written_unchanged(tmp_path: Path) -> None:
    golden = ShardDataset.open(GOLDEN)
    assert {field.name: field.codec for field in golden.schema} == {**CODEC, "json": None}
    assert verify_dataset(GOLDEN).problems == ()
    make_dataset(tmp_path, num_samples=2, codec=CODEC)
    assert contents(tmp_path) == contents(GOLDEN)


@given(
    parts=st.lists(st.tuples(st.integers(1, 9), st.floats(0, 100)), min_size=1, max_size=6),
)
def test_fidelity_adds_up_in_any_order(parts: list[tuple[int, float]]) -> None:
    made = [Fidelity(what="x", count=n, total=n * value, least=value) for n, value in parts]
    one, two = made[0], made[-1]
    for part in made[1:]:
        one = one + part
    for part in made[-2::-1]:
        two = two + part
    assert (one.count, one.least) == (two.count, two.least) == (sum(n for n, _ in parts), min(v for _, v in parts))
    assert one.total == pytest.approx(two.total)


def test_a_field_group_may_have_a_codec_and_the_main_series_stays_as_it_is(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=8)
    main_series = {name: data for name, data in contents(tmp_path).items() if name != MANIFEST_NAME}
    field = Field(name="dino", dtype="<f4", shape=(3, 16), group="dino", codec="int8")
    values = np.random.default_rng(0).standard_normal((8, 3, 16)).astype(np.float32)
    infos, first = [], 0
    for info in dataset.manifest.shards:
        with ShardWriter(tmp_path / info.name.replace("train-", "train.dino-"), Schema((field,))) as writer:
            for number in range(first, first + info.num_samples):
                writer.write(dataset.key(number), {"dino": values[number]})
        infos.append(writer.info)
        first += info.num_samples
    with_groups(dataset.manifest, [Group("dino", (field,), tuple(infos))]).write(tmp_path)
    grouped = ShardDataset.open(tmp_path)
    assert (grouped.schema.format, grouped.index(0).schema.format, grouped.index(0, "dino").schema.format) == (3, 1, 3)
    assert verify_dataset(tmp_path).problems == ()
    assert {name: data for name, data in contents(tmp_path).items() if name in main_series} == main_series
    assert np.abs(np.asarray(grouped[5]["dino"]) - values[5]).max() < 0.02
    assert grouped.digest_of(["clip"]) == dataset.digest_of(["clip"])
