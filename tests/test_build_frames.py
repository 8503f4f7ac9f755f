"""A clip shows the frames that it says, at the times that it says, whatever codec, container and decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.packet import Packet

from shards.builder import BuildFailure, DecodedClip, Item, ViewSpec, decode_clip
from shards.dataset import ShardDataset
from tests.frame_table import Name, encodings, find, table
from tests.numbered import ENCODINGS, NUM_FRAMES, RATE, number_of, picture, remux, with_data, write_numbered
from tests.videos import DECODERS, needs_decord

ALL = ViewSpec(num_frames=NUM_FRAMES, size=32)
PAGE = Path(__file__).parents[1] / "docs" / "building.md"


class Found(NamedTuple):
    folder: Path
    items: Mapping[Name, Item]
    results: Mapping[str, Mapping[Name, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Every video that can be written here, built with each decoder."""
    folder = tmp_path_factory.mktemp("frames")
    return Found(folder, *find(folder, DECODERS))


def frames_of(clip: DecodedClip) -> list[int | None]:
    """The numbers that a clip's frames show."""
    return [number_of(frame) for frame in clip.frames]


def decode_all(path: Path, num_frames: int = NUM_FRAMES) -> DecodedClip:
    """Every frame of a video, which must have so many."""
    clip = decode_clip(path, ViewSpec(num_frames=num_frames, size=32, short_video="refuse"))
    assert (clip.num_source_frames, clip.frame_indices) == (num_frames, tuple(range(num_frames)))
    return clip


def test_no_clip_shows_other_frames_or_times_than_its_video_has(found: Found) -> None:
    wrong = {
        (decoder, *name): result
        for decoder, results in found.results.items()
        for name, result in results.items()
        if result not in ("right", "refused")
    }
    assert wrong == {}


def test_common_codecs_come_out_right_in_common_containers(found: Found) -> None:
    names = [name for name in ENCODINGS if name.startswith(("H.264", "H.265", "AV1", "VP9", "MPEG-4"))]
    assert len(names) == 9
    for name in names:
        for container in ("mp4", "mkv", "webm", "avi", "ts"):
            result = found.results["pyav"].get((name, container), "not written")
            assert result == "right" or not reads_itself(found, (name, container)), (name, container, result)


def test_pyav_refuses_only_what_it_cannot_read_itself(found: Found) -> None:
    refused = [name for name, result in found.results["pyav"].items() if result == "refused"]
    assert [name for name in refused if reads_itself(found, name)] == []


def reads_itself(found: Found, name: Name) -> bool:
    """Whether PyAV by itself decodes all frames of a video that it has written."""
    if name not in found.items:
        return False
    try:
        with av.open(str(found.folder / "videos" / found.items[name].path)) as container:
            intact = [not frame.is_corrupt for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError, AttributeError):  # an error, no video stream, or one without a decoder
        return False
    return len(intact) == NUM_FRAMES and all(intact)


def test_every_frame_of_every_video_can_be_had(found: Found) -> None:
    for name, result in found.results["pyav"].items():
        if result == "right":
            clip = decode_all(found.folder / "videos" / found.items[name].path)
            assert frames_of(clip) == list(range(NUM_FRAMES)), name
            times = np.array(encodings()[name].times) / RATE
            np.testing.assert_allclose(clip.timestamps_seconds, times, rtol=0, atol=2e-3, err_msg=str(name))


@needs_decord
def test_decord_gives_the_same_pixels_or_refuses(found: Found) -> None:
    pyav, decord = (ShardDataset.open(found.folder / decoder) for decoder in ("pyav", "decord"))
    assert 50 < len(decord) < len(pyav)
    for number in range(len(decord)):
        same = pyav.index_of(decord.key(number))
        assert np.array_equal(decord.read(number, "clip"), pyav.read(same, "clip")), decord.key(number)
        assert decord.metadata(number) == pyav.metadata(same) | {"decoder": "decord"}


@needs_decord
def test_the_page_shows_what_is_found(found: Found) -> None:
    assert set(encodings()) >= set(found.items)
    assert table(found.results) in PAGE.read_text(), "the table is printed by `python -m tests.frame_table`"


