import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.index import index_path
from shards.format.layout import tubes_to_clip
from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tests.datasets import FRAMES, SIZE, add_group, lengths_sample, make_dataset, make_lengths_dataset
from tools.cli import main
from tools.figures import TokenColours, draw_strip, load_sample


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=7)


def test_show_prints_fields_classes_and_digest(dataset: ShardDataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(dataset.directory)]) == 0
    text = capsys.readouterr().out
    assert "7 samples in 2 shards" in text
    assert "target array  <f2 [16, 2, 6], tubes layout, 2.7 kB in all, 384 bytes a sample" in text
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
    colours = TokenColours.of(target).paint(target)
    assert colours.shape == (1, 2, 2, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    np.testing.assert_array_equal(colours[0, 0, 0], colours[0, 0, 1])
    assert np.abs(colours[0, 0, 0] - colours[0, 1, 0]).max() == 1


def test_a_printed_data_set_is_one_line_a_field(tmp_path: Path) -> None:
    dataset = add_group(make_lengths_dataset(tmp_path / "set"))
    assert repr(dataset) == f"<{tmp_path}/set: split train, 10 samples in 2 shards>"
    assert str(dataset).splitlines() == [
        f"{tmp_path}/set: split train, 10 samples in 2 shards",
        "features rows   <f2 [n, 3, 2], plain layout, 348 bytes in all, 35 bytes a sample (at most 72), "
        "0 to 6 rows (mean 2.9)",
        "frames   packed 380 bytes in all, 38 bytes a sample (at most 90), 0 to 4 pieces (mean 2.0)",
        "times    rows   <f4 [n], plain layout, 80 bytes in all, 8 bytes a sample (at most 16), 0 to 4 rows (mean 2.0)",
        "json     bytes  255 bytes in all, 26 bytes a sample (at most 30)",
        "dino     array  <f4 [5], plain layout, group dinov2, 200 bytes in all, 20 bytes a sample",
    ]


def test_what_a_lost_sidecar_would_tell_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_lengths_dataset(tmp_path)
    index_path(dataset.tar_path(1)).unlink()
    assert main(["show", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "features rows   <f2 [n, 3, 2], plain layout\n" in text
    assert "sizes and lengths are not all known: sidecar" in text


def test_show_prints_lengths_of_the_set_and_of_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_lengths_dataset(tmp_path)
    assert main(["show", str(tmp_path)]) == 0
    assert "0 to 6 rows (mean 2.9)" in capsys.readouterr().out
    assert main(["show", str(tmp_path), "#4"]) == 0
    text = capsys.readouterr().out
    assert "features: float16 [0, 3, 2]\n" in text
    assert "frames: 4 pieces, 0 to 27 bytes each\n" in text
    assert main(["show", str(tmp_path), "#4", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)["fields"]
    assert fields["frames"] == {"piece_bytes": [0, 9, 18, 27]}
    assert fields["features"] == {"dtype": "<f2", "shape": [0, 3, 2]}


def picture(shade: int, kind: str = "JPEG", size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (shade, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def frames_dataset(directory: Path, pieces: list[bytes]) -> ShardDataset:
    return make_lengths_dataset(directory, samples={"a": {**lengths_sample(1), "frames": pieces}})


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_packed_frames_are_drawn(tmp_path: Path, kind: str) -> None:
    dataset = frames_dataset(tmp_path / "set", [picture(20 * shade, kind) for shade in range(11)])
    sample = load_sample(dataset, "a")
    assert (sample.clip.shape, sample.target) == ((11, 16, 16, 3), None)
    assert [(int(frame[0, 0, 0]) + 9) // 20 for frame in sample.clip] == list(range(11))
    drawn = tmp_path / "out.png"
    assert main(["show", str(dataset.directory), "a", "--png", str(drawn)]) == 0
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_rows_of_frames_are_drawn(tmp_path: Path) -> None:
    schema = Schema((Field(name="frames", dtype="|u1", shape=(None, 8, 8, 3), layout="frames"),))
    frames = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
    dataset = make_lengths_dataset(tmp_path, schema=schema, samples={"a": {"frames": frames}})
    np.testing.assert_array_equal(load_sample(dataset, 0).clip, frames)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "no frames to draw among its fields features, frames, times, json"),
        ([b"text"], "no frames to draw among its fields"),
        ([picture(1), picture(1, size=8)], "differ in size"),
        ([picture(1), picture(1)[:50]], "piece 1 is no readable JPEG or PNG"),
    ],
)
def test_pieces_that_cannot_be_drawn_are_one_line(
    tmp_path: Path, pieces: list[bytes], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = frames_dataset(tmp_path / "set", pieces)
    with pytest.raises((ValueError, ShardError), match=message):
        load_sample(dataset, "a")
    assert main(["show", str(dataset.directory), "a", "--png", str(tmp_path / "out.png")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out.png").exists()
