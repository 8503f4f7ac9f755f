"""What lies beside the shards is checked against the manifest, and read with care."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.builder import Source, ViewSpec, finalize_dataset
from shards.format.errors import ShardError
from shards.verify import verify_dataset
from tests.builds import CONFIG, build
from tests.damages import HUGE, Record, deep
from tests.datasets import make_dataset


def test_a_sound_build_has_no_problems_and_may_be_copied_without_its_plan(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    assert verify_dataset(tmp_path).problems == ()
    (tmp_path / "plan.json").unlink()
    assert verify_dataset(tmp_path).problems == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan.update(split="test"), "split differs"),
        (lambda plan: plan["schema"].pop(), "schema differs"),
        (lambda plan: plan.update(label_names="0" * 32), "label_names differs"),
        (lambda plan: plan.update(samples_per_shard=5), "the number of shards differs"),
        (lambda plan: plan["source"].update(items=12), "the number of items differs"),
        (lambda plan: plan["view"].update(size=64), "view differs"),
        (lambda plan: plan["teacher"].update(id="other"), "teacher differs"),
        (lambda plan: plan.update(seed=1), "seed differs"),
        (lambda plan: plan.update(seed=HUGE), "is damaged"),
        (lambda plan: plan.update(samples_per_shard="3"), "is damaged"),
        (lambda plan: plan.update(samples_per_item=2), "the number of items differs"),
        (lambda plan: plan.update(samples_per_item=0), "is damaged"),
        (lambda plan: plan.update(samples_per_item=[2]), "is damaged"),
        (lambda plan: plan.update(schema=deep(60)), "is damaged"),
        (lambda plan: plan.update(source=None), "is damaged"),
        (lambda plan: plan.pop("teacher"), "is damaged"),
    ],
)
def test_a_plan_that_does_not_fit_the_manifest_is_a_problem(
    source: Source, tmp_path: Path, change: Callable[[Record], object], said: str
) -> None:
    build(source, tmp_path)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_bytes())
    change(plan)
    path.write_text(json.dumps(plan))
    problems = verify_dataset(tmp_path).problems
    assert problems
    assert all("plan.json" in problem for problem in problems)
    assert any(said in problem for problem in problems)
    with pytest.raises(ShardError, match=r"plan"):
        build(source, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"split": 1}', "\udcff", '{"teacher": {}}'])
def test_a_plan_that_is_none_stops_a_build_in_one_line(source: Source, tmp_path: Path, text: str) -> None:
    build(source, tmp_path)
    (tmp_path / "plan.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ShardError, match=r"plan\.json is damaged"):
        build(source, tmp_path)
    with pytest.raises(ShardError, match=r"plan\.json is damaged"):
        finalize_dataset(source, tmp_path, ViewSpec(num_frames=4, size=32), CONFIG)


def test_a_plan_of_other_fields_is_told_in_short(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_bytes())
    plan["schema"][0]["shape"] = [4, 32, 32, 3]
    plan["source"]["note"] = "x" * 10_000
    path.write_text(json.dumps(plan))
    with pytest.raises(ShardError, match=r"schema\.0\.shape was a list of 4, is now a list of 6") as caught:
        build(source, tmp_path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.clear(), "it lists none, the manifest counts empty_file 1"),
        (lambda lines: lines.append(lines[0]), "it lists empty_file 2, the manifest counts empty_file 1"),
        (lambda lines: lines[0].update(reason="truncated"), "it lists truncated 1"),
        (lambda lines: lines[0].update(shard=99), "there are 4"),
        (lambda lines: lines[0].update(shard=HUGE), "line 1, is damaged"),
        (lambda lines: lines[0].update(key=None), "line 1, is damaged"),
        (lambda lines: lines[0].update(source_bytes=-1), "line 1, is damaged"),
        (lambda lines: lines[0].pop("path"), "line 1, is damaged"),
        (lambda lines: lines[0].update(more=1), "line 1, is damaged"),
    ],
)
def test_failures_that_are_not_those_of_the_manifest_are_a_problem(
    source: Source, tmp_path: Path, change: Callable[[list[Record]], object], said: str
) -> None:
    build(source, tmp_path)
    path = tmp_path / "failures.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (problem,) = verify_dataset(tmp_path).problems
    assert "failures.jsonl" in problem
    assert said in problem


@pytest.mark.parametrize("text", ["{\n", "7\n", "[" * 100_000, "\udcff\n", '{"reason": NaN}\n'])
def test_failures_that_cannot_be_read_are_a_problem_and_stop_a_build_in_one_line(
    source: Source, tmp_path: Path, text: str
) -> None:
    build(source, tmp_path)
    path = tmp_path / "failures.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    (problem,) = verify_dataset(tmp_path).problems
    assert "failures.jsonl, line 1, is damaged" in problem
    with pytest.raises(ShardError, match=r"failures\.jsonl, line 1, is damaged"):
        build(source, tmp_path)
    path.unlink()
    assert "failures.jsonl" in verify_dataset(tmp_path).problems[0]
    build(source, tmp_path)
    assert verify_dataset(tmp_path).problems == ()


def test_failures_of_one_shard_that_cannot_be_read_have_that_shard_built_again(
    source: Source, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    build(source, tmp_path)
    (tmp_path / ".build").mkdir()
    (tmp_path / ".build" / "train-00001-of-00004.tar.failures.jsonl").write_text("{")
    assert build(source, tmp_path).num_resumed == 11 - 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected


def test_a_projection_that_is_not_the_teachers_is_a_problem(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    projection = np.arange(12, dtype=np.float32).reshape(3, 4)
    about = {"projection": {"sha256": hashlib.sha256(projection.tobytes()).hexdigest()}}
    replace(dataset.manifest, provenance={"teacher": about}).write(tmp_path)
    path = tmp_path / "projection.npy"
    (problem,) = verify_dataset(tmp_path).problems
    assert "projection.npy is missing" in problem
    np.save(path, projection)
    assert verify_dataset(tmp_path).problems == ()
    good = path.read_bytes()
    for data, said in (
        (good[:-1] + b"x", "is not the projection of the manifest"),
        (good[:-3], "is damaged"),
        (b"", "is damaged"),
        (good.replace(b"(3, 4)", b"(3,99)"), "is damaged"),
    ):
        path.write_bytes(data)
        (problem,) = verify_dataset(tmp_path).problems
        assert said in problem
