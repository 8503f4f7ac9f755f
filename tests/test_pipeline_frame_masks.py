"""Masks of a frame in a batch, and what a system of SA-V reads: a query, its context, and nothing besides."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import ShardLoader
from pipeline.config import LoaderConfig, Reader
from pipeline.order.windows import Choice
from pipeline.read.masks import FrameMasks
from pipeline.reads import Reads
from shards import ShardDataset, rle
from shards.builder import SavKind
from shards.format.objects import read_objects, write_objects
from shards.format.packed import table_bytes
from tests.sav_sets import CHANNELS, SIDE, VIEW, build_sav, write_teacher, write_train
from tests.sav_system import SYSTEM
from tools.draws import bytes_per_draw
from tools.systems.base import Feed
from tools.systems.sav_sets import MemoryConfig, ObjectsConfig, SavRecipe

CELLS = SIDE // 28
STORED, SIZE = 56, 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    root = tmp_path_factory.mktemp("sav")
    write_train(root, [41, 49, 57, 45, 61])
    return build_sav(root, root / "set", write_teacher(root / "teacher"))


def recipe_of(num_context: int = 8, **objects: Any) -> SavRecipe:
    chosen = ObjectsConfig(**{"mask_size": SIZE, **objects})
    return SavRecipe(view=VIEW, memory=MemoryConfig(num_context=num_context), objects=chosen)


def feed(dataset: ShardDataset, num_context: int = 8, **objects: Any) -> Feed:
    return SYSTEM.feed(recipe_of(num_context, **objects), dataset)


def loaded(dataset: ShardDataset, reads: Reads, **config: Any) -> ShardLoader:
    return ShardLoader(
        dataset, LoaderConfig(**{"global_batch_size": 2, "drop_last": False, "verify": "never", **config}), reads=reads
    )


def decode(piece: bytes, key: int = 0, most: int = 20) -> dict[str, Any]:
    decoder = FrameMasks(stored=STORED, size=SIZE, most=most)
    out = {name: np.zeros(shape, dtype) for name, (dtype, shape) in decoder.outputs.items()}
    decoder(memoryview(piece), out, key)
    return out


def square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((STORED, STORED), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize("count", [0, 1, 20])
def test_up_to_the_most_objects_all_are_there_with_zeros_behind(count: int) -> None:
    masks = [(number, square(number, 2 * number, 9)) for number in range(count)]
    out = decode(write_objects(masks, STORED))
    assert (out["num_objects"], out["num_lost"]) == (count, 0)
    for number, mask in masks:
        assert np.array_equal(out["object_masks"][number], rle.resize(mask, (SIZE, SIZE)))
        box = np.array([2 * number, number, 2 * number + 9, number + 9]) / STORED
        assert np.allclose(out["object_boxes"][number], box)
    assert not out["object_masks"][count:].any()
    assert not out["object_boxes"][count:].any()


def test_of_more_objects_as_many_are_drawn_in_their_order_by_the_key_alone() -> None:
    masks = [(number, square(number, number, 9)) for number in range(40)]
    piece = write_objects(masks, STORED)
    tops = []
    for key in range(64):
        out = decode(piece, key, most=5)
        assert all(np.array_equal(out[name], array) for name, array in decode(piece, key, most=5).items())
        assert out["num_objects"] == 5
        tops.append([round(float(top) * STORED) for top in out["object_boxes"][:, 1]])
        assert tops[-1] == sorted(set(tops[-1]))
    assert len({tuple(drawn) for drawn in tops}) > 60
    assert {number for drawn in tops for number in drawn} == set(range(40))


def test_an_object_without_a_pixel_in_the_small_mask_is_left_out_and_counted() -> None:
    thin = np.zeros((STORED, STORED), np.bool_)
    thin[4, 3:40] = True  # between the middles of two cells
    assert not rle.resize(thin, (SIZE, SIZE)).any()
    out = decode(write_objects([(0, thin), (1, square(0, 0, 30)), (2, thin)], STORED))
    assert (out["num_objects"], out["num_lost"]) == (1, 2)
    assert np.allclose(out["object_boxes"][0], [0, 0, 30 / STORED, 30 / STORED])


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"objects":3}',
        b'{"objects":[3]}',
        b'{"objects":[{"id":1,"rle":{},"box":[0,0,1,1]}]}',
        b'{"objects":[{"id":1.0,"rle":{"size":[56,56],"counts":"P`1"},"box":[0,0,1,1]}]}',
        b'{"objects":[{"id":1,"rle":{"size":[56,56],"counts":"P"},"box":[0,0,1,1]}]}',
        b'{"objects":[{"id":1,"rle":{"size":[9,9],"counts":"a2"},"box":[0,0,1,1]}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_masks_is_refused(piece: bytes) -> None:
    with pytest.raises(ValueError, match=r"RLE|no JSON of objects"):
        decode(piece)


@pytest.mark.parametrize("box", [[0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1.5], [-0.1, 0, 1, 1], ["0", 0, 1, 1], None])
def test_boxes_lie_in_the_picture_and_have_an_area(box: Any) -> None:
    (one,) = read_objects(write_objects([(1, square(0, 0, 9))], STORED))
    with pytest.raises(ValueError, match="no JSON of objects"):
        read_objects(json.dumps({"objects": [one | {"box": box}]}).encode())


@pytest.mark.parametrize("reader", ["mmap", "pread", "direct"])
@pytest.mark.parametrize("num_context", [8, 3, 0])
def test_a_batch_holds_a_query_its_objects_and_the_features_before_it(
    dataset: ShardDataset, reader: Reader, num_context: int
) -> None:
    fed = feed(dataset, num_context)
    rows = 0
    for batch in loaded(dataset, fed.reads, reader=reader):
        for name, shape in fed.shapes.items():
            assert tuple(batch[name].shape[1:]) == shape, name
        for row, number in enumerate(batch["index"].tolist()):
            if number < 0:
                continue
            rows += 1
            sample: Any = dataset[number]
            query = int(batch["query"][row, 0])
            assert num_context <= query < len(sample["frames"])
            expected = sample["fpn"][query - num_context : query] if num_context else sample["fpn"][query : query + 1]
            assert np.array_equal(batch["fpn"][row].numpy(), expected)
            with Image.open(io.BytesIO(sample["frames"][query])) as image:
                assert np.array_equal(batch["frames"][row, 0].permute(1, 2, 0).numpy(), np.asarray(image))
            found = read_objects(sample["masks"][query])
            assert int(batch["num_objects"][row] + batch["num_lost"][row]) == len(found)
            small = [rle.resize(rle.decode(one["rle"]), (SIZE, SIZE)) for one in found]
            kept = [mask for mask in small if mask.any()]
            assert np.array_equal(
                batch["object_masks"][row, : len(kept)].numpy().astype(bool), np.array(kept).reshape(-1, SIZE, SIZE)
            )
            assert 0 <= int(batch["prompt"][row]) < 4
    assert rows == len(dataset)


@pytest.mark.parametrize("num_context", [8, 0])
def test_bytes_read_are_the_rows_the_jpeg_and_the_masks_of_the_query(dataset: ShardDataset, num_context: int) -> None:
    fed = feed(dataset, num_context)
    loader = loaded(dataset, fed.reads)
    expected = 0
    for batch in loader:
        for row, number in enumerate(batch["index"].tolist()):
            if number >= 0:
                sample: Any = dataset[number]
                query = int(batch["query"][row, 0])
                expected += max(1, num_context) * CHANNELS * CELLS * CELLS * 2
                expected += sum(len(sample[name][query]) for name in ("frames", "masks"))
                expected += 2 * table_bytes(len(sample["frames"]))
    assert loader.stats().num_bytes == expected
    assert bytes_per_draw(dataset, fed.reads)["fpn"] == max(1, num_context) * CHANNELS * CELLS * CELLS * 2


def drawn(dataset: ShardDataset, reads: Reads, epochs: int = 2, **config: Any) -> list[dict[int, tuple[Any, ...]]]:
    """Of each epoch: sample -> what was drawn of it, and its objects."""
    loader, found = loaded(dataset, reads, **config), []
    for _ in range(epochs):
        seen = {}
        for batch in loader:
            for row, number in enumerate(batch["index"].tolist()):
                if number >= 0:
                    objects = batch["object_boxes"][row].numpy().tobytes()
                    seen[number] = (int(batch["query"][row, 0]), int(batch["prompt"][row]), objects)
        found.append(seen)
    return found


def test_a_draw_follows_from_seed_epoch_and_sample_and_validation_draws_are_fixed(dataset: ShardDataset) -> None:
    reads = feed(dataset, most=1).reads
    one, two = drawn(dataset, reads)
    assert one != two
    assert drawn(dataset, reads, global_batch_size=5, threads=1) == [one, two]
    assert drawn(dataset, reads, seed=1)[0] != one
    fixed = drawn(dataset, replace(reads, held_out=True))
    assert fixed == [one, one]


def test_every_prompt_is_asked_about_as_often() -> None:
    prompts = Choice("prompt", 4).draw(0, 0, np.arange(8000))["prompt"]
    assert np.abs(np.bincount(prompts, minlength=4) - 2000).max() < 5 * 2000**0.5
    assert (Choice("prompt", 4).draw(0, 1, np.arange(8000))["prompt"] != prompts).mean() > 0.7
    assert not Choice("prompt", 1).draw(0, 0, np.arange(9))["prompt"].any()
    with pytest.raises(ValueError, match="count=0"):
        Choice("prompt", 0)


def test_a_field_without_an_axis_of_its_own_needs_a_draw_of_one(dataset: ShardDataset) -> None:
    reads = feed(dataset).reads
    for single in (("fpn",), ("json",), ("nothing",)):
        with pytest.raises(ValueError, match=r"single: .* of which one is drawn"):
            loaded(dataset, replace(reads, single=single))


def test_sets_that_are_not_the_recipes_are_refused(dataset: ShardDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds frames of 112 px, the recipe's view is of 504 px"):
        SYSTEM.feed(SavRecipe(), dataset)
    with pytest.raises(ValueError, match="has 11 frames, a query and its context take 12"):
        feed(dataset, 11)
    root = dataset.directory.parent
    plain = build_sav(root, tmp_path / "plain", None, kind=SavKind(view=VIEW))
    with pytest.raises(ValueError, match="has no features: add them by `reelshard add-field"):
        feed(plain)
    other = replace(dataset.manifest, provenance={**dataset.manifest.provenance, "sample": {"kind": "frames"}})
    (tmp_path / "other").mkdir()
    other.write(tmp_path / "other")
    with pytest.raises(ValueError, match="holds no videos with masks"):
        feed(ShardDataset.open(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"teacher\.image_size is 504, view\.size 112"):
        SYSTEM.check_build(recipe_of())
