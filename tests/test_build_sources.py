import json
from pathlib import Path

import pytest

from shards.builder import load_folder, load_ssv2, load_table, open_source
from shards.format.errors import MissingDataError, ShardError

LABELS = {"Moving something up": "0", "Pouring something into something (and back), isn't it": "1"}
ENTRIES = [
    {"id": "41775", "label": "Moving a cup up", "template": "Moving [something] up", "placeholders": ["a cup"]},
    {
        "id": "7",
        "label": "Pouring tea into a mug (and back), isn't it",
        "template": "Pouring [something] into [something] (and back), isn't it",
        "placeholders": ["tea", "a mug"],
    },
]


def write_annotations(folder: Path, prefix: str = "", entries: object = ENTRIES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}labels.json").write_text(json.dumps(LABELS))
    (folder / f"{prefix}train.json").write_text(json.dumps(entries))
    (folder / f"{prefix}test.json").write_text(json.dumps([{"id": "9"}, {"id": "10"}]))
    return folder


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_ssv2_is_read_in_both_namings(tmp_path: Path, prefix: str) -> None:
    annotations = write_annotations(tmp_path / "labels", prefix)
    for given in (annotations, annotations / f"{prefix}train.json"):
        source = open_source(tmp_path, given, "train")
        assert [(item.id, item.path, item.label) for item in source.items] == [
            ("41775", "41775.webm", 0),
            ("7", "7.webm", 1),
        ]
        assert source.items[1].label_name == "Pouring something into something (and back), isn't it"
        assert source.items[0].text == "Moving a cup up"
        assert source.label_names == tuple(LABELS)


def test_an_unknown_template_stays_in_the_plan_as_a_failure(tmp_path: Path) -> None:
    write_annotations(tmp_path, entries=[*ENTRIES, {"id": "8", "label": "x", "template": "Doing [something] new"}])
    item = load_ssv2(tmp_path, tmp_path, "train").items[-1]
    assert item.problem is not None
    assert item.problem[0] == "unknown_template"
    assert "Doing [something] new" in item.problem[1]


def test_the_test_split_has_labels_only_with_its_answers(tmp_path: Path) -> None:
    write_annotations(tmp_path)
    assert [item.label for item in load_ssv2(tmp_path, tmp_path, "test").items] == [None, None]
    (tmp_path / "test-answers.csv").write_text("9;Moving something up\n")
    assert [item.label for item in load_ssv2(tmp_path, tmp_path, "test").items] == [0, None]


@pytest.mark.parametrize("missing", ["videos", "train.json"])
def test_a_missing_data_set_says_where_to_get_it_and_the_layout(tmp_path: Path, missing: str) -> None:
    annotations = write_annotations(tmp_path / "labels")
    videos = tmp_path / "videos"
    if missing == "videos":
        with pytest.raises(MissingDataError, match=r"VIDEOS/<id>.webm.*Get it from"):
            load_ssv2(videos, annotations, "train")
    else:
        videos.mkdir()
        (annotations / missing).unlink()
        with pytest.raises(MissingDataError, match=rf"no {missing}.*Get it from"):
            load_ssv2(videos, annotations, "train")


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
@pytest.mark.parametrize("folder", [".", "labels"])
def test_ssv2_in_one_folder_needs_no_annotations_argument(tmp_path: Path, prefix: str, folder: str) -> None:
    write_annotations(tmp_path / folder, prefix)
    touch(tmp_path, "41775.webm", "7.webm", "8.webm")
    for annotations in (None, tmp_path):
        source = open_source(tmp_path, annotations, "train")
        assert (source.kind, source.notes) == ("ssv2", ())
        assert [(item.id, item.label) for item in source.items] == [("41775", 0), ("7", 1)]
    with pytest.raises(MissingDataError, match=r"no validation.json .*Get it from https://www.qualcomm.com/"):
        open_source(tmp_path, None, "validation")


def test_ssv2_without_labels_json_is_unlabelled_which_is_said_in_a_line(tmp_path: Path) -> None:
    write_annotations(tmp_path)
    (tmp_path / "labels.json").unlink()
    source = load_ssv2(tmp_path, tmp_path, "train")
    assert [(item.label, item.label_name, item.problem) for item in source.items] == [(None, None, None)] * 2
    assert source.items[0].text == "Moving a cup up"
    assert source.label_names == ()
    (note,) = source.notes
    assert f"no labels.json in {tmp_path}" in note
    assert "without labels" in note
    assert "https://www.qualcomm.com/" in note