@pytest.mark.parametrize("number", [0, 1, 23, 63])
def test_a_picture_shows_its_number_and_noise_shows_none(number: int) -> None:
    assert number_of(ViewSpec(size=32).resize(picture(number))) == number
    noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
    assert number_of(noise) is None


# Streams that players meet, and the encoders of this library do not write by themselves.

OPEN = ["H.264, open groups", "H.265, open groups", "MPEG-2", "MPEG-4"]


def changed(
    folder: Path, name: str, source: str, target: str, change: Callable[[int, Packet[Any]], Packet[Any] | None]
) -> Path:
    """A numbered video whose packets went through `change`."""
    path = write_numbered(folder / f"source.{source}", ENCODINGS[name])
    assert path is not None
    return remux(path, folder / f"changed.{target}", change)


def key_packets(folder: Path, name: str, container: str) -> list[int]:
    path = write_numbered(folder / f"keys.{container}", ENCODINGS[name])
    with av.open(str(path)) as video:
        return [number for number, packet in enumerate(video.demux(video=0)) if packet.is_keyframe]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("name", OPEN)
def test_frames_that_lead_the_first_key_frame_of_a_cut_are_not_counted(
    tmp_path: Path, name: str, container: str
) -> None:
    if (name, container) == ("H.265, open groups", "avi"):
        container = "flv"  # AVI does not take it
    second = key_packets(tmp_path, name, container)[1]
    path = changed(tmp_path, name, container, container, lambda number, packet: packet if number >= second else None)
    shown = {"H.264, open groups": 8, "H.265, open groups": 8, "MPEG-2": 9, "MPEG-4": 9}[name]
    clip = decode_all(path, NUM_FRAMES - shown)
    assert frames_of(clip) == list(range(shown, NUM_FRAMES))
    times = np.arange(NUM_FRAMES - shown) / RATE
    np.testing.assert_allclose(clip.timestamps_seconds, times, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "container"), [("MPEG-4", "mkv"), ("H.264, closed groups", "ts"), ("VP9, alternate references", "webm")]
)
def test_a_video_cut_between_key_frames_begins_with_its_first_key_frame(
    tmp_path: Path, name: str, container: str
) -> None:
    path = changed(tmp_path, name, container, container, lambda number, packet: packet if number >= 3 else None)
    clip = decode_clip(path, ALL)
    frames = frames_of(clip)[: clip.num_source_frames]
    assert frames == list(range(NUM_FRAMES - clip.num_source_frames, NUM_FRAMES))
    assert clip.num_source_frames in (15, 16)


@pytest.mark.parametrize("name", [*OPEN[:2], "MPEG-4", "VP9, alternate references"])
def test_frames_before_an_edit_list_begins_are_not_counted(tmp_path: Path, name: str) -> None:
    def shift(number: int, packet: Packet[Any]) -> Packet[Any]:
        assert packet.time_base
        assert packet.pts is not None
        assert packet.dts is not None
        five_frames = round(5 / RATE / packet.time_base)
        packet.pts, packet.dts = packet.pts - five_frames, packet.dts - five_frames
        return packet

    clip = decode_all(changed(tmp_path, name, "mp4", "mp4", shift), NUM_FRAMES - 5)
    assert frames_of(clip) == list(range(5, NUM_FRAMES))
    np.testing.assert_allclose(clip.timestamps_seconds, np.arange(NUM_FRAMES - 5) / RATE, rtol=0, atol=2e-3)


