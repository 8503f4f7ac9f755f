"""`reelshard card`, and `load_dataset` of the real library, which loads every row once by it, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from shards.dataset import ShardDataset
from shards.verify import verify_dataset
from tests.builds import contents
from tests.datasets import add_group, add_lengths_group, make_dataset, make_lengths_dataset
from tests.foreign_tars import pictures, write_tar
from tools.cli import main

LOAD = """
import json, sys
from datasets import load_dataset, get_dataset_config_names
found = {}
for name in get_dataset_config_names(sys.argv[1]):
    for split, rows in load_dataset(sys.argv[1], name).items():
        found[f"{name} {split}"] = [row["__key__"] for row in rows], sorted(rows.column_names)
print(json.dumps(found))
"""


def write_card(dataset: ShardDataset) -> str:
    assert main(["card", str(dataset.directory)]) == 0
    return (dataset.directory / "README.md").read_text()


def load(dataset: ShardDataset, cache: Path) -> dict[str, list[list[str]]]:
    """Keys and columns by configuration and split, as the library gives them in a process of its own."""
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(dataset.directory)],
        env=environment,
        cwd=cache,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[list[str]]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_every_row_is_loaded_once_and_groups_are_configurations_of_their_own(tmp_path: Path) -> None:
    dataset = add_lengths_group(add_group(make_dataset(tmp_path / "set", split="validation")))
    write_card(dataset)
    (tmp_path / "cache").mkdir()
    found = load(dataset, tmp_path / "cache")
    keys = [dataset.key(number) for number in range(len(dataset))]
    assert {name: sorted(rows) for name, (rows, _) in found.items()} == {
        "default validation": keys,
        "dinov2 validation": keys,
        "lengths validation": keys,
    }
    assert set(found["default validation"][1]) == {"__key__", "__url__", "clip.npy", "json", "target.npy"}
    assert set(found["dinov2 validation"][1]) == {"__key__", "__url__", "dino.npy"}


@pytest.mark.slow
def test_indexed_tars_of_any_name_are_loaded_once(tmp_path: Path) -> None:
    for number, name in enumerate(("a[1]", "b c", "d")):
        members = {key: data for key, data in pictures(number * 4, 4).items() if not key.endswith("jpg")}
        write_tar(tmp_path / "set" / f"{name}.tar", members)
    assert main(["index", str(tmp_path / "set")]) == 0
    dataset = ShardDataset.open(tmp_path / "set")
    write_card(dataset)
    (tmp_path / "cache").mkdir()
    ((keys, columns),) = load(dataset, tmp_path / "cache").values()
    assert sorted(keys) == [dataset.key(number) for number in range(12)]
    assert set(columns) == {"__key__", "__url__", "cls", "emb.npy", "txt"}


def test_the_card_says_what_the_set_is(tmp_path: Path) -> None:
    dataset = add_group(make_dataset(tmp_path / "my_set"))
    text = write_card(dataset)
    assert text.startswith("---\ntags:\n- webdataset\n- reelshard\nsize_categories:\n- n<1K\nconfigs:\n")
    assert '- config_name: "default"\n  data_files:\n  - split: "train"\n    path: "train-*.tar"\n' in text
    assert '- config_name: "dinov2"\n  data_files:\n  - split: "train"\n    path: "train.dinov2-*.tar"\n' in text
    assert "20 samples of the split `train`" in text
    assert dataset.digest in text
    assert "| class 0 | 7 |" in text
    assert "3 classes of 6 to 7 samples." in text
    assert "- groups.dinov2.teacher.id: `dinov2`" in text
    assert "`data_dir=` would take the sidecars for tars" in text
    assert "![Samples](card-samples.png)" in text
    for name in ("card-samples.png", "card-classes.png"):
        with Image.open(dataset.directory / name) as picture:
            assert picture.format == "PNG"
    assert verify_dataset(dataset.directory).problems == ()


def test_lengths_are_in_the_card_of_samples_that_have_some(tmp_path: Path) -> None:
    text = write_card(make_lengths_dataset(tmp_path / "set"))
    assert "| `features` | 29 | 0 to 6 |" in text
    assert "![Lengths](card-lengths.png)" in text
    assert "| 0 | 4 |" in text  # labels without names


@pytest.mark.parametrize("make", [make_dataset, make_lengths_dataset])
def test_the_same_set_has_the_same_card_again(tmp_path: Path, make: Callable[[Path], ShardDataset]) -> None:
    dataset = make(tmp_path / "set")
    write_card(dataset)
    before = contents(dataset.directory)
    write_card(dataset)
    assert contents(dataset.directory) == before


def test_the_history_and_failures_are_told(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "src")
    assert main(["reshard", str(dataset.directory), "--out", str(tmp_path / "set"), "--sample", "5"]) == 0
    text = write_card(ShardDataset.open(tmp_path / "set"))
    assert '1. `{"command": "reshard"' in text


def test_a_readme_of_others_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(tmp_path / "set")
    (dataset.directory / "README.md").write_text("mine")
    before = contents(dataset.directory)
    assert main(["card", str(dataset.directory)]) == 1
    assert "was written by others and stays as it is" in capsys.readouterr().err
    assert contents(dataset.directory) == before
    assert main(["card", str(dataset.directory), "--out", str(tmp_path / "cards" / "x.md")]) == 0
    assert "20 samples" in (tmp_path / "cards" / "x.md").read_text()


def test_hostile_names_of_classes_are_text_in_the_card(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    names = ("<script>alert(1)</script>", "a | b\n# c", "![x](http://example.org/y.png)")
    replace(dataset.manifest, label_names=names, provenance={"source": "`x`\n---\nevil: yes"}).write(dataset.directory)
    text = write_card(ShardDataset.open(dataset.directory))
    assert "<script>" not in text
    assert "\n# c" not in text
    assert r"!\[x\](http" in text
    assert "\nevil" not in text
    assert text.count("\n---\n") == 1
