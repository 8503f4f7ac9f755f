"""`reelshard import`: tars of other tools become a data set, every kind of field, and hostile ones become nothing."""

from __future__ import annotations

import signal
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np
import pytest
from numpy.typing import NDArray
from webdataset import tariterators

from shards.dataset import ShardDataset
from shards.format.layout import clip_to_tubes, target_to_tubes
from shards.verify import verify_dataset
from tests.builds import contents, start_python
from tests.foreign_tars import LONG, npy, pictures, sparse, write_tar
from tests.object_store import http_files, moto_server, use_bucket
from tools.cli import main

RANDOM = np.random.default_rng(0)


def import_tars(tars: object, out: Path, *options: str) -> ShardDataset:
    assert main(["import", str(tars), "--out", str(out), *options]) == 0
    assert verify_dataset(out).problems == ()
    return ShardDataset.open(out)


def refused(tars: object, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line that is said; nothing is left."""
    assert main(["import", str(tars), "--out", str(out), *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert not out.exists()
    return error


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars; a brace list of them."""
    for number in range(3):
        write_tar(tmp_path / "tars" / f"{number:05d}.tar", pictures(number * 4, 4))
    return tmp_path / "tars" / "{00000..00002}.tar"


def stock(tars: Path) -> list[dict[str, Any]]:
    """What webdataset itself makes of tars."""
    samples: list[dict[str, Any]] = []
    for name in braceexpand.braceexpand(str(tars)):
        with Path(name).open("rb") as stream:
            members = tariterators.tar_file_expander([{"url": name, "stream": stream}])
            samples += [dict(sample) for sample in tariterators.group_by_keys(members)]
    return samples


def test_keys_and_members_are_those_that_webdataset_reads(tars: Path, tmp_path: Path) -> None:
    dataset, expected = import_tars(tars, tmp_path / "out"), stock(tars)
    assert [dataset.key(number) for number in range(len(dataset))] == [sample["__key__"] for sample in expected]
    assert [info.num_samples for info in dataset.manifest.shards] == [4, 4, 4]
    for number, sample in enumerate(expected):
        for name in ("jpg", "txt", "cls"):
            assert dataset.read(number, name) == sample[name]
        assert npy(np.asarray(dataset.read(number, "emb"))) == sample["emb.npy"]
    assert dataset.schema["emb"].kind == "array"
    assert (dataset.extents(0, "emb").offsets % 4096 == 0).all()
    assert [(step["command"], step["num_tars"]) for step in dataset.manifest.provenance["history"]] == [("import", 3)]


def clip(number: int, frames: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (frames, 16, 24, 3), np.uint8)


def target(number: int) -> NDArray[np.float16]:
    return np.random.default_rng(number).standard_normal((2 * 6, 5)).astype(np.float16)


def test_clips_and_targets_are_cut_into_tubes_where_asked(tmp_path: Path) -> None:
    members = {}
    for number in range(3):
        members[f"{number}.clip.npy"] = npy(clip(number))
        members[f"{number}.target.npy"] = npy(target(number))
        members[f"{number}.other.npy"] = npy(np.zeros((3, 5), np.float32))
    tar = write_tar(tmp_path / "a.tar", members)
    plain = import_tars(tar, tmp_path / "plain")
    assert (plain.schema["clip"].layout, plain.schema["target"].layout) == ("frames", "plain")
    cut = import_tars(tar, tmp_path / "tubes", "--layout", "tubes", "--patch", "8")
    assert cut.schema["clip"].shape == (6, 2, 2, 8, 8, 3)
    assert (cut.schema["target"].shape, cut.schema["target"].layout) == ((6, 2, 5), "tubes")
    assert cut.schema["other"].layout == "plain"
    for number in range(3):
        np.testing.assert_array_equal(np.asarray(plain.read(number, "clip")), clip(number))
        np.testing.assert_array_equal(np.asarray(cut.read(number, "clip")), clip_to_tubes(clip(number), 2, 8))
        np.testing.assert_array_equal(np.asarray(cut.read(number, "target")), target_to_tubes(target(number), 2))


def test_tubes_that_cannot_be_cut_are_one_line(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no member holds clips" in refused(tars, tmp_path / "out", capsys, "--layout", "tubes")
    tar = write_tar(tmp_path / "a.tar", {"0.clip.npy": npy(clip(0, frames=5))})
    assert "cannot be cut into tubelets" in refused(tar, tmp_path / "out", capsys, "--layout", "tubes", "--patch", "8")
    assert "give at least 1" in refused(tar, tmp_path / "out", capsys, "--layout", "tubes", "--patch", "0")


def test_arrays_of_differing_length_become_rows_and_numbered_members_packed_pieces(tmp_path: Path) -> None:
    members: list[tuple[str, bytes]] = []
    for number in range(3):
        rows = np.arange(4 * number, dtype=np.float32).reshape(number, 4)
        members.append((f"{number}.features.npy", npy(rows)))
        members += [(f"{number}.{place}.jpg", b"%d" % place * place) for place in (10, 2, 1, 0)[: number + 1]]
        members += [(f"{number}.cam.0.png", b"left"), (f"{number}.cam.1.png", b"right")]
    dataset = import_tars(write_tar(tmp_path / "a.tar", members), tmp_path / "out")
    kinds = {field.name: field.kind for field in dataset.schema}
    assert kinds == {"features": "rows", "jpg": "packed", "cam.png": "packed"}
    assert dataset.lengths("features").tolist() == [0, 1, 2]
    assert dataset.lengths("jpg").tolist() == [1, 2, 3]
    assert dataset.read(2, "jpg") == [b"1", b"22", b"10" * 10]
    assert dataset.read(1, "cam.png") == [b"left", b"right"]


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.array(7.0, np.float32),
        np.array([[True, False]]),
        np.array([1 + 2j], np.complex64),
    ],
)
def test_arrays_of_any_order_and_sex_come_out_as_they_are(tmp_path: Path, array: NDArray[Any]) -> None:
    tar = write_tar(tmp_path / "a.tar", {f"{n}.x.npy": npy(array) for n in range(2)})
    dataset = import_tars(tar, tmp_path / "out")
    assert dataset.schema["x"].kind == "array"
    np.testing.assert_array_equal(np.asarray(dataset.read(1, "x")), array)


