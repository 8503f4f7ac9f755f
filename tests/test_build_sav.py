"""The kind `sav`: annotated frames, the masks of their objects, and what a SAM3 sees of them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shards import ShardDataset, rle
from shards.builder import SavKind, ViewSpec
from shards.builder.samples.sav_annotations import AUTO_IDS
from tests.numbered import Encoding, write_numbered
from tests.sav_sets import (
    CHANNELS,
    SIDE,
    VIEW,
    Scene,
    build_sav,
    load_teacher,
    make_scene,
    write_frames,
    write_sample,
    write_teacher,
    write_train,
)
from tests.videos import clips_folder

CELLS = SIDE // 28


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "tiny_sam3")


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return {}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, teacher: Path, scenes: dict[str, Scene]) -> ShardDataset:
    root = tmp_path_factory.mktemp("sav")
    scenes |= write_train(root, auto=True)
    return build_sav(root, root / "set", teacher)


def jpeg(piece: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(piece)) as image:
        return np.asarray(image)


def objects(piece: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(piece)["objects"]
    return found


def pieces(dataset: ShardDataset, number: int, name: str) -> list[bytes]:
    found: Any = dataset.read(number, name)
    return [bytes(piece) for piece in found]


def sample_of(dataset: ShardDataset, key: str) -> Mapping[str, Any]:
    return dataset[dataset.index_of(key)]


def test_a_sample_has_features_a_jpeg_and_masks_for_every_fourth_frame(
    built: ShardDataset, scenes: dict[str, Scene]
) -> None:
    assert [field.name for field in built.schema] == ["fpn", "frames", "masks", "json"]
    assert built.schema["fpn"].shape == (None, CHANNELS, CELLS, CELLS)
    assert len(built) == len(scenes)
    for key, scene in scenes.items():
        sample, about = sample_of(built, key), built.metadata(built.index_of(key))
        count = len(scene.annotated)
        assert sample["fpn"].shape == (count, CHANNELS, CELLS, CELLS)
        assert len(sample["frames"]) == len(sample["masks"]) == count
        assert about["frame_indices"] == list(range(0, len(scene.frames), 4))
        assert about["num_source_frames"] == len(scene.frames)
        assert about["timestamps"] == [round(number / 24, 6) for number in range(0, len(scene.frames), 4)]
        assert (about["height"], about["width"], about["object_ids"]) == (*scene.masks.shape[2:], [0, 1])


def test_masks_are_of_the_squashed_picture_and_boxes_of_the_whole_mask(
    built: ShardDataset, scenes: dict[str, Scene]
) -> None:
    for key, scene in scenes.items():
        for piece, masks in zip(sample_of(built, key)["masks"], scene.annotated, strict=True):
            found = objects(piece)
            assert [one["id"] for one in found] == [number for number in (0, 1) if masks[number].any()]
            for one in found:
                mask = masks[one["id"]]
                height, width = mask.shape
                rows, columns = np.nonzero(mask)
                box = [
                    columns.min() / width,
                    rows.min() / height,
                    (columns.max() + 1) / width,
                    (rows.max() + 1) / height,
                ]
                assert one["box"] == box
                assert np.array_equal(rle.decode(one["rle"]), rle.resize(mask, (SIDE, SIDE)))


def test_frames_show_what_their_masks_cover(built: ShardDataset, scenes: dict[str, Scene]) -> None:
    for key, scene in scenes.items():
        for number, piece in enumerate(sample_of(built, key)["frames"]):
            picture = jpeg(piece)
            assert picture.shape == (SIDE, SIDE, 3)
            squashed = np.asarray(
                Image.fromarray(scene.frames[4 * number]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            )
            assert np.abs(picture.astype(int) - squashed).mean() < 8


def test_the_teacher_saw_the_jpegs_that_are_stored_and_every_value_is_kept(built: ShardDataset, teacher: Path) -> None:
    taught = load_teacher(teacher)
    for number in range(len(built)):
        pictures = np.stack([jpeg(piece) for piece in pieces(built, number, "frames")])
        rows = np.asarray(built.read(number, "fpn"))
        assert rows.dtype == np.float16
        assert np.isfinite(rows).all()
        expected = taught(pictures).astype(np.float32)
        assert np.abs(rows.astype(np.float32) - expected).max() <= 2e-3 * np.abs(expected).max()  # batches differ


def test_without_a_teacher_there_are_no_features_and_the_rest_is_the_same(
    built: ShardDataset, scenes: dict[str, Scene], tmp_path: Path
) -> None:
    assert built.manifest.provenance["teacher"]["id"] == "tiny_sam3"
    plain = build_sav(built.directory.parent, tmp_path / "set", None)
    assert [field.name for field in plain.schema] == ["frames", "masks", "json"]
    for key in scenes:
        assert dict(sample_of(plain, key)) == {k: v for k, v in sample_of(built, key).items() if k != "fpn"}


@pytest.mark.parametrize(("masklets", "ids"), [("auto", {0, 1, 2}), ("both", {0, 1, 2})])
def test_automatic_masklets_are_taken_alone_or_beside_the_manual_ones(
    built: ShardDataset, tmp_path: Path, masklets: str, ids: set[int]
) -> None:
    dataset = build_sav(built.directory.parent, tmp_path / "set", None, masklets=masklets)
    for number in range(len(dataset)):
        manual = [0, 1] if masklets == "both" else []
        assert dataset.metadata(number)["object_ids"] == [*manual, *(AUTO_IDS + one for one in range(3))]
        assert set(dataset.metadata(number)["annotations"]) == ({"manual", "auto"} if manual else {"auto"})
        found = {one["id"] % AUTO_IDS for piece in pieces(dataset, number, "masks") for one in objects(piece)}
        assert found <= ids


@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_folders_of_jpegs_and_pngs_give_the_same_masks_as_videos(tmp_path: Path, mode: str) -> None:
    scenes = {"sav_000007": make_scene(seed=7)}
    write_frames(tmp_path, scenes, mode=mode)
    write_sample(tmp_path / "sav_train" / "sav_003", "sav_000007", scenes["sav_000007"])
    folders, videos = (build_sav(tmp_path, tmp_path / split, None, split=split) for split in ("val", "train"))
    assert pieces(folders, 0, "masks") == pieces(videos, 0, "masks")
    for ours, theirs in zip(pieces(folders, 0, "frames"), pieces(videos, 0, "frames"), strict=True):
        assert np.abs(jpeg(ours).astype(int) - jpeg(theirs)).mean() < 8
    for name in ("frame_indices", "timestamps", "object_ids", "height", "width", "num_source_frames"):
        assert folders.metadata(0)[name] == videos.metadata(0)[name]


def test_objects_may_overlap_and_one_that_never_appears_is_never_listed(tmp_path: Path) -> None:
    scene = make_scene()
    scene.masks[:, 1] = scene.masks[:, 0]
    masks = np.concatenate([scene.masks, np.zeros_like(scene.masks[:, :1])], axis=1)
    write_frames(tmp_path, {"sav_000001": Scene(scene.frames, masks)})
    dataset = build_sav(tmp_path, tmp_path / "set", None, split="val")
    for piece in pieces(dataset, 0, "masks"):
        one, two = objects(piece)
        assert (one["id"], two["id"], one["rle"], one["box"]) == (0, 1, two["rle"], two["box"])
    assert dataset.metadata(0)["object_ids"] == [0, 1, 2]


def test_real_annotations_become_the_masks_of_their_frames(tmp_path: Path) -> None:
    """The real JSON of sav_000001 with a video of its size and length."""
    real = clips_folder() / "sav_000001_manual.json"
    about = json.loads(real.read_text())
    folder = tmp_path / "sav_train" / "sav_000"
    height, width = int(about["video_height"]), int(about["video_width"])
    count = int(about["video_frame_count"])
    assert write_numbered(
        folder / "sav_000001.mp4", Encoding(codec="mpeg4", height=height, width=width, times=range(60)), 60
    )
    short = about | {"video_frame_count": 60.0, "masklet": about["masklet"][:15]}
    (folder / "sav_000001_manual.json").write_text(json.dumps(short))
    dataset = build_sav(tmp_path, tmp_path / "set", None)
    assert count == 483
    for piece, frame in zip(pieces(dataset, 0, "masks"), about["masklet"], strict=False):
        whole = {number: mask for number, one in enumerate(frame) if (mask := rle.decode(one)).any()}
        found = {one["id"]: one for one in objects(piece)}
        assert set(found) == set(whole)
        for number, one in found.items():
            assert np.array_equal(rle.decode(one["rle"]), rle.resize(whole[number], (SIDE, SIDE)))


@pytest.mark.parametrize(
    "view",
    [
        replace(VIEW, stride=2),
        replace(VIEW, max_frames=9),
        ViewSpec(sampling="every", stride=4, size=112, quality=90),
        ViewSpec(sampling="fps", fps=6.0, geometry="squash", size=112, quality=90),
        replace(VIEW, quality=None),
    ],
)
def test_a_view_of_other_frames_or_shapes_is_refused(view: ViewSpec) -> None:
    with pytest.raises(ValueError, match=r"give view|view\.quality"):
        SavKind(view=view)


def test_quality_is_of_the_view_and_changes_its_hash() -> None:
    assert replace(VIEW, quality=80).hash != VIEW.hash
    assert ViewSpec.from_json(VIEW.to_json()) == VIEW
    with pytest.raises(ValueError, match=r"view\.quality is 96"):
        replace(VIEW, quality=96)


def test_a_teacher_of_other_pictures_is_refused(tmp_path: Path, teacher: Path) -> None:
    write_train(tmp_path, [49])
    with pytest.raises(ValueError, match=r"needed are \[C, h, w\] of pictures of 56 x 56 px"):
        build_sav(tmp_path, tmp_path / "set", teacher, kind=SavKind(view=replace(VIEW, size=56)))
