import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.builder import REASONS, BuildFailure, ViewSpec, decode_clip
from shards.builder.decode.decoders import VideoDecoder
from tests.numbered import ENCODINGS, remux, with_data, write_numbered
from tests.videos import DECODERS, clips_folder, moving_square, rotate_by_metadata, write_video

VIEW = ViewSpec(num_frames=8, size=32)
VIEWS = (ViewSpec(), ViewSpec(sampling="stride", stride=3, size=112, short_side=128))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.webm")
    write_video(folder / "a.mp4", codec="libx264", container_options={"movflags": "faststart"})
    write_video(folder / "a.avi", codec="libx264")
    return folder


def failure_of(path: Path, view: ViewSpec = VIEW, decoder: VideoDecoder = "pyav") -> BuildFailure:
    with pytest.raises(BuildFailure) as caught:
        decode_clip(path, view, decoder)
    return caught.value


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["a.webm", "a.mp4", "a.avi"])
def test_a_clip_says_which_frames_it_shows_and_who_read_them(videos: Path, name: str, decoder: VideoDecoder) -> None:
    clip = decode_clip(videos / name, VIEW, decoder)
    assert clip.decoder == decoder
    assert clip.frames.shape == VIEW.clip_shape
    assert clip.frame_indices == (1, 4, 7, 10, 13, 16, 19, 22)
    assert clip.timestamps_seconds == pytest.approx(np.array(clip.frame_indices) / 12, abs=2e-3)
    assert clip.num_source_frames == 24
    assert np.array_equal(clip.frames, decode_clip(videos / name, VIEW).frames)


def test_auto_is_pyav(videos: Path) -> None:
    assert (
        decode_clip(videos / "a.webm", VIEW, "auto").decoder == decode_clip(videos / "a.webm", VIEW).decoder == "pyav"
    )


def test_both_decoders_agree_on_real_videos() -> None:
    refused = {"h264_10bits.mp4": "yuv420p10le", "video_90.mov": "turn", "av1_video.mkv": "cannot read"}
    paths = [path for path in clips_folder().iterdir() if path.suffix in {".mp4", ".mkv", ".avi", ".mov"}]
    for path, view in itertools.product(paths, VIEWS):
        if path.name == "corrupted.mp4":
            failures = [failure_of(path, view, decoder) for decoder in DECODERS]
            assert {failure.reason for failure in failures} == {"decode_error"}
            assert all("28 of 50 frames decode" in failure.message for failure in failures)
            continue
        clip = decode_clip(path, view)
        assert clip.frame_indices == tuple(view.frame_indices(clip.num_source_frames))
        if "decord" in DECODERS and path.name in refused:
            assert refused[path.name] in failure_of(path, view, "decord").message
        elif "decord" in DECODERS:
            assert np.array_equal(decode_clip(path, view, "decord").frames, clip.frames), path.name


@pytest.mark.parametrize("decoder", [*DECODERS, "auto"])
def test_a_video_that_breaks_in_the_middle_is_a_failure_that_says_where(tmp_path: Path, decoder: VideoDecoder) -> None:
    path = write_numbered(tmp_path / "whole.mp4", ENCODINGS["H.264, closed groups"])
    assert path is not None
    broken = remux(
        path,
        tmp_path / "broken.mp4",
        lambda number, packet: with_data(packet, bytes(packet.size)) if number == 15 else packet,
    )
    failure = failure_of(broken, VIEW, decoder)
    assert failure.reason == "decode_error"
    assert re.match(r"1\d of 24 frames decode, then: ", failure.message)


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_rotation_metadata_turns_the_picture(tmp_path: Path, decoder: VideoDecoder) -> None:
    frames = moving_square(height=64, width=64)
    path = write_video(tmp_path / "a.mp4", frames, codec="libx264")
    before = decode_clip(path, VIEW, decoder).frames
    rotate_by_metadata(path)
    after = decode_clip(path, VIEW, decoder).frames
    assert abs(np.rot90(before, -1, axes=(1, 2)).astype(int) - after).max() <= 1
    assert abs(before.astype(int) - after).max() > 50


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["a.webm", "a.mp4", "a.avi"]), st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_a_failure_not_a_shorter_video(
    videos: Path, tmp_path_factory: pytest.TempPathFactory, name: str, share: float
) -> None:
    whole = (videos / name).read_bytes()
    path = tmp_path_factory.getbasetemp() / f"cut_{name}"
    path.write_bytes(whole[: int(share * len(whole))])
    assert failure_of(path).reason in {"empty_file", "open_error", "truncated"}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["a.webm", "a.mp4", "a.avi"]), st.integers(0, 5000), st.binary(min_size=1, max_size=40))