def test_arrays_that_have_nothing_in_common_stay_files(tmp_path: Path) -> None:
    arrays: Sequence[NDArray[Any]] = [np.zeros(3), np.zeros((2, 2), np.int8), np.array(["a"])]
    tar = write_tar(tmp_path / "a.tar", {f"{n}.x.npy": npy(array) for n, array in enumerate(arrays)})
    dataset = import_tars(tar, tmp_path / "out")
    assert [dataset.read(number, "x.npy") for number in range(3)] == [npy(array) for array in arrays]


def test_only_the_named_members_are_taken_so_that_samples_may_differ_in_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = pictures(0, 3)
    del members["00001.txt"]
    tar = write_tar(tmp_path / "a.tar", members)
    error = refused(tar, tmp_path / "out", capsys)
    assert "key 00001: has members ['cls', 'emb.npy', 'jpg']" in error
    assert "name those that all have with --fields" in error
    assert "no sample has a member 'mp4'" in refused(tar, tmp_path / "out", capsys, "--fields", "jpg,mp4")
    dataset = import_tars(tar, tmp_path / "out", "--fields", "jpg,emb")
    assert dataset.schema.names == ("jpg", "emb")


def test_keys_that_begin_anew_in_every_tar_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", {"a.txt": b"%d" % number, f"a-{number}.txt": b"%d!" % number})
    dataset = import_tars(tmp_path / "{0..2}.tar", tmp_path / "out")
    keys = [dataset.key(number) for number in range(6)]
    assert keys == ["a", "a-0", "a-3", "a-1", "a-4", "a-2"]
    assert [dataset.read(number, "txt") for number in range(6)] == [b"0", b"0!", b"1", b"1!", b"2", b"2!"]
    assert "2 keys ('a', 'a') of earlier samples" in capsys.readouterr().err


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_folders_are_keys(tmp_path: Path, tar_format: int) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a/b/0.txt": b"x"}, tar_format)
    assert import_tars(tar, tmp_path / "out").key(0) == "a--b--0"
    write_tar(tmp_path / "b.tar", {f"{LONG}0.txt": b"x"}, tar_format)
    assert main(["import", str(tmp_path / "b.tar"), "--out", str(tmp_path / "long")]) == 1


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../0.jpg", b"x")], "points outside of the archive"),
        ([("0\n.jpg", b"x")], "is not a plain name"),
        ([("0.pkl", b"x")], "is a pickle"),
        ([("0.x.npy", npy(np.array([{}], dtype=object)))], "pickled objects"),
        ([("0.jpg", b"x"), ("0.jpg", b"y")], "is there twice"),
        ([("0.jpg", b"x"), ("1.jpg", b"y"), ("0.txt", b"z")], "do not stand together"),
        ([("0", b"x")], "has no suffix"),
        ([("0.1.jpg", b"x"), ("0.jpg", b"y")], "its members are numbered and not"),
        ([], "there is no sample"),
    ],
)
def test_hostile_tars_are_one_line_and_leave_nothing(
    tmp_path: Path, members: list[tuple[str, bytes]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = write_tar(tmp_path / "a.tar", members)
    assert said in refused(tar, tmp_path / "out", capsys)


def test_damaged_sparse_and_absent_tars_and_commands_are_refused(
    tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tars.parent / "00001.tar"
    first.write_bytes(first.read_bytes()[:3000])
    assert "shard 00001.tar, offset" in refused(tars, tmp_path / "out", capsys)
    assert "sparse file" in refused(sparse(tmp_path / "s.tar"), tmp_path / "out", capsys)
    assert "there is no tar" in refused(tmp_path / "none.tar", tmp_path / "out", capsys)
    assert "is a command, and none is run" in refused("pipe:touch ran", tmp_path / "out", capsys)
    assert "braces of" in refused("{0..3.tar", tmp_path / "out", capsys)


def test_what_is_there_stays_and_the_same_command_again_is_done_at_once(
    tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(import_tars(tars, tmp_path / "out").directory)
    import_tars(tars, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    write_tar(tars.parent / "00001.tar", pictures(50, 4))
    assert main(["import", str(tars), "--out", str(tmp_path / "out")]) == 1
    assert "was begun with other samples" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


KILLED = """
import sys
from pathlib import Path
from shards.exchange.foreign_samples import plan_import
count = 0
def progress(done, failed=0):
    global count
    count += done
    if count == 7:
        print("here", flush=True)
        sys.stdin.readline()
tars = [Path(tar) for tar in sys.argv[2:]]
plan_import(tars, source="x", samples_per_shard=3).run(Path(sys.argv[1]), progress=progress)
"""


def test_an_import_that_was_killed_goes_on_with_the_same_bytes(tars: Path, tmp_path: Path) -> None:
    from shards.exchange.foreign_samples import plan_import

    paths = sorted(tars.parent.glob("*.tar"))
    plan_import(paths, source="x", samples_per_shard=3).run(tmp_path / "whole")
    process = start_python(KILLED, tmp_path / "out", *paths)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out" / "dataset.json").exists()
    plan_import(paths, source="x", samples_per_shard=3).run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_tars_over_plain_http_are_fetched_and_forgotten(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http_files(tars.parent) as url:
        there = import_tars(f"{url}/{tars.name}", tmp_path / "there")
    here = import_tars(tars, tmp_path / "here")
    assert there.manifest.shards == here.manifest.shards
    assert not (tmp_path / "there.tars").exists()
    assert main(["import", f"{url}/{tars.name}", "--out", str(tmp_path / "gone")]) == 1


@pytest.mark.slow
def test_tars_in_a_bucket_are_fetched_by_the_store(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards.store import open_store

    with moto_server() as port:
        url = use_bucket(port, tmp_path.name, monkeypatch)
        for path in tars.parent.glob("*.tar"):
            open_store(url).put_file(path, f"raw/{path.name}")
        there = import_tars(f"{url}/raw/{tars.name}", tmp_path / "there")
    assert there.manifest.shards == import_tars(tars, tmp_path / "here").manifest.shards
