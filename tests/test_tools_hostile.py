"""What others wrote reaches the terminal as text, and a wrong place is one clear line for every command."""

from __future__ import annotations

import gzip
import json
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.manifest import Manifest
from shards.format.publish import publish_bytes
from shards.format.schema import Field, Schema
from shards.verify import verify_dataset
from shards.writer import ShardWriter
from tests.datasets import make_dataset, tubes_sample, tubes_schema
from tests.workplaces import make_workplace
from tools.cli import main
from tools.figures import draw_strip, load_sample
from tools.terminal import clean

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\n"


def assert_harmless(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in text)


def hostile_dataset(directory: Path) -> ShardDataset:
    """Escape sequences wherever a data set may hold free text."""
    directory.mkdir()
    schema = tubes_schema()
    about = {"label": 0, "label_name": ESCAPE, ESCAPE: {"text": ESCAPE}, "half": "\ud800"}
    with ShardWriter(directory / "train-00000-of-00001.tar", schema) as writer:
        writer.write("key", {**tubes_sample(0), "json": json.dumps(about).encode()})
    Manifest(
        split="train",
        schema=schema,
        shards=(writer.info,),
        label_names=(ESCAPE, "$\\frac{$"),
        provenance={"source": ESCAPE, ESCAPE: [ESCAPE]},
        failures={ESCAPE: 2},
    ).write(directory)
    return ShardDataset.open(directory)


def test_clean_spells_out_what_is_no_printable_text_and_keeps_the_rest() -> None:
    assert clean("Ünïcode 漢字 😀 ~") == "Ünïcode 漢字 😀 ~"
    assert clean("a\x1b[1mb\n\x9b\u202e\ud800") == "a\\x1b[1mb\\n\\x9b\\u202e\\ud800"
    assert_harmless(clean("".join(map(chr, range(0x3000)))))


@pytest.mark.parametrize("more", [(), ("--json",), ("key",), ("key", "--json")])
def test_show_prints_no_escape_sequence(
    tmp_path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile_dataset(tmp_path / "set")
    assert main(["show", str(tmp_path / "set"), *more]) == 0
    said = capsys.readouterr().out
    assert "owned" in said
    assert_harmless(said)


def test_a_label_is_drawn_as_text_and_not_as_a_formula(tmp_path: Path) -> None:
    sample = replace(load_sample(hostile_dataset(tmp_path / "set"), 0), title="$\\frac{$ \x1b[2J")
    assert draw_strip(sample).startswith(b"\x89PNG")


def test_verify_prints_each_problem_as_one_harmless_line_and_goes_on_with_the_next_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile_dataset(tmp_path / "set")
    (tmp_path / "set" / "train-00000-of-00001.tar").write_bytes(b"x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset.json").write_text("{")
    make_dataset(tmp_path / "sound", num_samples=2)
    places = [str(tmp_path / name) for name in ("broken", "set", "sound")]
    assert main(["verify", *places]) == 1
    captured = capsys.readouterr()
    assert_harmless(captured.out)
    assert "broken/dataset.json is damaged" in captured.out
    assert "sound: 2 samples" in captured.out
    assert main(["verify", "--json", *places]) == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(report["problems"]) for report in reports] == [True, True, False]


def test_member_names_and_error_lines_hold_no_escape_sequence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x", f"a.{ESCAPE}")
    assert main(["index", str(tmp_path)]) == 1
    assert main(["show", str(tmp_path / ESCAPE)]) == 1
    assert main(["show", str(make_dataset(tmp_path / "set").directory), f"x{ESCAPE}"]) == 1
    said = capsys.readouterr().err
    assert "owned" in said
    assert_harmless(said)
    assert said.count("reelshard: error: ") == 3


def test_numbers_of_every_kind_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dtypes = ("|b1", "<f2", "<c8", "<u8")
    schema = Schema(tuple(Field(name=dtype[1:], dtype=dtype, shape=(3,)) for dtype in dtypes))
    with ShardWriter(tmp_path / "train-00000-of-00001.tar", schema) as writer:
        writer.write("a", {d[1:]: np.array([0, 1, np.nan] if d[1] in "fc" else [0, 1, 1], d) for d in dtypes})
    Manifest(split="train", schema=schema, shards=(writer.info,)).write(tmp_path)
    assert main(["show", str(tmp_path), "a"]) == 0
    assert "b1: bool [3], 0 to 1, mean 0.6667" in capsys.readouterr().out


