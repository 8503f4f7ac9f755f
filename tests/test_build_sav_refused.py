"""SA-V that is not what it should be: each bad item is a failure with its reason, a missing set is one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards import ShardDataset, ShardError
from shards.builder import BuildFailure, SavKind, load_sav, open_source
from shards.builder.samples.sav_annotations import read_annotation
from shards.format.errors import MissingDataError
from tests.builds import failures
from tests.sav_sets import VIEW, Scene, build_sav, make_scene, write_frames, write_sample, write_train
from tests.videos import write_video

KIND = SavKind(view=VIEW)
PAGE = "https://ai.meta.com/datasets/segment-anything-video/"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training set of one video, and a validation set of another."""
    root = tmp_path_factory.mktemp("sav")
    write_train(root, [49])
    write_frames(root, {"sav_000050": make_scene(seed=50)})
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "sav")
    return tmp_path / "sav"


def prepare(root: Path, split: str = "train") -> None:
    source = load_sav(root, split)
    KIND.prepare(source.root, source.items[0])


def put(*keys: Any, value: Any) -> Change:
    def change(about: dict[str, Any]) -> None:
        place: Any = about
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda about: about.pop("masklet"), "it has no 'masklet'"),
        (put("masklet", value={}), "masklet has to be a list"),
        (put("masklet", 3, value={}), "annotated frame 3 has dict masks"),
        (lambda about: about["masklet"][2].pop(), "annotated frame 2 has 1 masks, masklet_id has 2 objects"),
        (put("masklet", 5, 0, value=None), "annotated frame 5: an RLE is an object"),
        (put("masklet", 5, 0, "size", value=[80, 60]), "annotated frame 5: the RLE is of 80 x 60 px, expected 60 x 80"),
        (put("masklet", 5, 0, "size", value=[60.5, 80]), "annotated frame 5: an RLE's size is two whole numbers"),
        (put("masklet", 5, 1, "counts", value="0"), "annotated frame 5: an RLE's runs are not those"),
        (put("masklet", 5, 1, "counts", value=[1, 2, 3]), "annotated frame 5: an RLE's counts are COCO's"),
        (put("masklet", 5, 1, "counts", value="o" * 99), "annotated frame 5: an RLE's counts are no text"),
        (put("video_height", value=-60.0), "video_height has to be a whole number"),
        (put("video_height", value=60.5), "video_height has to be a whole number"),
        (put("video_width", value="80"), "video_width has to be a whole number"),
        (put("video_width", value=1e300), "video_width has to be a whole number"),
        (put("video_frame_count", value=1 << 70), "video_frame_count has to be a whole number"),
        (put("video_frame_count", value=True), "video_frame_count has to be a whole number"),
        (put("video_frame_count", value=48.0), "13 annotated frames, the last of which would be frame 48 of 48"),
        (put("masklet_id", value=[0, 0]), "names an object twice"),
        (put("masklet_id", value=[0, -1]), "an id of masklet_id has to be a whole number"),
        (put("masklet_id", value=[0, 1 << 40]), "an id of masklet_id has to be a whole number"),
        (put("masklet_id", value=None), "masklet_id has to be a list"),
    ],
)
def test_an_annotation_that_is_none_is_a_failure_that_says_what_is_wrong(
    root: Path, change: Change, reason: str
) -> None:
    path = root / "sav_train" / "sav_000" / "sav_000000_manual.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    with pytest.raises(BuildFailure, match=re.escape(reason)) as found:
        prepare(root)
    assert found.value.reason == "bad_annotation"
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("content", [b"", b"{", b'{"masklet": NaN}', b"\xff\xfe", b"[" * 100_000, b"null", b"[]"])
def test_damaged_json_is_a_failure(root: Path, content: bytes) -> None:
    (root / "sav_train" / "sav_000" / "sav_000000_manual.json").write_bytes(content)
    with pytest.raises(BuildFailure, match=r"bad_annotation: sav_000000_manual\.json: "):
        prepare(root)


@given(st.data())
def test_any_change_of_an_annotation_is_read_or_refused(
    whole: Path, tmp_path_factory: Any, data: st.DataObject
) -> None:
    text = (whole / "sav_train" / "sav_000" / "sav_000000_manual.json").read_bytes()
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.binary(max_size=3)) + text[place + data.draw(st.integers(0, 3)) :]
    folder = tmp_path_factory.mktemp("changed")
    (folder / "a_manual.json").write_bytes(changed)
    try:
        read_annotation(folder / "a_manual.json", None)
    except BuildFailure as failure:
        assert failure.reason == "bad_annotation"  # noqa: PT017  (most changes are none)


