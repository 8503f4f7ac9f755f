"""What `reelshard reshard` cannot do is one clear line, and what was there stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shards.dataset import ShardDataset
from shards.exchange.reshard import Change, Cut, plan_reshard
from shards.exchange.selection import Selection
from shards.format.errors import DamagedShardError, ShardError
from shards.format.schema import Field
from shards.payload import StoredValue
from tests.builds import contents
from tests.datasets import damage, make_dataset
from tools.cli import main


def test_a_damaged_sample_stops_the_copy_by_name_and_leaves_no_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_dataset(tmp_path / "src")
    damage(source, 8, "target")
    with pytest.raises(DamagedShardError, match="key 000008, field target"):
        plan_reshard(source, Selection(), Cut()).run(tmp_path / "dst")
    assert not (tmp_path / "dst" / "dataset.json").exists()
    assert main(["show", str(tmp_path / "dst")]) == 1
    assert "has no dataset.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels", "class 9"], "'class 9' is no class of"),
        (["--labels", "class 0,"], "has an empty name"),
        (["--sample", "21"], "21 samples are to be drawn, there are 20"),
        (["--sample", "0"], "draw at least 1"),
        (["--seed", "1"], "give --sample N too"),
        (["--sample", "1", "--seed", "-1"], "from 0 to 2^64"),
        (["--drop", "clop"], "there is no field 'clop'; there are clip, target, json"),
        (["--drop", "clip,target,json"], "no field of the main series is left"),
        (["--rename", "clip"], "give OLD=NEW"),
        (["--rename", "clip=target"], "field names must be unique"),
        (["--rename", "clip=a/b"], "field name 'a/b' is not allowed"),
        (["--rename", "clip=x.pkl"], "pickled data can run code"),
        (["--shard-size", "12 apples"], "is no size"),
        (["--shard-size", "0"], "at least 1 byte"),
        (["--samples-per-shard", "0"], "has to be at least 1"),
        (["--keys", "none.txt"], "there is no list of keys at none.txt"),
        (["--keys", "README.md"], "of no sample in"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_dataset(tmp_path / "src")
    assert main(["reshard", str(source.directory), "--out", str(tmp_path / "dst"), *options]) == 1
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_a_class_without_samples_is_said(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src", records={0: b'{"label": true}'})
    with pytest.raises(ShardError, match="sample 000000: its label is True; a whole number or null is allowed"):
        Selection(labels=("0",)).numbers(source)
    replace(source.manifest, label_names=("a", "b", "c", "d")).write(source.directory)
    unlabelled = make_dataset(tmp_path / "u", num_classes=2)
    replace(unlabelled.manifest, label_names=("a", "b", "c")).write(unlabelled.directory)
    with pytest.raises(ShardError, match=r"no sample of .* is of the class 'c'"):
        Selection(labels=("a", "c")).numbers(ShardDataset.open(unlabelled.directory))


@pytest.mark.parametrize("there", ["a data set", "a file in it", "a file"])
def test_what_is_there_stays_as_it_is(tmp_path: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = make_dataset(tmp_path / "src"), tmp_path / "dst"
    if there == "a data set":
        make_dataset(out, num_samples=3)
    elif there == "a file in it":
        out.mkdir()
        (out / "notes").write_text("mine")
    else:
        out.write_text("mine")
    before = contents(tmp_path)
    assert main(["reshard", str(source.directory), "--out", str(out)]) == 1
    assert main(["reshard", str(source.directory), "--out", str(source.directory)]) == 1
    assert "stays as it is" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_change_that_does_not_fit_its_field_names_the_sample(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src", num_samples=2)

    def refuse(value: StoredValue) -> StoredValue:
        raise ValueError("it is too loud")

    changes = [Change(source="clip", field=Field(name="clip"), apply=refuse)]
    with pytest.raises(ShardError, match="sample 000000, field clip: it is too loud"):
        plan_reshard(source, Selection(), Cut(), changes).run(tmp_path / "dst")
