"""A table's columns become fields of the samples that it names; nothing is guessed about those that it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.builder.add_group import add_table
from shards.dataset import ShardDataset
from shards.drop_group import drop_group
from shards.format.errors import MissingDataError, ShardError
from shards.verify import verify_dataset
from tests.builds import contents
from tests.datasets import add_group, make_dataset
from tools.cli import main

ROWS = "".join(f"{number:06d},{number * 3 - 20},{number / 8},caption {number} 猫\n" for number in range(20))
TABLE = "key,views,score,caption\n" + ROWS


def write(folder: Path, text: str = TABLE, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(numbers: range) -> str:
    return "key,views,score,caption\n" + "".join(ROWS.splitlines(keepends=True)[n] for n in numbers)


@pytest.fixture
def dataset(tmp_path: Path) -> ShardDataset:
    return make_dataset(tmp_path / "set")


def add(dataset: ShardDataset, table: Path, *more: str, name: str = "notes") -> int:
    return main(["add-field", str(dataset.directory), "--name", name, "--table", str(table), *more])


def test_numbers_and_text_of_each_sample_are_read_back_as_they_stand(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(dataset.directory)
    assert add(dataset, write(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "views <i8 [], score <f4 [], caption text for 20 samples in 4 shards" in said
    both = ShardDataset.open(dataset.directory)
    assert verify_dataset(dataset.directory).problems == ()
    for number in range(20):
        sample = both[number]
        assert (float(np.asarray(sample["views"])), float(np.asarray(sample["score"]))) == (number * 3 - 20, number / 8)
        assert sample["caption"] == f"caption {number} 猫".encode()
    after = contents(dataset.directory)
    assert {name: after[name] for name in before if name != "dataset.json"} == {
        name: data for name, data in before.items() if name != "dataset.json"
    }
    assert {name for name in after if name not in before} == {
        *(f"train.notes-0000{shard}-of-00004.{end}" for shard in range(4) for end in ("tar", "idx")),
        "plan.notes.json",
        "failures.notes.jsonl",
    }


def test_a_loader_reads_columns_beside_clips_and_targets(dataset: ShardDataset, tmp_path: Path) -> None:
    assert add(dataset, write(tmp_path)) == 0
    config = LoaderConfig(global_batch_size=5, fields=("target", "views", "score"))
    for batch in ShardLoader(ShardDataset.open(dataset.directory), config):
        for row, number in enumerate(batch["index"].tolist()):
            assert batch["views"][row] == number * 3 - 20
            assert batch["score"][row] == number / 8
            assert np.array_equal(batch["target"][row].numpy(), np.asarray(dataset[number]["target"]))


def test_the_manifest_says_which_table_it_was(dataset: ShardDataset, tmp_path: Path) -> None:
    table = write(tmp_path)
    assert add(dataset, table) == 0
    about = ShardDataset.open(dataset.directory).manifest.about("notes")
    assert (about["kind"], about["table"], about["missing"], about["num_filled"]) == ("table", "table.csv", None, 0)
    assert str(tmp_path) not in json.dumps(ShardDataset.open(dataset.directory).manifest.to_json())


def test_samples_are_matched_by_key_or_else_by_the_id_of_their_video(dataset: ShardDataset, tmp_path: Path) -> None:
    rows = [f"video{number:06d},{number}" for number in range(19, -1, -1) if number != 7]
    table = write(tmp_path, "video_id,n\n" + "\n".join([*rows, "000007,700"]) + "\n")
    assert add(dataset, table) == 0
    both = ShardDataset.open(dataset.directory)
    assert [int(np.asarray(both[number]["n"])) for number in range(20)] == [*range(7), 700, *range(8, 20)]


def test_the_same_table_again_changes_nothing_and_another_is_refused(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(dataset, write(tmp_path)) == 0
    before = contents(dataset.directory)
    assert add(dataset, write(tmp_path)) == 0
    assert "20 samples were there already" in capsys.readouterr().out
    assert add(dataset, write(tmp_path, TABLE.replace("caption 3", "caption three"))) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the field group 'notes' of" in error
    assert "was begun with another plan: " in error
    assert "sample.sha256 was" in error
    assert "choose another name, or drop it first" in error
    assert contents(dataset.directory) == before


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (lines(range(18)), (), "table.csv has no row for 2 samples ('000018', '000019'); give the table a row"),
        (lines(range(5)), (), "has no row for 15 samples ('000005', '000006', '000007' and 12 more)"),
        (TABLE.replace("000003,-11", "000003,"), (), "the column 'views' has no value for 1 sample ('000003')"),
        ("key,n\nx,1\n", (), "names no sample of"),
        (
            "key,n\nx,1\n",
            ("--missing", "0"),
            "matched by a sample's key, which looks like '000000', or by its video_id",
        ),
        (lines(range(18)), ("--missing", "0.5"), "--missing for the column 'views': '0.5' is no whole number"),
        (lines(range(18)), ("--missing", "none"), "--missing for the column 'views': 'none' is no whole number"),
        (TABLE.replace("score", "clip"), (), "has a field 'clip' in the samples themselves; choose another name"),
        (TABLE.replace("score", "json.npy"), ("--projection-dim", "3"), "--projection-dim is for a teacher"),
        (TABLE, ("--devices", "cpu,cpu"), "--devices is for a teacher"),
        ("", (), "it is empty"),
    ],
)
def test_what_cannot_be_joined_is_one_line_and_leaves_the_set_as_it_was(
    dataset: ShardDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    more: tuple[str, ...],
    said: str,
) -> None:
    before = contents(dataset.directory)
    assert add(dataset, write(tmp_path, text), *more) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reelshard:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert contents(dataset.directory) == before


def test_what_is_missing_is_filled_where_that_is_asked_for_and_counted(dataset: ShardDataset, tmp_path: Path) -> None:
    text = lines(range(18)).replace("000003,-11", "000003,").replace("caption 4 猫", "")
    assert add(dataset, write(tmp_path, text), "--missing", "-1") == 0
    both = ShardDataset.open(dataset.directory)
    views = [int(np.asarray(both[number]["views"])) for number in range(20)]
    assert views == [-1 if number in (3, 18, 19) else number * 3 - 20 for number in range(20)]
    assert [both[number]["caption"] for number in (4, 18)] == [b"", b"-1"]
    about = both.manifest.about("notes")
    assert (about["missing"], about["num_filled"]) == ("-1", 7)  # views of 3, and three columns of 18 and 19


def test_a_real_number_may_be_missing_as_nan(dataset: ShardDataset, tmp_path: Path) -> None:
    assert add(dataset, write(tmp_path, "key,score\n000000,0.5\n"), "--missing", "nan") == 0
    both = ShardDataset.open(dataset.directory)
    assert [bool(np.isnan(np.asarray(both[number]["score"]))) for number in (0, 1)] == [False, True]
    assert verify_dataset(dataset.directory).problems == ()


def test_rows_of_samples_that_are_not_there_are_left_out_and_named(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(dataset, write(tmp_path, TABLE + "x,1,1,\ny,2,2,\n")) == 0
    assert "2 rows ('x', 'y') of table.csv of no sample here, left out" in capsys.readouterr().err


def test_two_tables_stand_side_by_side_and_a_third_may_not_take_their_fields(
    dataset: ShardDataset, tmp_path: Path
) -> None:
    add_table(dataset, "one", write(tmp_path))
    second = write(
        tmp_path, "".join(line.split(",")[0] + ",1\n" for line in TABLE.splitlines()).replace("key,1", "key,n")
    )
    add_table(ShardDataset.open(dataset.directory), "two", second)
    both = ShardDataset.open(dataset.directory)
    assert both.schema.groups == ("", "one", "two")
    with pytest.raises(ShardError, match="has a field 'n' in the field group 'two'; choose another name"):
        add_table(both, "three", second)
    drop_group(dataset.directory, "one")
    assert ShardDataset.open(dataset.directory).schema.groups == ("", "two")
    assert verify_dataset(dataset.directory).problems == ()


@pytest.mark.parametrize("name", ["../esc", ".hidden", "", "a/b", "a\nb", "x" * 300])
def test_a_name_that_would_leave_the_folder_is_refused(dataset: ShardDataset, tmp_path: Path, name: str) -> None:
    table = write(tmp_path)
    for call in (lambda: add_table(dataset, name, table), lambda: drop_group(dataset.directory, name)):
        with pytest.raises(ValueError, match="the group's name"):
            call()


def test_a_group_that_was_made_in_another_way_is_not_overwritten(dataset: ShardDataset, tmp_path: Path) -> None:
    both = add_group(dataset, "notes")
    with pytest.raises(ShardError, match="has a field group 'notes' already, which was made in another way"):
        add_table(both, "notes", write(tmp_path))


def test_a_set_that_changes_meanwhile_does_not_get_the_group(dataset: ShardDataset, tmp_path: Path) -> None:
    stale = ShardDataset.open(dataset.directory)
    other = replace(dataset.manifest, shards=dataset.manifest.shards[:-1])
    other.write(dataset.directory)
    with pytest.raises(ShardError, match="has changed since the field group 'notes' was begun"):
        add_table(stale, "notes", write(tmp_path))
    assert ShardDataset.open(dataset.directory).manifest == other


def test_a_table_that_is_not_there_is_said(dataset: ShardDataset, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="there is no table at"):
        add_table(dataset, "notes", tmp_path / "none.csv")
