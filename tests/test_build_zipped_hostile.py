"""Zips that are damaged or hostile: clear failures, and the rest is built."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.builder import load_msrvtt, open_source
from shards.builder.decode.zipped import list_members
from shards.builder.plan import make_plan
from shards.builder.readiness import look_ahead
from shards.format.errors import ShardError
from tests.builds import CONFIG, ROOT, VIEW, build
from tests.official import Scene, write_clip, write_msrvtt
from tests.zips import failure, listed, read, write_zip


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("v") / "a.mp4", Scene("red", "left").frames(8)).read_bytes()


@pytest.mark.parametrize(
    "name", ["../a.mp4", "/etc/a.mp4", "v/../../a.mp4", "..\\a.mp4", "C:/a.mp4", "v/a\n.mp4", "v\\a.mp4"]
)
def test_a_zip_with_a_name_that_leads_elsewhere_is_refused_whole(tmp_path: Path, name: str, video: bytes) -> None:
    root = write_msrvtt(tmp_path / "vtt", num_frames=4)
    with zipfile.ZipFile(root / "MSRVTT_Videos.zip", "a") as out:
        out.writestr(zipfile.ZipInfo(name), video)
    with pytest.raises(ShardError, match=r"MSRVTT_Videos.zip has a member named .*nothing of it is used") as caught:
        open_source(root, None, "train")
    assert "\n" not in str(caught.value)
    assert failure(root, "MSRVTT_Videos.zip/video/video0.mp4").reason == "open_error"


def test_a_zip_is_refused_that_was_cut(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path / "vtt", num_frames=4)
    path = root / "MSRVTT_Videos.zip"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ShardError, match=r"MSRVTT_Videos.zip \(\d+ bytes\) cannot be read as a zip.*download it again"):
        open_source(root, None, "train")


def test_members_that_overlap_are_refused(tmp_path: Path, video: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("a.mp4", video)
        twice = zipfile.ZipInfo("b.mp4")
        for name in ("header_offset", "CRC", "compress_size", "file_size"):
            setattr(twice, name, getattr(out.getinfo("a.mp4"), name))
        out.filelist.append(twice)
    with pytest.raises(ShardError, match="overlaps another"):
        list_members(tmp_path / "a.zip")


def damage(data: bytearray, place: int) -> None:
    data[place] ^= 0xFF


def flag_as_encrypted(data: bytearray, name: bytes) -> None:
    for signature, flags, header in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        at = data.index(name) - header if signature == b"PK\x03\x04" else data.rindex(name) - header
        assert data[at : at + 4] == signature
        data[at + flags] |= 1


def claim_size(data: bytearray, name: bytes, num_bytes: int) -> None:
    at = data.rindex(name) - 46
    data[at + 24 : at + 28] = struct.pack("<I", num_bytes)


def method(data: bytearray, name: bytes, number: int) -> None:
    for at, place in ((data.index(name) - 30, 8), (data.rindex(name) - 46, 10)):
        data[at + place : at + place + 2] = struct.pack("<H", number)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: damage(data, data.index(b"PK\x01\x02") - 200), "cannot be read: Bad CRC-32"),
        (lambda data: flag_as_encrypted(data, b"bad.mp4"), "it is encrypted in a.zip"),
        (lambda data: method(data, b"bad.mp4", 97), "cannot be read: That compression method is not supported"),
        (lambda data: claim_size(data, b"bad.mp4", 100), "cannot be read: Bad CRC-32"),
        (lambda data: claim_size(data, b"bad.mp4", 1_000_000), "of 1000000 bytes"),
        (lambda data: claim_size(data, b"bad.mp4", 4_000_000_000), "4000000000 unpacked: that is no video"),
        (lambda data: damage(data, data.index(b"bad.mp4") - 30), "cannot be read: Bad magic number"),
    ],
)
def test_a_damaged_member_is_one_failure_and_the_others_are_built(
    tmp_path: Path, video: bytes, spoil: Callable[[bytearray], None], said: str
) -> None:
    path = write_zip(tmp_path / "a.zip", {"good.mp4": video, "bad.mp4": video})
    data = bytearray(path.read_bytes())
    spoil(data)
    path.write_bytes(data)
    found = failure(tmp_path, "a.zip/bad.mp4")
    assert (found.reason, said in found.message) == ("open_error", True), found.message
    summary = build(listed(tmp_path, "a.zip/good.mp4", "a.zip/bad.mp4"), tmp_path / "out")
    assert (summary.num_samples, summary.failures) == (1, {"open_error": 1})


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"bomb.mp4": bytes(100 << 20)}, zipfile.ZIP_DEFLATED)
    assert "bytes that say they are 104857600 unpacked" in failure(tmp_path, "a.zip/bomb.mp4").message


def test_a_member_that_is_there_twice_or_not_at_all_is_a_failure(tmp_path: Path, video: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("a.mp4", video)
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("a.mp4", b"other")
        out.writestr("empty.mp4", b"")
    found = failure(tmp_path, "a.zip/a.mp4")
    assert (found.reason, found.message) == ("duplicate_id", "a.zip has 2 members named 'a.mp4': which is meant?")
    found = failure(tmp_path, "a.zip/b.mp4")
    assert (found.reason, found.message) == ("missing_file", "a.zip has no member 'b.mp4'")
    source = listed(tmp_path, "a.zip/a.mp4", "a.zip/b.mp4", "a.zip/empty.mp4", "b.zip/c.mp4")
    ready = look_ahead(make_plan(source, VIEW, CONFIG, split="train"), tmp_path / "out")
    assert ready.absent == {"empty_file": 1, "missing_file": 3}


def test_a_video_in_two_zips_is_one_video_where_both_hold_the_same_bytes(tmp_path: Path, video: bytes) -> None:
    root = write_msrvtt(tmp_path, num_train=2, num_test=1, num_frames=4)
    same = read(root, "MSRVTT_Videos.zip/video/video0.mp4")
    write_zip(root / "more.zip", {"video0.mp4": same, "video1.mp4": video, "__MACOSX/._video2.mp4": b"x"})
    problems = [item.problem for item in load_msrvtt(root, "train").items]
    assert problems[0] is None
    assert problems[1] == (
        "duplicate_id",
        "there are two videos of this id, MSRVTT_Videos.zip/video/video1.mp4 and more.zip/video1.mp4: which is meant?",
    )


NO_ROOM = """
import resource, sys
from pathlib import Path
from shards.builder.decode.zipped import local_file
from shards.builder.failure import BuildFailure

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with local_file(Path(sys.argv[1]), "a.zip/a.mp4"):
        print("room")
except BuildFailure as failure:
    print(failure)
"""


def test_no_room_for_a_scratch_file_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "a.zip", {"a.mp4": bytes(3 << 20)})
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    said = "open_error: there is no room to take it out of its zip: File too large; set TMPDIR to a folder with room"
    assert said in done.stdout
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert "No such file or directory; set TMPDIR" in failure(tmp_path, "a.zip/a.mp4").message
