"""`reelshard verify --sources`: a set whose bytes are as written, and yet not what its videos show, is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.builder import BuildConfig, DecodedClip, ViewSpec, build_dataset, decode_clip, load_folder
from shards.dataset import ShardDataset
from shards.format.layout import clip_to_tubes
from shards.format.manifest import Manifest
from shards.format.publish import canonical_json
from shards.writer import ShardWriter
from tests.datasets import make_dataset
from tests.numbered import ENCODINGS, NUM_FRAMES, write_numbered
from tests.videos import needs_decord
from tools.cli import main

VIEW = ViewSpec(num_frames=8, size=32)
CONFIG = BuildConfig(workers=2, time_limit_seconds=None)
NAMES = ("H.264, open groups", "MPEG-4", "VP9, alternate references")
TAKEN = VIEW.frame_indices(NUM_FRAMES)
Forge = Callable[[Path, DecodedClip], tuple[NDArray[np.uint8], dict[str, Any]]]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in NAMES:
        assert write_numbered(folder / f"{name.partition(',')[0]}.mkv", ENCODINGS[name])
    return folder


@pytest.fixture(scope="module")
def built(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build_dataset(load_folder(videos), out, VIEW, CONFIG)
    return out


def forge(videos: Path, out: Path, change: Forge) -> Path:
    """A set with the manifest of a build before version 2, whose samples `change` has made."""
    built = out / "built"
    build_dataset(load_folder(videos), built, VIEW, CONFIG)
    data = ShardDataset.open(built)
    with ShardWriter(out / data.manifest.shards[0].name, data.schema) as writer:
        for number in range(len(data)):
            about = data.metadata(number)
            path = videos / about.pop("path")
            frames, more = change(path, decode_clip(path, VIEW))
            sample: dict[str, Any] = {
                "clip": clip_to_tubes(frames, CONFIG.tubelet, CONFIG.patch),
                "json": canonical_json(about | more),
            }
            writer.write(data.key(number), sample)
    decoder = {"choice": "auto", "decord": "0.6.0", "pyav": "18.1.0"}
    provenance = {**data.manifest.provenance, "decoder": decoder}
    Manifest(split="train", schema=data.schema, shards=(writer.info,), provenance=provenance).write(out)
    return out


def verify(
    capsys: pytest.CaptureFixture[str], dataset: Path, sources: Path, *more: str
) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON of `sources`, and the lines for people."""
    arguments = ["verify", str(dataset), "--sources", str(sources), *more]
    status = main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)["sources"]
    assert main(arguments) == status
    return status, found, capsys.readouterr().out


