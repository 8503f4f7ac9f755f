"""docs/datasets.md, followed to the letter: its Python runs, on 8 ranks and on from there on 2."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.batch.batch import Batch
from shards.dataset import ShardDataset
from shards.verify import verify_dataset
from tests.foreign_tars import pictures, write_tar
from tools.cli import COMMANDS, main

DOCS = Path(__file__).parents[1] / "docs" / "datasets.md"
FENCE = re.compile(r"^```python file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = dict(FENCE.findall(DOCS.read_text()))
NUM_SAMPLES, GLOBAL_BATCH = 70, 16

pytestmark = pytest.mark.usefixtures("garbage_collected")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class EnoughError(Exception):
    """The test has seen what it wanted."""


def run_ranks(size: int, num_batches: int, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The page's loop on `size` ranks for some batches each; sample numbers of the global batches."""
    found: dict[int, list[list[int]]] = {}

    def step(rank: int) -> Callable[[Batch], None]:
        def see(batch: Batch) -> None:
            if len(found[rank]) == num_batches:
                raise EnoughError
            assert len(batch["jpg_offsets"]) == len(batch["valid"]) + 1
            found[rank].append(batch["index"].tolist())

        return see

    for rank in reversed(range(size)):  # rank 0, which writes the state, comes last
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", size)):
            monkeypatch.setenv(name, str(value))
        found[rank] = []
        names: dict[str, Any] = {"step": step(rank)}
        try:
            exec(CODE["resume.py"], names)
        except EnoughError:
            names["loader"].close()
    return [[number for rank in range(size) for number in found[rank][batch]] for batch in range(len(found[0]))]


def lines(name: str) -> int:
    """Lines of code, without imports and blank ones."""
    code = CODE[name].splitlines()
    return len([line for line in code if line.strip() and not re.match(r"\s*(from|import) ", line)])


def test_from_a_folder_of_anything_to_exact_resume_on_8_ranks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in pictures(0, NUM_SAMPLES).items():
        path = place / "folder" / f"{int(name[:5]) % 3}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    exec(CODE["pack.py"], {})
    whole = run_ranks(8, 4, monkeypatch)
    (place / "state.json").unlink()
    first = run_ranks(8, 2, monkeypatch)
    state = json.loads((place / "state.json").read_text())
    assert first == whole[:2]
    assert run_ranks(8, 2, monkeypatch) == whole[2:]
    (place / "state.json").write_text(json.dumps(state))
    assert [sorted(batch) for batch in run_ranks(2, 2, monkeypatch)] == [sorted(batch) for batch in whole[2:]]
    assert len({number for batch in whole for number in batch}) == 4 * GLOBAL_BATCH
    assert len((place / "state.json").read_text()) < 400


def test_tars_of_webdataset_are_read_where_they_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        write_tar(place / "tars" / f"{number:05d}.tar", pictures(number * 40, 40), tarfile.PAX_FORMAT)
    assert main(["index", "tars"]) == 0
    batches = run_ranks(8, 3, monkeypatch)
    assert len({number for batch in batches for number in batch}) == 3 * GLOBAL_BATCH


def test_shards_of_ones_own_are_a_set_that_verifies_and_a_plain_tar(place: Path) -> None:
    exec(CODE["write.py"], {})
    dataset = ShardDataset.open("mine")
    assert verify_dataset(place / "mine").problems == ()
    assert dataset.lengths("features").tolist() == list(range(100))
    np.testing.assert_array_equal(np.asarray(dataset["000003"]["features"]), np.ones((3, 4), np.float32))
    with tarfile.open("mine/train-00000-of-00001.tar") as tar:
        assert len([name for name in tar.getnames() if name.endswith(".txt")]) == 100


def test_the_pages_programs_are_as_short_as_they_are_said_to_be() -> None:
    assert {name: lines(name) for name in CODE} == {"pack.py": 5, "resume.py": 9, "write.py": 6}


def test_every_command_on_the_page_is_one(place: Path) -> None:
    commands: Mapping[str, int] = dict.fromkeys(re.findall(r"reelshard ([\w-]+)", DOCS.read_text()), 1)
    assert commands.keys() >= {"index", "import", "reshard", "merge", "card"}
    assert commands.keys() <= set(COMMANDS)
