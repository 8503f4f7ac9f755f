"""Thousands of damages: a clean error or sound data, never a traceback, a hang or a wrong row.

Some hundreds run each time; `REELSHARD_ALL_DAMAGES=1 pytest tests/test_shards_damages.py` runs 2,000 random ones and
500 whose digests were computed anew. A damage depends on its number alone, so one that fails can be had again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.adopt import index_directory
from shards.builder import Source
from shards.builder.journal import finished_shards
from shards.builder.plan import Plan, make_plan, publish_plan, recorded_teacher
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.payload import StoredValue
from shards.verify import verify_dataset
from tests.builds import CONFIG, VIEW, build
from tests.damages import damage_at_random, damage_with_digests
from tests.datasets import add_group, add_lengths_group
from tests.teachers import MeanTeacher
from tools.show import describe, describe_sample

PARTS = 5
RANDOM, STRUCTURED = (2000, 500) if os.environ.get("REELSHARD_ALL_DAMAGES") else (250, 150)
CHECKED_BESIDE = ("plan.json", "failures.jsonl", "projection.dinov2.npy")
Value = bytes | tuple[bytes, ...] | tuple[str, tuple[int, ...], bytes]
FIELDS = ("clip", "target", "json", "dino")


@dataclass(frozen=True)
class Intact:
    """A data set with all that one may have, and what is in it."""

    directory: Path
    plan: Plan
    samples: dict[str, dict[str, Value]]
    contents: dict[str, bytes]

    @property
    def found_by_checksums(self) -> list[str]:
        """Files of which every bit is covered."""
        return sorted(name for name in self.contents if name.endswith((".tar", ".idx")) or name == "dataset.json")


@pytest.fixture(scope="module")
def intact(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Intact:
    directory = tmp_path_factory.mktemp("intact")
    build(source, directory)
    (directory / "teacher.txt").unlink()
    dataset = add_lengths_group(add_group(ShardDataset.open(directory)))
    projection = np.arange(12, dtype=np.float32)
    np.save(directory / "projection.dinov2.npy", projection)
    about = {"teacher": {"projection": {"sha256": hashlib.sha256(projection.tobytes()).hexdigest()}}}
    replace(dataset.manifest, provenance={**dataset.manifest.provenance, "groups": {"dinov2": about}}).write(directory)
    dataset = ShardDataset.open(directory)
    assert verify_dataset(directory).problems == ()
    plan = make_plan(source, VIEW, CONFIG, split="train", teacher=MeanTeacher(VIEW.clip_shape))
    samples = {
        dataset.key(number): {name: spelled(value) for name, value in dataset[number].items()}
        for number in range(len(dataset))
    }
    return Intact(directory, plan, samples, {path.name: path.read_bytes() for path in directory.iterdir()})


def spelled(value: StoredValue) -> Value:
    """All that two values have to agree in."""
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, bytes) else (value.dtype.str, value.shape, value.tobytes())


def wrong_rows(directory: Path, intact: Intact) -> Iterator[str]:
    """Rows that the loader gives, checked always, and that are not what was stored under their key."""
    dataset = ShardDataset.open(directory)
    fields = tuple(name for name in FIELDS if name in dataset.schema)
    if not fields:
        return
    config = LoaderConfig(
        global_batch_size=4, fields=fields, threads=1, verify="always", drop_last=False, reader="pread"
    )
    with ShardLoader(dataset, config) as loader:
        for batch in loader:
            for row in np.flatnonzero(batch["valid"].numpy()).tolist():
                key = dataset.key(int(batch["index"][row]))
                for name in fields:
                    if value_of(batch, name, row) != intact.samples.get(key, {}).get(name):
                        yield f"{name} of {key}"


def value_of(batch: Any, name: str, row: int) -> Value:
    if f"{name}_offsets" in batch:
        start, stop = batch[f"{name}_offsets"][row : row + 2].tolist()
        return bytes(batch[name][start:stop].numpy().tobytes())
    return spelled(batch[name][row].numpy())


def read_in_runs(directory: Path) -> None:
    dataset = ShardDataset.open(directory)
    for field in dataset.schema:
        if field.has_lengths:
            for number, length in enumerate(dataset.lengths(field.name).tolist()):
                for start in range(min(length, 3)):
                    dataset.read_run(number, field.name, start, start + 1)


def look_at_everything(directory: Path) -> None:
    dataset = ShardDataset.open(directory)
    describe(dataset)
    for number in range(len(dataset)):
        describe_sample(dataset, number)


def what_went_wrong(directory: Path, intact: Intact) -> Iterator[str]:
    """Everything that is neither a clean error nor sound data."""
    readers: dict[str, Callable[[], object]] = {
        "verify": lambda: verify_dataset(directory, threads=1),
        "show": lambda: look_at_everything(directory),
        "runs": lambda: read_in_runs(directory),
        "plan": lambda: publish_plan(intact.plan, directory),
        "teacher": lambda: recorded_teacher(directory),
        "resume": lambda: finished_shards(intact.plan, directory),
    }
    for name, read in readers.items():
        try:
            read()
        except ShardError:
            pass
        except Exception as error:  # this is what is looked for
            yield f"{name}: {type(error).__name__}: {error}"
    try:
        yield from (f"the loader gave a wrong {wrong}" for wrong in wrong_rows(directory, intact))
    except ShardError:
        pass
    except Exception as error:
        yield f"loader: {type(error).__name__}: {error}"
    try:
        index_directory(directory)
    except ShardError:
        pass
    except Exception as error:
        yield f"index: {type(error).__name__}: {error}"


def is_found(directory: Path) -> bool:
    try:
        return bool(verify_dataset(directory, threads=1).problems)
    except ShardError:
        return True


def says_the_same(directory: Path, intact: Intact) -> bool:
    """Whether only spaces of the manifest differ."""
    now = {path.name: path.read_bytes() for path in directory.iterdir()}
    different = {name for name in now.keys() | intact.contents.keys() if now.get(name) != intact.contents.get(name)}
    try:
        return different <= {"dataset.json"} and json.loads(now["dataset.json"]) == json.loads(
            intact.contents["dataset.json"]
        )
    except (ValueError, KeyError, RecursionError):
        return False


@pytest.mark.parametrize("part", range(PARTS))
def test_random_damage_of_any_file_is_found_and_gives_a_clean_error_or_sound_data(
    intact: Intact, tmp_path: Path, part: int
) -> None:
    wrong = []
    for number in range(part, RANDOM, PARTS):
        random = Random(f"random {number}")
        directory = tmp_path / str(number)
        shutil.copytree(intact.directory, directory)
        covered = random.random() < 0.8
        names = intact.found_by_checksums if covered else list(CHECKED_BESIDE)
        done = damage_at_random(directory, names, random)
        if covered and not says_the_same(directory, intact) and not is_found(directory):
            wrong.append(f"{number}, {done}: not found")
        wrong += [f"{number}, {done}: {problem}" for problem in what_went_wrong(directory, intact)]
        shutil.rmtree(directory)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", range(PARTS))
def test_damage_whose_digests_were_computed_anew_gives_a_clean_error_or_sound_data(
    intact: Intact, tmp_path: Path, part: int
) -> None:
    wrong = []
    for number in range(part, STRUCTURED, PARTS):
        directory = tmp_path / str(number)
        shutil.copytree(intact.directory, directory)
        done = damage_with_digests(directory, Random(f"structured {number}"))
        wrong += [f"{number}, {done}: {problem}" for problem in what_went_wrong(directory, intact)]
        shutil.rmtree(directory)
    assert not wrong, "\n".join(wrong)
