"""UCF101, MSR-VTT, MSVD and Something-Something v2 as they are downloaded: what is read of lists and annotations."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.builder import Source, load_msrvtt, load_msvd, load_ssv2, load_ucf101, open_source
from shards.dataset import ShardDataset
from shards.format.errors import MissingDataError
from tests.annotations import VTT, official, rows, touch, ucf_lists
from tests.builds import CONFIG, VIEW, build, failures
from tests.official import write_msrvtt, write_msvd, write_ssv2, write_ucf101

Made = Callable[..., Path]


def test_ucf101_is_its_lists_with_classes_from_0_and_the_files_own_spelling(tmp_path: Path) -> None:
    source = load_ucf101(ucf_lists(tmp_path), "train")
    assert [(item.id, item.path, item.label, item.label_name) for item in source.items] == [
        ("v_BakeBread_g08_c01", "UCF-101/BakeBread/v_BakeBread_g08_c01.avi", 0, "BakeBread"),
        ("v_HandStandWalk_g09_c02", "UCF-101/HandstandWalk/v_HandStandWalk_g09_c02.avi", 1, "HandstandWalk"),
    ]
    assert [item.extra["group"] for item in source.items] == ["v_BakeBread_g08", "v_HandStandWalk_g09"]
    assert source.label_names == ("BakeBread", "HandstandWalk", "ZipBag")
    assert (source.kind, source.provenance) == ("ucf101", {"split": "train", "fold": 1})
    (test,) = load_ucf101(tmp_path, "test").items
    assert (test.path, test.label) == ("UCF-101/ZipBag/v_ZipBag_g01_c01.avi", 2)


def test_lists_of_ucf101_with_a_byte_order_mark_plain_ends_and_labels_in_the_test_list_are_the_same(
    tmp_path: Path,
) -> None:
    plain = load_ucf101(ucf_lists(tmp_path / "a"), "test")
    copy = ucf_lists(
        tmp_path / "b",
        classInd="\ufeff1 BakeBread\n2 HandstandWalk\n3 ZipBag",
        testlist01="\ufeffZipBag/v_ZipBag_g01_c01.avi 3\n\n",
    )
    assert load_ucf101(copy, "test").items == plain.items


def test_each_fold_of_ucf101_is_its_own_list(tmp_path: Path) -> None:
    root = write_ucf101(tmp_path, num_groups=4, num_frames=4)
    folds = {fold: {item.id for item in load_ucf101(root, "test", fold).items} for fold in (1, 2, 3)}
    for fold, test in folds.items():
        assert test == {f"v_Slideleft_g{fold:02}_c01", f"v_SlideRight_g{fold:02}_c01"}
        train = {item.id for item in load_ucf101(root, "train", fold).items}
        assert len(train) == 6
        assert not train & test


def test_the_lists_of_ucf101_are_read_out_of_their_official_zip_and_beside_the_videos(tmp_path: Path) -> None:
    root = ucf_lists(tmp_path)
    expected = load_ucf101(root, "train").items
    inside = load_ucf101(root / "UCF-101", "train")
    assert [item.path for item in inside.items] == [item.path.removeprefix("UCF-101/") for item in expected]
    with zipfile.ZipFile(root / "UCF101TrainTestSplits-RecognitionTask.zip", "w", zipfile.ZIP_DEFLATED) as out:
        for path in (root / "ucfTrainTestlist").iterdir():
            out.write(path, f"ucfTrainTestlist/{path.name}")
    shutil.rmtree(root / "ucfTrainTestlist")
    assert load_ucf101(root, "train").items == expected


def test_msrvtt_of_the_hub_is_every_video_with_all_its_captions_those_said_twice_included(tmp_path: Path) -> None:
    touch(tmp_path, "video/video7.mp4", "video/video12.mp4")
    said = ["a cat  sleeps ", "a dog runs", "a dog runs"]
    (tmp_path / "msrvtt_train_9k.json").write_text("\ufeff" + rows(("video7", said), ("video12", ["x"])))
    (tmp_path / "msrvtt_train_7k.json").write_text(rows(("video12", ["x"])))
    (tmp_path / "msrvtt_test_1k.json").write_text(rows(("video9", "a bird")))
    source = load_msrvtt(tmp_path, "train")
    assert [(item.id, item.path, item.text) for item in source.items] == [
        ("video7", "video/video7.mp4", "a cat sleeps"),
        ("video12", "video/video12.mp4", "x"),
    ]
    assert source.items[0].extra["captions"] == ["a cat sleeps", "a dog runs", "a dog runs"]
    assert source.provenance == {"split": "train", "protocol": "train-9k"}
    assert [item.id for item in load_msrvtt(tmp_path, "train", "7k").items] == ["video12"]
    (test,) = load_msrvtt(tmp_path, "test", "7k").items
    assert (test.id, test.extra["captions"]) == ("video9", ["a bird"])
    assert load_msrvtt(tmp_path, "test").provenance == {"split": "test", "protocol": "1k-A"}


def ids(source: Source) -> list[str]:
    return [item.id for item in source.items]


def test_msrvtt_of_2016_trains_on_all_that_1k_a_does_not_hold_out_in_the_order_of_sen_id(tmp_path: Path) -> None:
    source = load_msrvtt(official(tmp_path), "train")
    assert ids(source) == ["video2", "video10"]
    assert source.items[1].extra["captions"] == ["first", "fourth"]
    assert load_msrvtt(tmp_path, "test").items[0].text == "a test, of commas"
    with pytest.raises(MissingDataError, match=rf"neither msrvtt_train_7k.json nor MSRVTT_train.7k.csv.*{VTT}"):
        load_msrvtt(tmp_path, "train", "7k")
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video_id\nvideo10\n")
    assert ids(load_msrvtt(tmp_path, "train", "7k")) == ["video10"]


def test_captions_of_msrvtt_in_the_form_of_coco_are_the_same(tmp_path: Path) -> None:
    expected = load_msrvtt(official(tmp_path), "train").items
    sentences = json.loads((tmp_path / "train_val_videodatainfo.json").read_text())["sentences"]
    annotations = [{"id": s["sen_id"], "image_id": s["video_id"], "caption": s["caption"]} for s in sentences]
    (tmp_path / "train_val_videodatainfo.json").unlink()
    touch(tmp_path, "annotation/MSR_VTT.json")
    (tmp_path / "annotation" / "MSR_VTT.json").write_text(json.dumps({"images": [], "annotations": annotations}))
    assert load_msrvtt(tmp_path, "train").items == expected


def test_the_test_list_with_semicolons_windows_ends_and_a_byte_order_mark_is_the_same(tmp_path: Path) -> None:
    copy = "\ufeffkey;vid_key;video_id;sentence\r\nret0;msr30;video30;a test, of commas\r\n"
    assert load_msrvtt(official(tmp_path / "a"), "test").items[0].text == "a test, of commas"
    semicolons = official(tmp_path / "b", **{"MSRVTT_JSFUSION_test.csv": copy})
    assert load_msrvtt(semicolons, "test").items == load_msrvtt(tmp_path / "a", "test").items
    assert ids(load_msrvtt(semicolons, "train")) == ["video2", "video10"]


def test_msvd_of_lists_is_every_clip_with_its_captions_whatever_its_id_begins_with(tmp_path: Path) -> None:
    touch(tmp_path, "YouTubeClips/-_a_b_5_15.avi", "YouTubeClips/-_a_b_20_31.avi")
    (tmp_path / "train_list.txt").write_bytes(b"-_a_b_5_15\r\n-_a_b_20_31")
    (tmp_path / "val_list.txt").write_text("x_1_2\n")
    head = "# one, two\n#\n\n"
    lines = ["-_a_b_5_15 a cat  eats", "-_a_b_20_31 it", "-_a_b_5_15 a cat eats", "x_1_2 other"]
    (tmp_path / "AllVideoDescriptions.txt").write_bytes((head + "\r\n".join(lines)).encode())
    source = load_msvd(tmp_path, "train")
    assert [(item.id, item.path, item.extra) for item in source.items] == [
        (
            "-_a_b_5_15",
            "YouTubeClips/-_a_b_5_15.avi",
            {"group": "-_a_b", "captions": ["a cat eats", "a cat eats"]},
        ),
        ("-_a_b_20_31", "YouTubeClips/-_a_b_20_31.avi", {"group": "-_a_b", "captions": ["it"]}),
    ]
    (tmp_path / "captions_msvd.json").write_text(json.dumps({"-_a_b_5_15": ["joined"]}))
    assert [item.text for item in load_msvd(tmp_path, "train").items] == ["joined", None]
    assert load_msvd(tmp_path, "val").items == load_msvd(tmp_path, "validation").items
    assert load_msvd(tmp_path, "val").provenance == {"split": "validation"}


def test_a_listed_video_that_is_not_there_and_one_without_captions_are_failures_and_the_rest_is_built(
    tmp_path: Path,
) -> None:
    root = write_msrvtt(tmp_path / "vtt", zipped=False, num_frames=4)
    (root / "video" / "video1.mp4").unlink()
    found = json.loads((root / "msrvtt_train_9k.json").read_text())
    found[2]["caption"] = [" ", ""]
    (root / "msrvtt_train_9k.json").write_text(json.dumps(found))
    summary = build(open_source(root, None, "train"), tmp_path / "out", config=CONFIG)
    assert (summary.num_samples, summary.failures) == (2, {"bad_annotation": 1, "missing_file": 1})
    assert failures(tmp_path / "out") == {"video1": "missing_file", "video2": "bad_annotation"}
    lines = (tmp_path / "out" / "failures.jsonl").read_text()
    assert "msrvtt_train_9k.json has no caption of it" in lines
    assert '"path":"video/video1.mp4"' in lines  # where the others are


def test_a_video_that_ucf101_lists_and_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    root = write_ucf101(tmp_path / "ucf", num_frames=4)
    (root / "UCF-101" / "SlideLeft" / "v_Slideleft_g02_c01.avi").unlink()
    assert build(open_source(root, None, "train"), tmp_path / "out").failures == {"missing_file": 1}
    assert failures(tmp_path / "out") == {"v_Slideleft_g02_c01": "missing_file"}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (write_ucf101, ("ucf101", ["train", "test"])),
        (write_msrvtt, ("msrvtt", ["train", "test"])),
        (write_msvd, ("msvd", ["train", "validation", "test"])),
        (write_ssv2, ("ssv2", ["train", "validation"])),
    ],
)
def test_a_download_is_known_by_its_files(tmp_path: Path, make: Made, expected: tuple[str, list[str]]) -> None:
    root = make(tmp_path, num_frames=4)
    for split in expected[1]:
        found = open_source(root, None, split)
        assert found.kind == expected[0]
        assert found.items == open_source(root, None, split, source=expected[0]).items
    with pytest.raises(ValueError, match="no split 'dev'"):
        open_source(root, None, "dev")


def test_annotations_of_ssv2_with_a_byte_order_mark_are_the_same(tmp_path: Path) -> None:
    root = write_ssv2(tmp_path, num_frames=4)
    expected = open_source(root, None, "validation").items
    for path in (root / "labels").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_ssv2(root, root, "validation").items == expected


def test_a_video_that_is_there_twice_is_a_failure_unless_both_are_the_same_file(tmp_path: Path) -> None:
    root = touch(official(tmp_path), "other/video10.mp4")
    (root / "again").symlink_to(root / "TrainValVideo")
    (root / "again2").symlink_to(root)
    assert [item.problem for item in load_msrvtt(root, "train").items] == [None, None]
    touch(root, "third/video2.mp4")
    (problem, _) = [item.problem for item in load_msrvtt(root, "train").items]
    assert problem == (
        "duplicate_id",
        "there are two videos of this id, TrainValVideo/video2.mp4 and third/video2.mp4: which is meant?",
    )


def test_captions_stand_in_the_json_of_every_sample_beside_its_first(tmp_path: Path) -> None:
    root = write_msvd(tmp_path / "msvd", num_train=2, num_frames=4)
    source = open_source(root, None, "train")
    build(source, tmp_path / "out", view=VIEW)
    dataset = ShardDataset.open(tmp_path / "out")
    by_id = {item.id: item for item in source.items}
    for number in range(len(dataset)):
        about = dataset.metadata(number)
        item = by_id[about["video_id"]]
        assert about["captions"] == item.extra["captions"]
        assert (about["text"], about["extra"]) == (about["captions"][0], {"group": item.extra["group"]})
    assert dataset.manifest.provenance["source"]["kind"] == "msvd"