def test_bad_items_are_lines_of_failures_and_the_rest_is_built(tmp_path: Path) -> None:
    folder = tmp_path / "sav_train" / "sav_000"
    write_train(tmp_path, [49])
    scene = make_scene(33)
    for name in ("no_json", "no_video", "short", "turned", "cut", "empty"):
        write_sample(folder, name, scene if name == "short" else make_scene())
    (folder / "no_json_manual.json").unlink()
    (folder / "no_video.mp4").unlink()
    about = json.loads((folder / "short_manual.json").read_text())
    (folder / "short_manual.json").write_text(json.dumps(about | {"masklet": about["masklet"][:8]}))
    write_video(folder / "turned.mp4", make_scene(height=80, width=60).frames, codec="libx264", rate=24)
    (folder / "cut.mp4").write_bytes((folder / "cut.mp4").read_bytes()[:-2000])
    (folder / "empty.mp4").write_bytes(b"")
    dataset = build_sav(tmp_path, tmp_path / "set", None)
    assert len(dataset) == 1
    assert failures(tmp_path / "set") == {
        "no_json": "bad_annotation",
        "no_video": "missing_file",
        "short": "too_few_frames",
        "turned": "bad_annotation",
        "cut": failures(tmp_path / "set")["cut"],
        "empty": "empty_file",
    }
    assert failures(tmp_path / "set")["cut"] in ("truncated", "open_error", "decode_error")
    text = (tmp_path / "set" / "failures.jsonl").read_text()
    assert "there is no no_json_manual.json beside it" in text
    assert "it has 8 annotated frames, a query and its context take 9" in text
    assert "its frames are 80 x 60 px (height x width), its masks 60 x 80" in text


def test_manual_and_automatic_masklets_of_other_videos_are_not_merged(tmp_path: Path) -> None:
    folder = tmp_path / "sav_train" / "sav_000"
    write_sample(folder, "a", make_scene(), auto=make_scene(53))
    write_sample(folder, "b", make_scene(), auto=make_scene(height=64))
    source = load_sav(tmp_path, "train", "both")
    for item, said in zip(source.items, ("frames of the video: 49 and 53", "height and width"), strict=True):
        with pytest.raises(BuildFailure, match=f"bad_annotation: manual and automatic masklets differ in {said}"):
            KIND.prepare(source.root, item)


# -- folders of frames -------------------------------------------------------------------------------------------------


def folders_of(root: Path) -> tuple[Path, Path]:
    """Of the JPEGs, and of the first object's PNGs."""
    place = root / "sav_val"
    return place / "JPEGImages_24fps" / "sav_000050", place / "Annotations_6fps" / "sav_000050" / "000"


def _colour(path: Path) -> None:
    Image.new("RGB", (80, 60)).save(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda jpegs, pngs: (jpegs / "00008.jpg").unlink(), "missing_file: sav_000050/00008.jpg"),
        (lambda jpegs, pngs: (jpegs / "00008.jpg").write_bytes(b"\xff\xd8\xff"), "decode_error: image 8 of 3 bytes"),
        (lambda jpegs, pngs: shutil.rmtree(pngs.parent), "bad_annotation: it has no annotation"),
        (lambda jpegs, pngs: pngs.rename(pngs.with_name("cat")), "bad_annotation: an object is a folder with a number"),
        (lambda jpegs, pngs: (pngs.with_name("0")).mkdir(), "bad_annotation: two of its 3 folders"),
        (lambda jpegs, pngs: (pngs / "00008.png").write_bytes(b"\x89PNG"), "bad_annotation: 000/00008.png cannot be"),
        (lambda jpegs, pngs: _colour(pngs / "00008.png"), "bad_annotation: 000/00008.png has pixels of the kind RGB"),
        (
            lambda jpegs, pngs: Image.new("L", (60, 80)).save(pngs / "00008.png"),
            "bad_annotation: 000/00008.png is 80 x 60 px (height x width), its frame 60 x 80",
        ),
        (lambda jpegs, pngs: shutil.copy(pngs / "00008.png", pngs / "00009.png"), "bad_annotation: masks are of every"),
        (lambda jpegs, pngs: shutil.copy(pngs / "00008.png", pngs / "8.png"), "bad_annotation: a mask is called as"),
        (
            lambda jpegs, pngs: [path.unlink() for path in pngs.parent.rglob("000[34]*.png")],
            "too_few_frames: it has 8 annotated frames",
        ),
        (lambda jpegs, pngs: shutil.rmtree(jpegs), "missing_file: sav_000050/00000.jpg"),
    ],
)
def test_a_folder_that_is_not_as_it_should_be_is_a_failure(
    root: Path, damage: Callable[[Path, Path], Any], reason: str
) -> None:
    damage(*folders_of(root))
    with pytest.raises(BuildFailure, match=f"^{re.escape(reason)}"):
        prepare(root, "val")


