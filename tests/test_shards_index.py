"""`reelshard index`: tars are read once, several at a time; a run that is killed goes on where it was."""

from __future__ import annotations

import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.adopt import index_directory
from shards.dataset import ShardDataset
from shards.format.errors import ShardError, UnsafeMemberError
from shards.verify import verify_dataset
from tests.builds import contents, start_python
from tests.datasets import add_group, add_lengths_group, make_dataset, make_lengths_dataset
from tests.foreign_tars import LONG, npy, pictures, sparse, write_tar
from tools.cli import main

NUM_TARS, PER_TAR = 6, 4

# argv: folder, tars after which to say so and wait
WAITING = """
import sys
from pathlib import Path
from shards.adopt import index_directory
def progress(done, failed=0):
    if len(list(Path(sys.argv[1]).glob(".build/*.scan"))) >= int(sys.argv[2]):
        print("here", flush=True)
        sys.stdin.readline()
index_directory(Path(sys.argv[1]), threads=2, progress=progress)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Foreign tars, each of which takes some reading."""
    for number in range(NUM_TARS):
        members = pictures(number * PER_TAR, PER_TAR)
        members |= {f"{number * PER_TAR + row:05d}.bin": bytes(200_000) for row in range(PER_TAR)}
        ordered = sorted(members.items(), key=lambda member: (member[0][:5], member[0]))
        write_tar(tmp_path / "set" / f"{number:05d}.tar", ordered)
    return tmp_path / "set"


def killed(folder: Path, after: int, number: signal.Signals = signal.SIGKILL) -> subprocess.Popen[str]:
    process = start_python(WAITING, folder, after)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    return process


