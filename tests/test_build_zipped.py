"""Videos inside of zips: the same clips as unpacked, and clear failures for zips that are damaged or hostile."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.builder import Item, Source, load_msrvtt, open_source
from shards.builder.decode.zipped import list_members, local_file
from shards.builder.failure import BuildFailure
from shards.builder.plan import make_plan
from shards.builder.readiness import look_ahead
from shards.builder.recheck import check_sources
from shards.builder.sources.locate import VideoFinder
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from tests.builds import CONFIG, ROOT, VIEW, build, contents, failures
from tests.official import Scene, write_clip, write_msrvtt

LIMITED = replace(CONFIG, time_limit_seconds=60.0)  # in decoder processes


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("v") / "a.mp4", Scene("red", "left").frames(8)).read_bytes()


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in members.items():
            out.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def listed(root: Path, *paths: str) -> Source:
    return Source(kind="table", root=root, items=tuple(Item(id=Path(path).stem, path=path) for path in paths))


def read(root: Path, path: str) -> bytes:
    with local_file(root, path) as file:
        return file.read_bytes()


def failure(root: Path, path: str) -> BuildFailure:
    with pytest.raises(BuildFailure) as caught, local_file(root, path):
        raise AssertionError(path)
    assert "\n" not in caught.value.message
    assert str(root) not in caught.value.message  # the same line wherever the data lies
    return caught.value


def test_a_zip_gives_the_clips_of_its_videos_unpacked_and_nothing_is_written_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    zipped = write_msrvtt(tmp_path / "zipped", num_frames=8)
    unpacked = write_msrvtt(tmp_path / "unpacked", num_frames=8, zipped=False)
    before = contents(zipped)
    for name, root in (("z", zipped), ("u", unpacked)):
        build(open_source(root, None, "train"), tmp_path / name, config=LIMITED)
    assert contents(zipped) == before
    assert list(scratch.iterdir()) == []
    ours, theirs = (ShardDataset.open(tmp_path / name) for name in ("z", "u"))
    for number in range(len(ours)):
        one, other = ours.metadata(number), theirs.metadata(number)
        assert one.pop("path") == f"MSRVTT_Videos.zip/{other.pop('path')}"
        assert one == other
        for field in ("clip", "target"):
            assert np.array_equal(np.asarray(ours.read(number, field)), np.asarray(theirs.read(number, field)))


def test_a_build_from_a_zip_can_be_compared_with_it_again(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path / "vtt", num_frames=8)
    source = load_msrvtt(root, "train")
    build(source, tmp_path / "out")
    dataset = ShardDataset.open(tmp_path / "out")
    report = check_sources(dataset, VideoFinder(root, source.items), len(dataset))
    assert report.describe() == "4 samples decoded again: all hold the frames that they say"
    members = {
        member.name: read(root, f"MSRVTT_Videos.zip/{member.name}")
        for member in list_members(root / "MSRVTT_Videos.zip")
    }
    members["video/video1.mp4"] = members["video/video2.mp4"]
    del members["video/video3.mp4"]
    write_zip(root / "MSRVTT_Videos.zip", members)
    report = check_sources(dataset, VideoFinder(root, source.items), len(dataset))
    assert (report.num_checked, len(report.changed), len(report.missing)) == (2, 1, 1)
    assert "MSRVTT_Videos.zip/video/video1.mp4 has changed since the build" in report.changed[0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.dictionaries(st.text("ab/.", min_size=1, max_size=6).map(lambda n: f"d{n}x"), st.binary(max_size=300)),
    compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
)
def test_every_member_is_read_as_it_was_put_in(tmp_path: Path, members: dict[str, bytes], compression: int) -> None:
    members = {name: data for name, data in members.items() if ".." not in name.split("/")}
    path = tmp_path / "a.zip"
    path.unlink(missing_ok=True)
    write_zip(path, members, compression)
    for name, data in members.items():
        assert read(tmp_path, f"a.zip/{name}") == data


def test_a_folder_that_is_called_like_a_zip_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    (tmp_path / "a.zip" / "b.mp4").write_bytes(b"b")
    assert read(tmp_path, "a.zip/b.mp4") == b"b"
    assert read(tmp_path, "a.zip/../a.zip/b.mp4") == b"b"


def test_a_zip64_is_read(tmp_path: Path, video: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(zipfile, "ZIP64_LIMIT", 100)  # the writer's: from which size on it writes zip64 records
        patched.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        write_zip(tmp_path / "a.zip", {"v/a.mp4": video, "v/b.mp4": video})
    assert b"PK\x06\x06" in (tmp_path / "a.zip").read_bytes()
    assert read(tmp_path, "a.zip/v/b.mp4") == video


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


def test_a_zip_that_changed_is_opened_anew(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.mp4": b"one"})
    assert read(tmp_path, "a.zip/a.mp4") == b"one"
    write_zip(tmp_path / "a.zip", {"a.mp4": b"two, and more"})
    assert read(tmp_path, "a.zip/a.mp4") == b"two, and more"
    (tmp_path / "a.zip").write_bytes(b"no zip any more")
    assert failure(tmp_path, "a.zip/a.mp4").reason == "open_error"


KILLED = """
import os, signal, sys
from pathlib import Path
from shards.builder.decode.zipped import local_file

with local_file(Path(sys.argv[1]), "a.zip/a.mp4") as path:
    assert path.read_bytes() == b"video"
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_decoder_that_is_killed_leaves_no_scratch_file(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.mp4": b"video"})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(scratch)},
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(scratch.iterdir()) == []


def test_a_retry_finds_the_videos_of_a_zip_that_was_downloaded_again(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path / "vtt", num_frames=8)
    path, out = root / "MSRVTT_Videos.zip", tmp_path / "out"
    whole = path.read_bytes()
    build(load_msrvtt(root, "train"), tmp_path / "expected")
    spoilt = bytearray(whole)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        place = archive.getinfo("video/video2.mp4").header_offset + 300
    damage(spoilt, place)
    path.write_bytes(spoilt)
    assert build(load_msrvtt(root, "train"), out).failures == {"open_error": 1}
    assert failures(out) == {"video2": "open_error"}
    path.write_bytes(whole)
    assert build(load_msrvtt(root, "train"), out, retry_failures=True).num_failed == 0
    assert contents(out) == contents(tmp_path / "expected")
