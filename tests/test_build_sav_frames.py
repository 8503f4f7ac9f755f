"""Which frames of a video of SA-V are the annotated ones."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.builder import BuildFailure, SavKind, load_sav
from tests.numbered import ENCODINGS, Encoding, number_of, remux, write_numbered
from tests.sav_sets import VIEW, annotation, build_sav
from tests.test_build_sav import jpeg, pieces

SQUARE: dict[str, Any] = {"height": 96, "width": 96, "times": range(60)}
IRREGULAR = np.cumsum([0] + [1, 3, 1, 2, 5, 1, 1, 4] * 8).tolist()
FILES: dict[str, tuple[str, Encoding]] = {
    "B-frames": ("mp4", replace(ENCODINGS["H.264, open groups"], **SQUARE)),
    "irregular times": ("mp4", replace(ENCODINGS["H.264, open groups"], **{**SQUARE, "times": IRREGULAR})),
    "a late start": ("mp4", replace(ENCODINGS["H.264, closed groups"], **{**SQUARE, "times": range(31, 100)})),
    "H.265": ("mp4", replace(ENCODINGS["H.265, open groups"], **SQUARE)),
    "VP9": ("mp4", replace(ENCODINGS["VP9, alternate references"], **SQUARE)),
    "MPEG-4": ("mp4", replace(ENCODINGS["MPEG-4"], **SQUARE)),
}


def annotate(folder: Path, num_frames: int, num_annotated: int | None = None) -> None:
    masks = np.zeros((-(-num_frames // 4) if num_annotated is None else num_annotated, 1, 96, 96), np.bool_)
    masks[:, :, 20:40, 30:60] = True
    (folder / "sav_000001_manual.json").write_text(json.dumps(annotation("sav_000001", masks, num_frames)))


def numbers_shown(root: Path, out: Path) -> tuple[list[int | None], list[int]]:
    """The numbers that the stored frames show, and those that the sample says."""
    dataset = build_sav(root, out, None)
    assert not (out / "failures.jsonl").read_text()
    return [number_of(jpeg(piece)) for piece in pieces(dataset, 0, "frames")], dataset.metadata(0)["frame_indices"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("num_frames", [37, 40])
def test_annotated_frame_i_is_video_frame_4i_by_presentation_time(tmp_path: Path, name: str, num_frames: int) -> None:
    suffix, encoding = FILES[name]
    folder = tmp_path / "sav_train" / "sav_000"
    if write_numbered(folder / f"sav_000001.{suffix}", encoding, num_frames) is None:
        pytest.skip("this PyAV does not write it")
    annotate(folder, num_frames)
    shown, said = numbers_shown(tmp_path, tmp_path / "set")
    assert shown == said == list(range(0, num_frames, 4))


def test_of_a_file_that_lost_frames_the_others_are_known_by_their_times(tmp_path: Path) -> None:
    folder = tmp_path / "sav_train" / "sav_000"
    whole = write_numbered(tmp_path / "whole.mp4", Encoding(codec="mpeg4", options={"g": "1"}, **SQUARE), 41)
    assert whole is not None
    folder.mkdir(parents=True)
    lost = {3, 5, 6, 21, 39}
    remux(whole, folder / "sav_000001.mp4", lambda number, packet: None if number in lost else packet)
    annotate(folder, 41)
    shown, said = numbers_shown(tmp_path, tmp_path / "set")
    assert shown == said == list(range(0, 41, 4))


@pytest.mark.parametrize(
    ("lost", "counted", "reason"),
    [
        ({8}, 41, "decode_error: the file has 40 frames, its annotation counts 41; frame 8, which is annotated"),
        ({0}, 41, "not_exact: the file has 40 frames, its annotation counts 41, and their times do not tell"),
        ({39, 40}, 41, "not_exact: the file has 39 frames, its annotation counts 41"),
        (set(), 42, "not_exact: the file has 41 frames, its annotation counts 42"),
        (set(), 40, "not_exact: the file has 41 frames, its annotation counts 40"),
    ],
)
def test_where_frames_cannot_be_told_apart_nothing_is_guessed(
    tmp_path: Path, lost: set[int], counted: int, reason: str
) -> None:
    folder = tmp_path / "sav_train" / "sav_000"
    whole = write_numbered(tmp_path / "whole.mp4", Encoding(codec="mpeg4", options={"g": "1"}, **SQUARE), 41)
    assert whole is not None
    folder.mkdir(parents=True)
    remux(whole, folder / "sav_000001.mp4", lambda number, packet: None if number in lost else packet)
    annotate(folder, counted, 10)
    (item,) = load_sav(tmp_path, "train").items
    with pytest.raises(BuildFailure, match=f"^{re.escape(reason)}"):
        SavKind(view=VIEW).prepare(tmp_path / "sav_train", item)