def bytes_read() -> int:
    """What this process has asked of files so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])


def read_by_indexing(folder: Path) -> int:
    before = bytes_read()
    index_directory(folder)
    return bytes_read() - before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_reads_no_tar_again_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    tar_bytes = sum(path.stat().st_size for path in folder.glob("*.tar"))
    whole = tmp_path / "whole"
    whole.mkdir()
    for path in folder.glob("*.tar"):
        (whole / path.name).write_bytes(path.read_bytes())
    everything = read_by_indexing(whole)
    assert everything > tar_bytes
    killed(folder, 3, number)
    assert not list(folder.glob("*.idx"))
    assert len(list(folder.glob(".build/*.scan"))) >= 3
    assert read_by_indexing(folder) < everything - 2.5 / NUM_TARS * tar_bytes
    assert contents(folder) == contents(whole)


def test_a_tar_that_was_changed_after_it_was_read_is_read_again(folder: Path) -> None:
    killed(folder, 3)
    kept = next(path.name.removesuffix(".scan") for path in folder.glob(".build/*.scan"))
    first = int(kept[:5]) * PER_TAR
    write_tar(folder / kept, pictures(first, PER_TAR) | {f"{first + row:05d}.bin": b"new" for row in range(PER_TAR)})
    with pytest.raises(ShardError, match="do not stand together"):
        index_directory(folder)
    members = pictures(first, PER_TAR) | {f"{first + row:05d}.bin": b"new" for row in range(PER_TAR)}
    write_tar(folder / kept, sorted(members.items()))
    index_directory(folder)
    dataset = ShardDataset.open(folder)
    assert dataset[f"{first:05d}"]["bin"] == b"new"
    assert verify_dataset(folder).problems == ()


def test_a_record_of_what_was_read_that_is_damaged_counts_for_nothing(folder: Path) -> None:
    killed(folder, 3)
    for number, path in enumerate(folder.glob(".build/*.scan")):
        data = path.read_bytes()
        path.write_bytes([data[: len(data) // 2], b"", b"\xc1", b"\x80"][number % 4])
    index_directory(folder)
    assert verify_dataset(folder).problems == ()


def test_two_runs_at_once_do_not_meet(folder: Path) -> None:
    process = start_python(WAITING, folder, 1)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    with pytest.raises(ShardError, match=f"another process \\(pid {process.pid} on .*is building into"):
        index_directory(folder)
    process.kill()
    process.communicate()
    index_directory(folder)


def test_what_a_stopped_build_keeps_beside_the_shards_is_not_touched(folder: Path) -> None:
    (folder / ".build").mkdir()
    (folder / ".build" / "train-00000-of-00001.tar.failures.jsonl").write_text("")
    index_directory(folder)
    assert [path.name for path in (folder / ".build").iterdir() if path.name != "lock"] == [
        "train-00000-of-00001.tar.failures.jsonl"
    ]


def test_progress_counts_bytes_those_of_tars_that_are_right_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []
    index_directory(folder, progress=lambda done, failed=0: told.append(done))
    total = sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert sum(told) == total
    next(iter(folder.glob("*.idx"))).unlink()
    told.clear()
    index_directory(folder, progress=lambda done, failed=0: told.append(done))
    assert sum(told) == total
    assert main(["index", str(folder)]) == 0
    assert "indexing: 5.0 MB of 5.0 MB, took" in capsys.readouterr().err


@pytest.mark.parametrize("make", [make_dataset, make_lengths_dataset])
def test_a_manifest_of_every_kind_of_field_is_made_again_from_sidecars(
    tmp_path: Path, make: Callable[[Path], ShardDataset]
) -> None:
    add = add_lengths_group if make is make_dataset else add_group
    dataset = add(make(tmp_path / "src"))
    (tmp_path / "src" / "dataset.json").unlink()
    index_directory(tmp_path / "src", threads=5)
    again = ShardDataset.open(tmp_path / "src")
    assert again.schema == dataset.schema
    assert again.manifest.shards == dataset.manifest.shards
    assert again.manifest.groups == dataset.manifest.groups
    assert verify_dataset(tmp_path / "src").problems == ()


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_folders_of_other_tools_are_read(tmp_path: Path, tar_format: int) -> None:
    members = {f"{LONG}{number}.{suffix}": suffix.encode() * number for number in range(4) for suffix in ("jpg", "txt")}
    write_tar(tmp_path / "a.tar", members, tar_format)
    index_directory(tmp_path)
    dataset = ShardDataset.open(tmp_path)
    assert [dataset.key(number) for number in range(4)] == [
        f"{LONG.rstrip('/').replace('/', '--')}--{number}" for number in range(4)
    ]
    assert dataset[3]["txt"] == b"txt" * 3
    assert verify_dataset(tmp_path).problems == ()


def test_members_in_another_order_in_each_sample_are_the_same_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.a", b"a0"), ("0.b", b"b0"), ("1.b", b"b1"), ("1.a", b"a1")])
    index_directory(tmp_path)
    dataset = ShardDataset.open(tmp_path)
    assert [dataset[number] for number in range(2)] == [{"a": b"a0", "b": b"b0"}, {"a": b"a1", "b": b"b1"}]
    assert verify_dataset(tmp_path).problems == ()


def test_sparse_members_are_refused_since_their_bytes_are_not_there(tmp_path: Path) -> None:
    sparse(tmp_path / "a.tar")
    with pytest.raises(UnsafeMemberError, match="stored as a sparse file"):
        index_directory(tmp_path)


@pytest.mark.parametrize(
    "name", ["../0.jpg", "/0.jpg", "a/../../0.jpg", "0\n.jpg", "0.j\x1bpg", "0.pkl", "0.JPG.PT", "..", "0", ".jpg"]
)
def test_a_hostile_name_is_one_line_and_nothing_is_written(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "a.tar", {name: b"x"})
    before = contents(tmp_path)
    assert main(["index", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("reelshard: error: shard a.tar")
    assert contents(tmp_path) == before


def test_a_name_with_a_zero_byte_in_it_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"0XY.jpg": b"x"})
    data = bytearray(path.read_bytes())
    at = data.index(b"0XY.jpg")
    block = at - at % 512
    data[at : at + 7] = b"0\0Y.jpg"
    data[block + 148 : block + 156] = b" " * 8
    data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    path.write_bytes(data)
    with pytest.raises(UnsafeMemberError, match="is not a plain name"):
        index_directory(tmp_path)


def test_one_damaged_tar_among_many_is_named_and_mending_it_is_all_there_is_to_do(folder: Path) -> None:
    path = folder / "00004.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"shard 00004\.tar"):
        index_directory(folder, threads=1)
    assert not (folder / "dataset.json").exists()
    path.write_bytes(whole)
    index_directory(folder)
    assert verify_dataset(folder).problems == ()


def test_arrays_whose_shapes_differ_are_bytes_with_the_checksum_of_all_of_them(tmp_path: Path) -> None:
    members = {f"{number}.x.npy": npy(np.arange(number + 1)) for number in range(3)}
    write_tar(tmp_path / "a.tar", members)
    index_directory(tmp_path)
    dataset = ShardDataset.open(tmp_path)
    assert [dataset[number]["x.npy"] for number in range(3)] == list(members.values())
    assert verify_dataset(tmp_path).problems == ()