def test_an_object_may_lack_masks_where_it_is_not_there(root: Path) -> None:
    _, pngs = folders_of(root)
    for number in range(0, 20, 4):
        (pngs / f"{number:05}.png").unlink()
    dataset = build_sav(root, root / "set", None, split="val")
    shown = [[one["id"] for one in json.loads(bytes(piece))["objects"]] for piece in dataset.read(0, "masks")]
    assert all(0 not in ids for ids in shown[:5])
    assert all(0 in ids for ids in shown[5:])


# -- the source --------------------------------------------------------------------------------------------------------


def test_a_set_is_found_by_itself_in_its_folder_and_in_that_of_the_download(whole: Path) -> None:
    for folder, split in ((whole, "train"), (whole / "sav_train", "train"), (whole / "sav_train" / "sav_000", "mine")):
        source = open_source(folder, None, split)
        assert (source.kind, [item.id for item in source.items]) == ("sav", ["sav_000000"])
    for folder, split in ((whole, "val"), (whole, "validation"), (whole / "sav_val", "mine")):
        source = open_source(folder, None, split)
        assert (source.kind, [item.id for item in source.items]) == ("sav", ["sav_000050"])


def test_plain_videos_are_no_sav(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", make_scene().frames, codec="libx264")
    assert open_source(tmp_path, None, "train").kind == "folder"


@pytest.mark.parametrize("name", ["nowhere", "empty", "val_only", "no_pictures", "no_list"])
def test_a_missing_set_gets_one_line_with_the_page_and_the_layout(root: Path, tmp_path: Path, name: str) -> None:
    folder, split = tmp_path / name, "train"
    if name != "nowhere":
        folder.mkdir()
    if name in ("val_only", "no_pictures", "no_list"):
        shutil.copytree(root / "sav_val", folder / "sav_val")
        split = "train" if name == "val_only" else "val"
    if name == "no_pictures":
        shutil.rmtree(folder / "sav_val" / "JPEGImages_24fps")
    if name == "no_list":
        (folder / "sav_val" / "sav_val.txt").unlink()
    with pytest.raises(MissingDataError) as found:
        load_sav(folder, split)
    said = str(found.value)
    assert PAGE in said
    assert "sav_train/sav_NNN/<id>.mp4 with <id>_manual.json" in said
    assert "\n" not in said


@pytest.mark.parametrize("line", ["../../etc", "a/b", "\x1b[2J", "." * 9])
def test_a_list_of_hostile_ids_is_refused(root: Path, line: str) -> None:
    (root / "sav_val" / "sav_val.txt").write_text(f"sav_000050\n{line}\n")
    with pytest.raises(ShardError, match="is no list of ids"):
        load_sav(root, "val")


def test_options_of_other_sources_and_other_masklets_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="masklets is 'best'; choose manual, auto, both"):
        load_sav(root, "train", "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has manual masklets alone"):
        load_sav(root, "val", "auto")
    with pytest.raises(ValueError, match="masklets are of the source sav, not of folder"):
        open_source(root / "sav_val" / "JPEGImages_24fps", None, "train", masklets="auto")
    with pytest.raises(ValueError, match="finds its annotations in the folder of videos"):
        open_source(root, root / "sav_train", "train", source="sav")


def test_features_that_overflow_are_failures(tmp_path: Path) -> None:
    """A teacher whose values do not fit f16 fails its video, and no other."""

    class Loud:
        input_shape, output_shape, output_dtype = (VIEW.size, VIEW.size, 3), (2, 1, 1), "<f2"
        provenance: dict[str, Any] = {"id": "loud"}  # noqa: RUF012
        files: dict[str, bytes] = {}  # noqa: RUF012

        def __call__(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            loud = rows.max(axis=(1, 2, 3)) > 230
            made = np.ones((len(rows), 2, 1, 1), np.float16)
            made[loud] = np.inf
            return made

    quiet = make_scene()
    write_sample(tmp_path / "sav_train" / "sav_000", "quiet", Scene(quiet.frames // 2, quiet.masks))
    bright = make_scene()
    bright.frames[20] = 255
    write_sample(tmp_path / "sav_train" / "sav_000", "bright", bright)
    build_sav(tmp_path, tmp_path / "set", Loud())
    assert failures(tmp_path / "set") == {"bright": "teacher_error"}
    assert len(ShardDataset.open(tmp_path / "set")) == 1