def test_a_device_a_pipe_a_folder_or_a_link_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "set", num_samples=2)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    places = ["/dev/full", "/dev/null", *(str(tmp_path / n) for n in ("pipe", "folder", "link", "dangling"))]
    before = [os.lstat(place) for place in places]
    for place in places:
        assert main(["show", str(dataset.directory), "#0", "--png", place]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"reelshard: error: {place} is a ")
        with pytest.raises(ShardError):
            publish_bytes(Path(place), b"x")
    after = [os.lstat(place) for place in places]
    assert [(a.st_ino, stat.S_IFMT(a.st_mode)) for a in after] == [(b.st_ino, stat.S_IFMT(b.st_mode)) for b in before]
    assert (tmp_path / "file").read_text() == "mine"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_shard_is_not_written_in_the_place_of_a_link_either(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.tar").symlink_to("/dev/null")
    with pytest.raises(ShardError, match="is a link"):
        ShardWriter(tmp_path / "train-00000-of-00001.tar", tubes_schema())


def test_a_picture_replaces_an_older_one(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set", num_samples=2)
    (tmp_path / "x.png").write_text("old")
    assert main(["show", str(dataset.directory), "#0", "--png", str(tmp_path / "x.png")]) == 0
    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "URL"),
        ("show", "URL"),
        ("index", "URL", "--out", "sidecars"),
        ("reshard", "URL", "--out", "copy"),
        ("reshard", "SET", "--out", "URL"),
        ("merge", "SET", "URL", "--out", "both"),
        ("card", "URL", "--out", "card.md"),
        ("zarr", "export", "URL", "cache"),
        ("zarr", "export", "SET", "URL"),
        ("zarr", "import", "SET", "URL"),
        ("bench", "URL"),
        ("train", "--recipe", "RECIPE", "--data", "URL", "--out", "run"),
        ("train", "--recipe", "RECIPE", "--data", "SET", "--val", "URL", "--out", "run"),
    ],
)
def test_a_store_that_is_not_there_is_one_clear_line_and_nothing_is_written_beside_it(
    tmp_path: Path,
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = make_workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("ENDPOINT_URL", "http://127.0.0.1:9")):
        monkeypatch.setenv(f"AWS_{name}", value)
    words = {"URL": "s3://bucket/a/set", "SET": place.train, "RECIPE": place.recipe}
    assert main([words.get(word, word) for word in command]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "s3://bucket/a/set" in line
    assert "no connection to http://127.0.0.1:9" in line or "is no local folder, which is needed here" in line
    assert not (tmp_path / "s3:").exists()


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst", "x.tar"])
def test_a_compressed_tar_is_one_clear_line_for_index_verify_and_show(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "set", num_samples=2)
    (tar,) = (tmp_path / "set").glob("*.tar")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / name).write_bytes(gzip.compress(tar.read_bytes()))
    assert main(["index", str(tmp_path / "packed")]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert name in line
    assert "compressed" in line
    assert "unpack it to a plain .tar" in line
    if name != "x.tar":
        for command in ("verify", "show"):
            assert main([command, str(tmp_path / "packed" / name)]) == 1
            assert "is a compressed tar" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [name]


def test_a_shard_that_was_compressed_is_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=2)
    dataset.tar_path(0).write_bytes(gzip.compress(dataset.tar_path(0).read_bytes()))
    assert "the tar is compressed (gzip)" in " ".join(verify_dataset(tmp_path).problems)


@pytest.mark.parametrize("split", ["../esc", "/tmp/x", "a\x1b[2J", ".."])
def test_a_split_that_leaves_the_folder_is_refused_by_every_command(
    tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "set", num_samples=2)
    (tmp_path / "set" / "dataset.json").unlink()
    videos = ("--videos", str(tmp_path), "--teacher", "none", "--out", str(tmp_path / "out"))
    for command in (("index", str(tmp_path / "set"), "--split", split), ("build", *videos, "--split", split)):
        assert main([*command]) == 1
        said = capsys.readouterr().err
        assert "is not allowed: give printable text" in said
        assert_harmless(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_held_out_set_of_another_view_is_refused_and_an_unknown_one_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_workplace(tmp_path)
    run = ("train", "--recipe", place.recipe, "--data", place.train, "--train.steps", "1", "--val", place.val)
    assert main([*run, "--out", str(tmp_path / "unknown")]) == 0
    assert f"view not recorded in {place.train}, {place.val}, not compared" in capsys.readouterr().out
    show(place.train, "a" * 64)
    show(place.val, "a" * 64)
    assert main([*run, "--out", str(tmp_path / "same")]) == 0
    assert "the same view" in capsys.readouterr().out
    assert json.loads((tmp_path / "same" / "run.json").read_text())["dataset"]["view_hash"] == "a" * 64
    show(place.val, "b" * 64)
    assert main([*run, "--out", str(tmp_path / "other")]) == 1
    assert_names_both(capsys.readouterr().err, place.train, place.val)
    assert not (tmp_path / "other").exists()


def test_a_probe_on_another_view_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = make_workplace(tmp_path)
    show(place.train, "a" * 64)
    run = str(tmp_path / "run")
    assert main(["train", "--recipe", place.recipe, "--data", place.train, "--out", run, "--train.steps", "1"]) == 0
    probe = ("evaluate", "probe", "--run", run, "--train", place.train, "--val", place.val)
    assert main([*probe]) == 0
    assert f"view not recorded in {place.val}, not compared" in capsys.readouterr().out
    show(place.val, "a" * 64)
    assert main([*probe]) == 0
    assert "the same view" in capsys.readouterr().out
    show(place.val, "b" * 64)
    assert main([*probe]) == 1
    assert_names_both(capsys.readouterr().err, place.train, place.val)
    show(place.train, "b" * 64)  # both agree, but the student was trained on another view
    assert main([*probe]) == 1
    assert_names_both(capsys.readouterr().err, place.train, f"the data of run {run}, step 1", first="b", second="a")


def show(directory: str, view: str) -> None:
    """Put a view's hash on record."""
    manifest = ShardDataset.open(directory).manifest
    replace(manifest, provenance={"view": {"hash": view}}).write(Path(directory))


def assert_names_both(said: str, one: str, other: str, first: str = "a", second: str = "b") -> None:
    line = said.splitlines()[-1]
    assert f"the views differ: {one} was cut by view {first * 12}, {other} by view {second * 12}" in line
