import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.dataset import ShardDataset
from shards.format.layout import tubes_to_clip
from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tests.datasets import FRAMES, SIZE, make_dataset
from tools.cli import main
from tools.figures import draw_strip, load_sample, target_colours


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=7)


def test_show_prints_fields_classes_and_digest(dataset: ShardDataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(dataset.directory)]) == 0
    text = capsys.readouterr().out
    assert "7 samples in 2 shards" in text
    assert "target     <f2 [16, 2, 6], tubes layout" in text
    assert "class 0; class 1; class 2" in text
    assert dataset.digest in text


def test_show_json_is_the_manifest(dataset: ShardDataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(dataset.directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == dataset.manifest.to_json()


@pytest.mark.parametrize("key", ["000003", "#3"])
def test_a_sample_is_named_by_key_or_number(
    dataset: ShardDataset, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(dataset.directory), key, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["key"] == "000003"
    assert record["metadata"]["label"] == 0
    assert record["fields"]["clip"] == {"dtype": "|u1", "shape": [16, 2, 2, 8, 8, 3]}
    assert main(["show", str(dataset.directory), key]) == 0
    assert "label_name: class 0" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["nothing", "#7", "#x"])
def test_a_sample_that_is_not_there_is_an_error(
    dataset: ShardDataset, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(dataset.directory), key]) == 1
    assert capsys.readouterr().err.startswith("reelshard: error: ")


def test_show_draws_a_picture(dataset: ShardDataset, tmp_path: Path) -> None:
    picture = tmp_path / "out.png"
    assert main(["show", str(dataset.directory), "#0", "--png", str(picture)]) == 0
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > image.height


def test_a_picture_needs_a_key(dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(dataset.directory), "--png", str(tmp_path / "out.png")]) == 1
    assert "'000000'" in capsys.readouterr().err


def test_a_loaded_sample_is_in_the_order_of_frames(dataset: ShardDataset) -> None:
    sample = load_sample(dataset, "000005")
    assert sample.clip.shape == (FRAMES, SIZE, SIZE, 3)
    np.testing.assert_array_equal(sample.clip, tubes_to_clip(np.asarray(dataset["000005"]["clip"]), 4))
    assert sample.target is not None
    stored = np.asarray(dataset["000005"]["target"])  # [S, T', D]
    np.testing.assert_array_equal(sample.target[1, 2, 3], stored[2 * 4 + 3, 1].astype(np.float32))


def test_a_data_set_of_frames_without_targets_is_drawn_too(tmp_path: Path) -> None:
    clip = np.zeros((2, 16, 20, 3), np.uint8)
    schema = Schema((Field(name="clip", dtype="|u1", shape=clip.shape, layout="frames"),))
    with ShardWriter(tmp_path / shard_name("test", 0, 1), schema) as writer:
        writer.write("a", {"clip": clip})
    Manifest(split="test", schema=schema, shards=(writer.info,)).write(tmp_path)
    sample = load_sample(ShardDataset.open(tmp_path), 0)
    assert sample.target is None
    assert draw_strip(sample).startswith(b"\x89PNG")


def test_the_same_sample_gives_the_same_picture(dataset: ShardDataset) -> None:
    assert draw_strip(load_sample(dataset, 2)) == draw_strip(load_sample(dataset, 2))


def test_target_colours_tell_different_tokens_apart() -> None:
    target = np.zeros((1, 2, 2, 5), np.float32)
    target[0, 0, :, 1] = 3
    colours = target_colours(target)
    assert colours.shape == (1, 2, 2, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    np.testing.assert_array_equal(colours[0, 0, 0], colours[0, 0, 1])
    assert np.abs(colours[0, 0, 0] - colours[0, 1, 0]).max() == 1
