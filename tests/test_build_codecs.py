"""Sets that are built, copied, merged and shown with codecs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.builder import Source, load_folder
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.layout import tubes_to_target
from shards.verify import verify_dataset
from tests.builds import CONFIG, build, contents, start_python
from tests.datasets import make_dataset
from tools.cli import main

CODEC = {"clip": "yuv420", "target": "int8"}
CODED = replace(CONFIG, codec=CODEC)


def test_a_build_with_codecs_says_how_near_they_come_and_keeps_the_rest(source: Source, tmp_path: Path) -> None:
    summary = build(source, tmp_path / "coded", config=CODED)
    build(source, tmp_path / "raw")
    coded, raw = ShardDataset.open(tmp_path / "coded"), ShardDataset.open(tmp_path / "raw")
    assert {field.name: field.codec for field in coded.schema} == {**CODEC, "json": None}
    assert [coded.key(n) for n in range(len(coded))] == [raw.key(n) for n in range(len(raw))]
    for number in range(len(raw)):
        for name in CODEC:
            value = np.asarray(raw.read(number, name))
            field = coded.schema[name]
            assert np.array_equal(np.asarray(coded.read(number, name)), field.decode(field.encode(value)))
        assert coded.read(number, "json") == raw.read(number, "json")
    assert verify_dataset(tmp_path / "coded").problems == ()
    assert set(summary.fidelity) == set(CODEC)
    assert summary.fidelity["clip"].least > 25
    assert summary.fidelity["target"].least > 0.999
    assert build(source, tmp_path / "raw").fidelity == {}


def test_a_build_goes_on_only_with_the_same_codecs(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path, config=CODED)
    with pytest.raises(ShardError, match=r"codec was \"yuv420\", is now null"):
        build(source, tmp_path)
    assert build(source, tmp_path, config=CODED).num_resumed == len(source.items)
    with pytest.raises(ValueError, match="no field 'clips'; there are clip, target, json"):
        build(source, tmp_path, config=replace(CONFIG, codec={"clips": "yuv420"}))


KILLED_BUILDER = """
import sys
from pathlib import Path
from shards.builder import load_folder
from tests.builds import build
from tests.test_build_codecs import CODED
items = 0
def progress(done, failed):
    global items
    items += done
    if items == int(sys.argv[3]):
        print("here", flush=True)
        sys.stdin.readline()
