"""Downloads that are not whole, or not what they should be: one clear line each, with the official address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shards.builder import load_msrvtt, load_msvd, load_ucf101, open_source
from shards.format.errors import MissingDataError, ShardError
from tests.annotations import MSVD, QUALCOMM, UCF, VTT, official, rows, touch, ucf_lists


def test_what_a_source_does_not_know_is_refused(tmp_path: Path) -> None:
    root = official(tmp_path)
    for given, said in (
        ({"fold": 1}, "a fold is of the source ucf101, not of msrvtt"),
        ({"source": "msvd", "protocol": "9k"}, "a protocol is of the source msrvtt, not of msvd"),
        ({"protocol": "1k"}, "no protocol '1k'; choose 9k or 7k"),
        ({"source": "kinetics"}, "no source 'kinetics'; choose ucf101, msrvtt, msvd, sav, ssv2, table, folder"),
        ({"source": "ucf101", "fold": 4}, "no fold 4; choose 1, 2, 3"),
        ({"source": "table"}, "give it as --annotations"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            open_source(root, None, "train", **given)
    with pytest.raises(ValueError, match="leave --annotations out"):
        open_source(root, root, "train", source="msrvtt")
    touch(root, "msvd_train.json")
    with pytest.raises(ValueError, match="holds files of msrvtt and msvd: say which by --source"):
        open_source(root, None, "train")
    assert open_source(root, None, "train", source="msrvtt").kind == "msrvtt"
    assert open_source(root, None, "train", source="folder").kind == "folder"


@pytest.mark.parametrize(
    ("source", "address", "layout"),
    [
        ("ucf101", UCF, "ROOT/UCF-101/<class>/<video>.avi and ROOT/ucfTrainTestlist/"),
        ("msrvtt", f"{VTT}/resolve/main/MSRVTT_Videos.zip", "msrvtt_train_9k.json"),
        ("msvd", f"{MSVD}/resolve/main/MSVD_Videos.zip", "msvd_train.json"),
        ("ssv2", f"{QUALCOMM}/downloads", "VIDEOS/<id>.webm"),
    ],
)
def test_a_set_that_is_not_there_is_one_line_with_its_official_address_and_layout(
    tmp_path: Path, source: str, address: str, layout: str
) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(MissingDataError) as caught:
            open_source(root, None, "train", source=source)
        assert address in str(caught.value)
        assert layout in str(caught.value)
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_annotations_without_videos_say_where_to_get_those(tmp_path: Path) -> None:
    (tmp_path / "msrvtt_train_9k.json").write_text(rows(("video7", ["x"])))
    with pytest.raises(MissingDataError, match=rf"no video in {tmp_path} or in a zip there.*MSRVTT_Videos.zip"):
        open_source(tmp_path, None, "train")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "msvd_test.json").write_text(rows(("a_1_2", ["x"])))
    touch(tmp_path / "d", "YouTubeClips.tar")
    with pytest.raises(
        MissingDataError, match=r"YouTubeClips.tar has to be unpacked first \(tar xf YouTubeClips.tar\)"
    ):
        open_source(tmp_path / "d", None, "test")


def test_the_rar_of_ucf101_has_to_be_unpacked_by_hand_which_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "UCF101.rar")
    with pytest.raises(MissingDataError, match=rf"UCF101.rar is not unpacked yet.*unrar x UCF101.rar.*{UCF}"):
        open_source(tmp_path, None, "train")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("msrvtt_train_9k.json", "[{", "not JSON"),
        ("msrvtt_train_9k.json", "{}", "holds a dict, expected a list"),
        ("msrvtt_train_9k.json", "[]", "names no video"),
        ("msrvtt_train_9k.json", "[" * 100_000, "not JSON"),
        ("msrvtt_train_9k.json", rows(("video7", 3)), "video_id and caption in quotes"),
        ("msrvtt_train_9k.json", rows(("video7", [3])), "video_id and caption in quotes"),
        ("msrvtt_train_9k.json", rows(("../7", ["x"])), "video_id and caption in quotes"),
        ("msrvtt_train_9k.json", '[{"video_id": 7, "caption": "x"}]', "video_id and caption in quotes"),
        ("MSRVTT_train.9k.csv", "id\nvideo1\n", "has the columns id, not video_id"),
        ("MSRVTT_train.9k.csv", "video_id\n../x\n", "is no id of a video"),
        ("train_val_videodatainfo.json", '{"sentences": [{"sen_id": "0"}]}', "a list 'sentences' of objects"),
        ("train_val_videodatainfo.json", '{"annotations": 3}', "a list 'annotations' of objects"),
        ("train_val_videodatainfo.json", "\xff\xfe", "cannot be read as text"),
    ],
)
def test_annotations_of_msrvtt_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    root = official(tmp_path)
    (root / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ShardError, match=said) as caught:
        load_msrvtt(root, "train")
    assert name in str(caught.value)


def test_annotations_of_msvd_that_are_not_what_they_should_be_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "a_1_2.avi")
    (root / "test_list.txt").write_text("a_1_2\n")
    with pytest.raises(MissingDataError, match=rf"no captions in .*AllVideoDescriptions.txt.*{MSVD}"):
        load_msvd(root, "test")
    with pytest.raises(MissingDataError, match=r"neither msvd_train.json nor train_list.txt"):
        load_msvd(root, "train")
    (root / "captions_msvd.json").write_text('{"a_1_2": "not a list"}')
    with pytest.raises(ShardError, match="got 'not a list' for 'a_1_2'"):
        load_msvd(root, "test")
    (root / "test_list.txt").write_text("a/../../b\n")
    with pytest.raises(ShardError, match="is no id of a video"):
        load_msvd(root, "test")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"trainlist01": "BakeBread/v_BakeBread_g08_c01.avi 0\n"}, "is of class 0, classInd.txt numbers BakeBread 1"),
        ({"trainlist01": "BakeBread/v_BakeBread_g08_c01.avi 2\n"}, "is of class 2, classInd.txt numbers BakeBread 1"),
        ({"classInd": "0 BakeBread\n1 ZipBag\n"}, "expected \"1 <class>\", got '0 BakeBread'"),
        ({"classInd": "1 A\n2 A\n"}, 'expected "2 <class>"'),
        ({"trainlist01": "Unknown/v_Unknown_g01_c01.avi 1\n"}, 'expected "<class>/<video>.avi"'),
        ({"trainlist01": "../../etc/passwd 1\n"}, 'expected "<class>/<video>.avi"'),
        ({"trainlist01": "BakeBread/.. 1\n"}, 'expected "<class>/<video>.avi"'),
        ({"trainlist01": ""}, "trainlist01.txt is empty"),
    ],
)
def test_lists_of_ucf101_that_contradict_each_other_are_refused(
    tmp_path: Path, files: dict[str, str], said: str
) -> None:
    with pytest.raises(ShardError, match=re.escape(said)):
        load_ucf101(ucf_lists(tmp_path, **files), "train")