def test_a_set_that_holds_what_it_says_passes(built: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found, text = verify(capsys, built, videos)
    assert (status, found["num_checked"], found["wrong"]) == (0, 3, [])
    assert "3 samples decoded again: all hold the frames that they say" in text
    assert "every byte is as written" in text


@pytest.mark.parametrize(("samples", "count"), [("2", 2), ("0.3", 1), ("0.5", 2), ("100", 3)])
def test_a_number_or_a_share_of_the_samples_is_decoded_again(
    built: Path, videos: Path, samples: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(capsys, built, videos, "--samples", samples)[1]["num_checked"] == count


@pytest.mark.parametrize("samples", ["0", "-1", "many", "nan", "inf"])
def test_a_number_of_samples_that_is_none_is_refused(built: Path, videos: Path, samples: str) -> None:
    assert main(["verify", str(built), "--sources", str(videos), "--samples", samples]) == 2


def test_videos_are_found_under_another_name_by_their_digest(
    built: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, path in enumerate(sorted(videos.iterdir())):
        (tmp_path / "deep").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "deep" / f"{number}.mkv")
    status, found, _ = verify(capsys, built, tmp_path)
    assert (status, found["num_checked"]) == (0, 3)


def test_videos_that_have_changed_or_are_gone_are_said_to_be(
    built: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = shutil.copytree(videos, tmp_path / "videos")
    (sources / "H.264.mkv").write_bytes((sources / "MPEG-4.mkv").read_bytes())
    (sources / "VP9.mkv").unlink()
    status, found, text = verify(capsys, built, sources)
    assert (status, found["num_checked"], found["wrong"]) == (0, 1, [])
    assert "H.264.mkv has changed since the build: it had " in found["changed"][0]
    assert found["missing"] == ["sample VP9: its video was not found"]
    assert "1 could not be compared, since their videos have changed; 1 could not be compared, since" in text
    for name in ("H.264", "MPEG-4"):
        (sources / f"{name}.mkv").write_text("no video")
    assert verify(capsys, built, sources)[:1] == (1,)  # nothing can be said


@needs_decord
def test_a_set_that_an_older_version_built_with_decord_is_named(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import decord

    def read_as_before(path: Path, clip: DecodedClip) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        pixels = decord.VideoReader(str(path), num_threads=1).get_batch(TAKEN).asnumpy()
        return np.stack([VIEW.resize(frame) for frame in pixels]), {"decoder": "decord"}

    dataset = forge(videos, tmp_path, read_as_before)
    status, found, text = verify(capsys, dataset, videos)
    assert status == 1
    assert (found["num_checked"], found["checked_by_decoder"], found["wrong_by_decoder"]) == (
        3,
        {"decord": 3},
        {"decord": 2},
    )
    assert "sample MPEG-4 (read by decord): it says frames 1 4 7 10 13 16 19 22, holds 1 4 0 3 " in text
    assert "2 do not hold what they say (2 of 3 read by decord); the data set was built wrong" in text
    assert "run `reelshard build` into an empty folder" in text
    assert main(["show", str(dataset), "#0"]) == 0
    shown = capsys.readouterr().out
    assert "read by: decord 0.6.0, by an older version that could take other frames than it says" in shown


def test_show_says_which_decoder_read_a_sample(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(built), "#0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    version = ShardDataset.open(built).manifest.provenance["decoder"]["pyav"]
    assert f"  read by: pyav {version}" in lines


def frames_later(path: Path, clip: DecodedClip) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    later = decode_clip(path, ViewSpec(num_frames=NUM_FRAMES, size=32)).frames
    return np.stack([later[index + 1] for index in TAKEN]), {}


def false_times(path: Path, clip: DecodedClip) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    return clip.frames, {"timestamps": [2 * time for time in clip.timestamps_seconds]}


def false_numbers(path: Path, clip: DecodedClip) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    return clip.frames, {"frame_indices": list(range(8))}


def other_pictures(path: Path, clip: DecodedClip) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    return np.random.default_rng(0).integers(0, 256, clip.frames.shape, np.uint8), {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (frames_later, "it says frames 1 4 7 10 13 16 19 22, holds 2 5 8 11 14 17 20 23, its view takes 1 4 7 10"),
        (false_numbers, "it says frames 0 1 2 3 4 5 6 7, holds 1 4 7 10 13 16 19 22, its view takes 1 4 7 10"),
        (other_pictures, "holds ? ? ? ? ? ? ? ?, its view"),
        (false_times, "it says times 0.08"),
    ],
)
def test_whatever_a_sample_says_falsely_is_named(
    videos: Path, tmp_path: Path, change: Forge, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found, text = verify(capsys, forge(videos, tmp_path, change), videos)
    assert (status, len(found["wrong"])) == (1, 3)
    assert said in text


def test_pixels_that_other_libraries_round_otherwise_are_no_other_frames(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rounded(path: Path, clip: DecodedClip) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        noise = np.random.default_rng(0).integers(-2, 3, clip.frames.shape)
        return np.clip(clip.frames + noise, 0, 255).astype(np.uint8), {}

    assert verify(capsys, forge(videos, tmp_path, rounded), videos)[0] == 0


def test_a_set_that_was_not_built_from_videos_is_refused(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "train")
    assert main(["verify", str(tmp_path / "train"), "--sources", str(videos)]) == 1
    assert "was not built from videos by `reelshard build`" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "train"), "--sources", str(tmp_path / "absent")]) == 1
    assert f"there is no folder of videos at {tmp_path / 'absent'}" in capsys.readouterr().err