build(load_folder(Path(sys.argv[1])), Path(sys.argv[2]), config=CODED, progress=progress)
"""


def test_a_build_with_codecs_that_was_killed_ends_with_the_same_bytes(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path / "whole", config=CODED)
    with start_python(KILLED_BUILDER, source.root, tmp_path / "killed", 8) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        os.kill(builder.pid, signal.SIGKILL)
    build(load_folder(source.root), tmp_path / "killed", config=CODED)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_copy_by_codec_names_the_raw_set_and_another_copy_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_dataset(tmp_path / "raw")
    options = ["--codec", "clip=yuv420", "--codec", "target=int8"]
    assert main(["reshard", str(raw.directory), "--out", str(tmp_path / "coded"), *options]) == 0
    said = capsys.readouterr().out
    assert "clip as its codec stores it: PSNR in dB" in said
    assert "target as its codec stores it: cosine 0.99" in said
    coded = ShardDataset.open(tmp_path / "coded")
    (step,) = coded.manifest.provenance["history"]
    assert step["of"]["digest"] == raw.digest
    assert step["changed"] == {name: {"codec": codec, "was": None} for name, codec in CODEC.items()}
    assert verify_dataset(coded.directory).problems == ()
    for number in range(len(raw)):
        for name in CODEC:
            field = coded.schema[name]
            expected = field.encode(np.asarray(raw.read(number, name)))
            assert np.array_equal(np.asarray(coded.read_stored(number, name)), expected)
    assert main(["reshard", str(coded.directory), "--out", str(tmp_path / "other"), "--samples-per-shard", "5"]) == 0
    other = ShardDataset.open(tmp_path / "other")
    for number in range(len(raw)):
        for name in CODEC:
            one, two = (np.asarray(one.read_stored(number, name)) for one in (coded, other))
            assert np.array_equal(one, two)
    assert main(["reshard", str(other.directory), "--out", str(tmp_path / "back"), "--codec", "clip=raw"]) == 0
    back = ShardDataset.open(tmp_path / "back")
    assert {field.name: field.codec for field in back.schema} == {"clip": None, "target": "int8", "json": None}
    assert np.array_equal(np.asarray(back.read(7, "clip")), np.asarray(coded.read(7, "clip")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--codec", "clip=h264"], "codec 'h264' is not known"),
        (["--codec", "clop=yuv420"], "there is no field 'clop'"),
        (["--codec", "clip"], "give FIELD=NAME"),
        (["--codec", "clip=int8"], "field clip: codec int8 stores tokens"),
        (["--codec", "json=int8"], "only arrays of fixed shape"),
        (["--codec", "clip=yuv420", "--codec", "clip=raw"], "names the field 'clip' twice"),
        (["--codec", "clip=yuv420", "--shard-size", "1GB"], "with --codec give --samples-per-shard"),
    ],
)
def test_a_codec_that_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_dataset(tmp_path / "raw", num_samples=2)
    assert main(["reshard", str(raw.directory), "--out", str(tmp_path / "coded"), *options]) == 1
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "coded").exists()


def test_targets_of_a_coded_set_go_to_zarr_and_a_sample_shows_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr = pytest.importorskip("zarr")
    dataset = make_dataset(tmp_path / "set", num_samples=3, codec=CODEC)
    assert main(["zarr", "export", str(dataset.directory), str(tmp_path / "cache")]) == 0
    array = zarr.open_group(str(tmp_path / "cache" / "targets.zarr"), mode="r")["targets"]
    for number in range(3):
        assert np.array_equal(array[number], tubes_to_target(np.asarray(dataset.read(number, "target"))))
    capsys.readouterr()
    assert main(["show", str(dataset.directory), "000001"]) == 0
    assert "clip: uint8 [16, 2, 2, 8, 8, 3]" in capsys.readouterr().out


def test_a_recipe_names_codecs_and_the_build_prints_what_they_lose(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = ["--view.num_frames", "4", "--view.size", "32", "--build.patch", "16", "--build.workers", "1"]
    codec = ["--build.codec", "{clip: yuv420}", "--teacher", "none", "--out", str(tmp_path / "set")]
    assert main(["build", "--recipe", "st_jepa_ssv2", "--videos", str(source.root), *view, *codec]) == 0
    assert "clip as its codec stores it: PSNR in dB" in capsys.readouterr().out
    assert ShardDataset.open(tmp_path / "set").schema["clip"].codec == "yuv420"
    assert main(["show", str(tmp_path / "set")]) == 0
    assert "codec yuv420" in capsys.readouterr().out
    assert "codec:\n    clip: yuv420" in (tmp_path / "set" / "recipe.yaml").read_text()


def test_coded_sets_merge_as_they_are_stored_and_only_with_their_like(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, codec in (("one", CODEC), ("raw", {})):
        make_dataset(tmp_path / name, num_samples=7, codec=codec)
    sets = [str(tmp_path / name) for name in ("first", "last")]
    for folder, numbers in zip(sets, (range(4), range(4, 7)), strict=True):
        keys = tmp_path / "keys.txt"
        keys.write_text("".join(f"{number:06d}\n" for number in numbers))
        assert main(["reshard", str(tmp_path / "one"), "--out", folder, "--keys", str(keys)]) == 0
    assert main(["merge", *sets, "--out", str(tmp_path / "both")]) == 0
    both, one = ShardDataset.open(tmp_path / "both"), ShardDataset.open(tmp_path / "one")
    assert (len(both), both.schema) == (7, one.schema)
    for number in range(7):
        for name in CODEC:
            stored = [np.asarray(dataset.read_stored(number, name)) for dataset in (both, one)]
            assert np.array_equal(stored[0], stored[1])
    assert verify_dataset(both.directory).problems == ()
    assert main(["card", str(both.directory)]) == 0
    capsys.readouterr()
    assert main(["merge", sets[0], str(tmp_path / "raw"), "--out", str(tmp_path / "none")]) == 1
    assert "by the codec yuv420" in capsys.readouterr().err