@pytest.mark.parametrize("container", ["webm", "avi"])
def test_frames_that_are_only_referred_to_are_not_counted(tmp_path: Path, container: str) -> None:
    def hide(number: int, packet: Packet[Any]) -> Packet[Any]:
        data = bytes(packet)
        return with_data(packet, bytes([data[0] & ~0x10]) + data[1:]) if number in (5, 11) else packet

    shown = [number for number in range(NUM_FRAMES) if number not in (5, 11)]
    clip = decode_all(changed(tmp_path, "VP8", "webm", container, hide), len(shown))
    assert frames_of(clip) == shown
    np.testing.assert_allclose(clip.timestamps_seconds, np.array(shown) / RATE, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", [*OPEN, "H.265, closed groups"])
def test_times_in_the_order_of_storage_leave_the_order_to_the_decoder(tmp_path: Path, name: str) -> None:
    def in_order(number: int, packet: Packet[Any]) -> Packet[Any]:
        packet.pts = packet.dts = 40 * number
        return packet

    clip = decode_all(changed(tmp_path, name, "mkv", "mkv", in_order))
    assert frames_of(clip) == list(range(NUM_FRAMES))
    assert clip.timestamps_seconds == pytest.approx([0.04 * number for number in range(NUM_FRAMES)])


@pytest.mark.parametrize("name", [*OPEN, "VP9, alternate references"])
def test_frames_of_the_same_time_keep_their_order_and_a_late_start_is_no_truncation(tmp_path: Path, name: str) -> None:
    def in_steps(number: int, packet: Packet[Any]) -> Packet[Any]:
        assert packet.pts is not None
        packet.pts, packet.dts = 400 + packet.pts // 100 * 100, 10 * number
        return packet

    clip = decode_all(changed(tmp_path, name, "mkv", "mkv", in_steps))
    assert frames_of(clip) == list(range(NUM_FRAMES))
    steps = [round(number / RATE * 1000) // 100 / 10 for number in range(NUM_FRAMES)]
    assert clip.timestamps_seconds == pytest.approx(steps)


@pytest.mark.parametrize(("name", "suffix"), [("H.264, open groups", "h264"), ("MPEG-2", "m2v")])
def test_a_bare_stream_without_times_has_a_constant_rate(tmp_path: Path, name: str, suffix: str) -> None:
    clip = decode_all(changed(tmp_path, name, "mkv", suffix, lambda number, packet: packet))
    assert frames_of(clip) == list(range(NUM_FRAMES))
    assert len({round(step, 5) for step in np.diff(clip.timestamps_seconds)}) == 1


@pytest.mark.parametrize("name", ["MPEG-4", "MPEG-2"])
def test_a_frame_whose_missing_parts_were_made_up_is_a_failure(tmp_path: Path, name: str) -> None:
    def damage(number: int, packet: Packet[Any]) -> Packet[Any]:
        data = bytes(packet)
        return with_data(packet, data[: len(data) // 2] + bytes(len(data) - len(data) // 2)) if number == 6 else packet

    path = changed(tmp_path, name, "mkv", "mkv", damage)
    with av.open(str(path)) as video:
        assert len(list(video.decode(video=0))) == NUM_FRAMES  # no error, and no frame is missing
    for decoder in DECODERS:
        with pytest.raises(BuildFailure, match="is damaged: the decoder had to make up") as caught:
            decode_clip(path, ALL, decoder)
        assert caught.value.reason == "decode_error"


def test_frames_lost_in_the_middle_are_truncation(tmp_path: Path) -> None:
    def spoil(number: int, packet: Packet[Any]) -> Packet[Any]:
        return with_data(packet, b"\x00" * len(bytes(packet))) if 9 <= number <= 15 else packet

    path = changed(tmp_path, "H.265, closed groups", "mkv", "mkv", spoil)
    with pytest.raises(BuildFailure) as caught:
        decode_clip(path, ALL)
    assert caught.value.reason in ("truncated", "decode_error")


@needs_decord
@pytest.mark.parametrize(
    ("name", "container", "why"),
    [
        ("H.264, closed groups", "ts", "loses frames in the container mpegts"),
        ("ProRes", "mov", "does not convert yuv422p10le exactly"),
        ("AV1", "mkv", "cannot read all of it"),
    ],
)
def test_decord_says_why_it_does_not_read_a_video(tmp_path: Path, name: str, container: str, why: str) -> None:
    path = write_numbered(tmp_path / f"a.{container}", ENCODINGS[name])
    assert path is not None
    with pytest.raises(BuildFailure, match=rf"{why}; build.decoder pyav reads it") as caught:
        decode_clip(path, ALL, "decord")
    assert caught.value.reason == "not_exact"
