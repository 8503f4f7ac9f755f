"""Videos inside of zips: the same clips as unpacked, and clear failures for zips that are damaged or hostile."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.builder import load_msrvtt, open_source
from shards.builder.decode.zipped import list_members
from shards.builder.recheck import check_sources
from shards.builder.sources.locate import VideoFinder
from shards.dataset import ShardDataset
from tests.builds import CONFIG, ROOT, build, contents, failures
from tests.official import Scene, write_clip, write_msrvtt
from tests.zips import failure, read, write_zip

LIMITED = replace(CONFIG, time_limit_seconds=60.0)  # in decoder processes


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("v") / "a.mp4", Scene("red", "left").frames(8)).read_bytes()


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
    build(open_source(zipped, None, "train"), tmp_path / "z", config=LIMITED)
    build(open_source(unpacked, None, "train"), tmp_path / "u")
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


BUILDER = """
import os, signal, sys
from pathlib import Path
from shards.builder import load_msrvtt
from tests.builds import build
from tests.test_build_zipped import LIMITED

root, out, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
items = 0

def progress(done, failed=0):
    global items
    items += done
    if items >= last:
        os.kill(os.getpid(), signal.SIGKILL)

build(load_msrvtt(root, "train"), out, config=LIMITED, progress=progress)
"""


@pytest.mark.slow
def test_a_killed_build_from_a_zip_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path / "vtt", num_frames=8, num_train=8)
    build(load_msrvtt(root, "train"), tmp_path / "whole")
    command = [sys.executable, "-c", BUILDER, str(root), str(tmp_path / "killed"), "7"]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode == -signal.SIGKILL
    assert build(load_msrvtt(root, "train"), tmp_path / "killed").num_samples == 8
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_retry_finds_the_videos_of_a_zip_that_was_downloaded_again(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path / "vtt", num_frames=8)
    path, out = root / "MSRVTT_Videos.zip", tmp_path / "out"
    whole = path.read_bytes()
    build(load_msrvtt(root, "train"), tmp_path / "expected")
    spoilt = bytearray(whole)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        place = archive.getinfo("video/video2.mp4").header_offset + 300
    spoilt[place] ^= 0xFF
    path.write_bytes(spoilt)
    assert build(load_msrvtt(root, "train"), out).failures == {"open_error": 1}
    assert failures(out) == {"video2": "open_error"}
    path.write_bytes(whole)
    assert build(load_msrvtt(root, "train"), out, retry_failures=True).num_failed == 0
    assert contents(out) == contents(tmp_path / "expected")
