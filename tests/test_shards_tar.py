"""The strict scan, and tars made elsewhere."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.adopt import index_directory
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, MissingDataError, ShardError, UnsafeMemberError
from shards.format.index import index_path
from shards.format.npy import parse_header
from shards.format.tar import aligned_header, open_tar, scan
from shards.payload import as_bytes
from shards.verify import verify_dataset
from tests.datasets import make_dataset


def make_tar(path: Path, members: dict[str, bytes], tar_format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=tar_format, encoding="utf-8") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def stock_shards(directory: Path, count: int = 2) -> None:
    for shard in range(count):
        with webdataset.TarWriter(str(directory / f"part-{shard}.tar")) as writer:
            for number in range(shard * 3, shard * 3 + 3):
                array = np.full((2, 3), number, np.float32)
                writer.write(
                    {"__key__": f"sample{number}", "x.npy": array, "json": {"label": number}, "txt": "t" * number}
                )


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_scan_agrees_with_tarfile_on_every_format(tmp_path: Path, tar_format: int) -> None:
    names = ["a.txt", "folder/b.bin", "long" * 20 + "/" + "name" * 20 + ".txt", "ünïcode.txt"]
    path = tmp_path / "t.tar"
    make_tar(path, {name: name.encode() * 50 for name in names}, tar_format)
    with open_tar(path) as file:
        found = {
            member.name: path.read_bytes()[member.offset : member.offset + member.size] for member in scan(file, "t")
        }
    assert found == {name: name.encode() * 50 for name in names}


@given(position=st.integers(0, 100_000).map(lambda blocks: blocks * 512), size=st.integers(0, 10**9))
@settings(max_examples=200)
def test_an_aligned_header_ends_on_a_page_and_is_a_tar_header(position: int, size: int) -> None:
    front = aligned_header("key.clip.npy", size, position)
    assert (position + len(front)) % 4096 == 0
    info = tarfile.TarInfo.frombuf(front[-512:], "utf-8", "strict")
    assert (info.name, info.size, info.mtime, info.uid) == ("key.clip.npy", size, 0, 0)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        info = tarfile.TarInfo("evil.json")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UnsafeMemberError, match="link or a special file"):
        index_directory(tmp_path)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a/../../evil.json"])
def test_a_member_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    make_tar(tmp_path / "t.tar", {name: b"{}"})
    with pytest.raises(UnsafeMemberError, match="outside"):
        index_directory(tmp_path)


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.weights.pt", "a.PYD"])
def test_a_pickle_is_refused(tmp_path: Path, name: str) -> None:
    make_tar(tmp_path / "t.tar", {name: b"\x80\x04."})
    with pytest.raises(UnsafeMemberError, match="pickle"):
        index_directory(tmp_path)


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    make_tar(tmp_path / "t.tar", {"a.x.npy": npy(np.array([{}, None], dtype=object))})
    with pytest.raises(UnsafeMemberError, match="pickled"):
        index_directory(tmp_path)


@given(text=st.text(st.sampled_from("{}()'descr:<f4, shaptruefolin_d1,"), max_size=60))
def test_no_npy_header_is_evaluated(text: str) -> None:
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    try:
        parse_header(data)
    except ValueError:
        return
    raise AssertionError(f"{text!r} was taken for a header")


def test_stock_shards_become_readable_without_being_rewritten(tmp_path: Path) -> None:
    stock_shards(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    index_directory(tmp_path, split="validation")
    dataset = ShardDataset.open(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")} == before
    assert dataset.schema["x"].shape == (2, 3)
    for number in range(6):
        sample = dataset[f"sample{number}"]
        assert np.array_equal(sample["x"], np.full((2, 3), number, np.float32))
        assert json.loads(as_bytes(sample["json"])) == {"label": number}
        assert sample["txt"] == b"t" * number
    assert verify_dataset(tmp_path).problems == ()


def test_arrays_of_different_shapes_are_kept_as_bytes(tmp_path: Path) -> None:
    make_tar(tmp_path / "t.tar", {"a.x.npy": npy(np.zeros(2)), "b.x.npy": npy(np.zeros(3))})
    index_directory(tmp_path)
    data = ShardDataset.open(tmp_path)["b"]["x.npy"]
    assert np.load(io.BytesIO(as_bytes(data)), allow_pickle=False).shape == (3,)


@pytest.mark.parametrize("cut", [100, 512, 5000, 9000, 10239])
def test_a_cut_tar_is_an_error_and_never_a_shorter_dataset(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "t.tar"
    make_tar(path, {f"{number}.txt": b"x" * 700 for number in range(6)})
    content = path.read_bytes()
    path.write_bytes(content[: min(cut, len(content) - 2048)])
    with pytest.raises(DamagedShardError, match=r"t\.tar"):
        index_directory(tmp_path)
    assert not list(tmp_path.glob("*.idx"))


def test_bytes_after_the_end_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    make_tar(path, {"a.txt": b"x"})
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DamagedShardError, match="follow the archive's end"):
        index_directory(tmp_path)


def test_samples_with_different_members_are_refused_by_key(tmp_path: Path) -> None:
    make_tar(tmp_path / "t.tar", {"a.txt": b"", "a.json": b"{}", "b.txt": b""})
    with pytest.raises(ShardError, match="key b"):
        index_directory(tmp_path)


def test_a_folder_without_tars_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no \.tar files"):
        index_directory(tmp_path)


def test_a_foreign_set_whose_member_names_hold_folders_is_sound(tmp_path: Path) -> None:
    names = ["./a/b/1.txt", "a/c/1.txt", "d\\e/2.txt", "3.txt"]
    make_tar(tmp_path / "t.tar", {name: name.encode() for name in names})
    index_directory(tmp_path)
    assert verify_dataset(tmp_path).problems == ()
    dataset = ShardDataset.open(tmp_path)
    assert [dataset.key(number) for number in range(4)] == ["a--b--1", "a--c--1", "d-e--2", "3"]
    content = bytearray((tmp_path / "t.tar").read_bytes())
    content[content.index(b"a/c/1.txt")] = ord("b")
    (tmp_path / "t.tar").write_bytes(content)
    assert verify_dataset(tmp_path).problems


@pytest.mark.parametrize("size", ["9" * 5000, "\u00b2", "-1", "", "1e3"])
def test_a_pax_size_that_is_no_number_is_an_error(tmp_path: Path, size: str) -> None:
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.txt")
        info.pax_headers = {"size": size}
        tar.addfile(info)
    with pytest.raises(DamagedShardError, match="pax size is not a number"):
        index_directory(tmp_path)


def test_lost_sidecars_are_made_again_and_equal_the_first(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    sidecar = index_path(dataset.tar_path(1))
    before = sidecar.read_bytes()
    sidecar.unlink()
    index_directory(tmp_path)
    assert sidecar.read_bytes() == before


def test_a_sidecar_is_not_made_for_a_tar_that_is_not_the_manifests(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    index_path(dataset.tar_path(1)).unlink()
    content = bytearray(dataset.tar_path(1).read_bytes())
    content[5000] ^= 1
    dataset.tar_path(1).write_bytes(content)
    with pytest.raises(DamagedShardError, match="not the one of the manifest"):
        index_directory(tmp_path)