def test_videos_beside_other_json_files_are_a_plain_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.webm", "b.webm")
    (tmp_path / "notes.json").write_text("[]")
    assert open_source(tmp_path, None, "train").kind == "folder"


@pytest.mark.parametrize(
    "entry", [{"id": 7, "label_id": 3}, {"label": "x"}, "7", {"id": "../7"}, {"id": "7", "template": 3}]
)
def test_annotations_that_only_bear_the_official_name_are_refused(tmp_path: Path, entry: object) -> None:
    write_annotations(tmp_path, entries=[*ENTRIES, entry])
    with pytest.raises(ShardError, match=r"train.json: an annotation is an object with an id in quotes.*qualcomm"):
        load_ssv2(tmp_path, tmp_path, "train")


def test_annotations_that_are_not_what_they_should_be_are_refused(tmp_path: Path) -> None:
    write_annotations(tmp_path, entries={"not": "a list"})
    with pytest.raises(ShardError, match="expected a list"):
        load_ssv2(tmp_path, tmp_path, "train")
    (tmp_path / "train.json").write_text("[{")
    with pytest.raises(ShardError, match="not JSON"):
        load_ssv2(tmp_path, tmp_path, "train")
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_ssv2(tmp_path, tmp_path, "dev")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_gives_its_videos_by_name_and_nothing_else(tmp_path: Path) -> None:
    source = load_folder(touch(tmp_path, "b.mp4", "a.WEBM", "README.md", "x/c.mkv"))
    assert [(item.id, item.path, item.label) for item in source.items] == [
        ("a", "a.WEBM", None),
        ("b", "b.mp4", None),
        ("x/c", "x/c.mkv", None),
    ]
    assert source.items[2].key == "x_c"


def test_subfolders_are_classes_when_all_videos_lie_in_them(tmp_path: Path) -> None:
    source = load_folder(touch(tmp_path, "run/b.mp4", "jump/a.mp4", "jump/deep/c.mp4"))
    assert [(item.label, item.label_name) for item in source.items] == [(0, "jump"), (0, "jump"), (1, "run")]
    assert source.label_names == ("jump", "run")


def test_videos_that_differ_in_their_suffix_only_keep_apart(tmp_path: Path) -> None:
    keys = [item.key for item in load_folder(touch(tmp_path, "a.mp4", "a.webm", "b.mp4")).items]
    assert keys == ["a_mp4", "a_webm", "b"]


def test_a_folder_without_videos_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no video in .*\.webm"):
        load_folder(tmp_path)
    with pytest.raises(MissingDataError, match="no folder of videos"):
        load_folder(tmp_path / "absent")


def test_a_table_gives_labels_captions_and_splits(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text('video,caption,class,split\na.mp4,"one, two",run,train\nb/c.mp4,,jump,train\nd.mp4,x,sit,test\n')
    source = open_source(tmp_path, table, "train")
    assert [(item.id, item.label, item.label_name, item.text) for item in source.items] == [
        ("a", 1, "run", "one, two"),
        ("b/c", 0, "jump", None),
    ]
    assert source.label_names == load_table(table, tmp_path, "test").label_names == ("jump", "run", "sit")


def test_a_table_s_numbers_are_kept_as_class_numbers(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("path\tlabel\tid\na.mp4\t3\tfirst\nb.mp4\t\tsecond\n")
    source = load_table(table, tmp_path, "train")
    assert [(item.id, item.label) for item in source.items] == [("first", 3), ("second", None)]
    assert source.label_names == ("0", "1", "2", "3")


def test_a_table_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("name,label\na.mp4,1\n")
    with pytest.raises(ShardError, match="columns name, label"):
        load_table(table, tmp_path, "train")
    table.write_text("path,split\na.mp4,train\n,train\n")
    with pytest.raises(ShardError, match="line 3"):
        load_table(table, tmp_path, "train")
    table.write_text("path,split\na.mp4,train\n")
    with pytest.raises(MissingDataError, match="its splits are train"):
        load_table(table, tmp_path, "test")
    with pytest.raises(MissingDataError, match="no table"):
        load_table(tmp_path / "absent.csv", tmp_path, "train")