def test_a_file_damaged_anywhere_gives_a_clip_or_a_failure_and_nothing_else(
    videos: Path, tmp_path_factory: pytest.TempPathFactory, name: str, place: int, damage: bytes
) -> None:
    data = bytearray((videos / name).read_bytes())
    place = min(place, len(data) - len(damage))
    data[place : place + len(damage)] = damage
    path = tmp_path_factory.getbasetemp() / f"damaged_{name}"
    path.write_bytes(data)
    try:
        assert decode_clip(path, VIEW).frames.shape == VIEW.clip_shape
    except BuildFailure as failure:
        assert failure.reason in REASONS  # noqa: PT017


def test_frames_that_the_container_promises_but_lacks_are_truncation(videos: Path, tmp_path: Path) -> None:
    data = (videos / "a.webm").read_bytes()
    size_at = data.index(b"\x18\x53\x80\x67") + 4
    live = (
        data[:size_at] + b"\x01" + b"\xff" * 7 + data[size_at + 8 : len(data) * 2 // 3]
    )  # size unknown, as in a stream
    (tmp_path / "a.webm").write_bytes(live)
    failure = failure_of(tmp_path / "a.webm")
    assert failure.reason == "truncated"
    assert "declared by the container" in failure.message


def test_files_that_are_no_video_fail_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    assert failure_of(tmp_path / "absent.mp4").reason == "missing_file"
    assert failure_of(tmp_path / "empty.mp4").reason == "empty_file"
    assert failure_of(tmp_path / "text.mp4").reason == "open_error"


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_still_video_is_no_failure(tmp_path: Path, decoder: VideoDecoder) -> None:
    still = np.repeat(moving_square(num_frames=1), 24, 0)
    assert decode_clip(write_video(tmp_path / "still.webm", still), VIEW, decoder).num_source_frames == 24


def test_a_video_shorter_than_a_clip_is_padded_or_refused_as_the_view_says(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.webm", moving_square(num_frames=5))
    clip = decode_clip(path, VIEW)
    assert clip.frame_indices == (0, 1, 2, 3, 4, 4, 4, 4)
    assert clip.num_source_frames == 5
    refused = failure_of(path, ViewSpec(num_frames=8, size=32, short_video="refuse"))
    assert refused.reason == "too_few_frames"
    assert "5 frames" in refused.message


def test_the_source_file_is_identified_by_size_and_digest(videos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.webm"
    copy.write_bytes((videos / "a.webm").read_bytes())
    first, second = decode_clip(videos / "a.webm", VIEW).source, decode_clip(copy, VIEW).source
    assert first == second
    assert first.num_bytes == copy.stat().st_size


def test_the_readme_names_the_few_tests_that_need_videos_made_by_others() -> None:
    root = Path(__file__).parents[1]
    tests = (path.read_text() for path in (root / "tests").glob("test_*.py"))
    bodies = [body for text in tests for body in re.split(r"^def ", text, flags=re.MULTILINE)[1:]]
    needing = [body.partition("(")[0] for body in bodies if re.search(r"[^\"]clips_folder\(\)", body)]
    assert 1 <= len(needing) <= 5
    assert all(f"`{name}`" in (root / "README.md").read_text() for name in needing)
