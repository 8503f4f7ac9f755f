"""`reelshard merge`: one data set of several; classes are united, samples that meet are handled and said."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from shards.builder import Source
from shards.dataset import ShardDataset
from shards.exchange.merge import plan_merge
from shards.exchange.reshard import Cut
from shards.format.errors import ShardError
from shards.format.publish import canonical_json
from shards.verify import verify_dataset
from tests.builds import build, contents, start_python
from tests.datasets import LENGTHS_SCHEMA, add_group, lengths_sample, make_dataset, make_lengths_dataset, tubes_sample
from tests.test_shards_reshard import same
from tools.cli import main


def merge(out: Path, *sets: ShardDataset, options: tuple[str, ...] = ()) -> ShardDataset:
    assert main(["merge", *(str(one.directory) for one in sets), "--out", str(out), *options]) == 0
    assert verify_dataset(out).problems == ()
    return ShardDataset.open(out)


def others(folder: Path, first: int = 100, count: int = 5) -> ShardDataset:
    """A set of other samples of variable length."""
    samples = {f"{number:06d}": lengths_sample(number) for number in range(first, first + count)}
    return make_lengths_dataset(folder, schema=LENGTHS_SCHEMA, samples=samples)


def test_sets_of_every_kind_of_field_stand_one_behind_the_other(tmp_path: Path) -> None:
    first, second = make_lengths_dataset(tmp_path / "a"), others(tmp_path / "b")
    before = contents(tmp_path)
    both = merge(tmp_path / "c", first, second, options=("--samples-per-shard", "4"))
    assert {info.num_samples for info in both.manifest.shards[:-1]} == {4}
    assert len(both) == len(first) + len(second)
    for part, start in ((first, 0), (second, len(first))):
        for number in range(len(part)):
            assert both.key(start + number) == part.key(number)
            for name in both.schema.names:
                assert same(both.read(start + number, name), part.read(number, name))
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith("c/")} == before


def test_groups_are_merged_too(tmp_path: Path) -> None:
    first = add_group(make_dataset(tmp_path / "a", num_samples=4))
    records = dict.fromkeys(range(6), b"{}")
    second = add_group(make_dataset(tmp_path / "b", num_samples=6, records=records))
    both = merge(tmp_path / "c", first, second)
    assert len(both) == 10
    assert both.manifest.about("dinov2") == {"teacher": {"id": "dinov2"}}
    for number in range(6):
        assert same(both.read(4 + number, "dino"), second.read(number, "dino"))


def test_classes_are_united_by_name_and_labels_follow(tmp_path: Path) -> None:
    def record(label: int | None, number: int) -> bytes:
        return canonical_json({"label": label, "text": f"b{number}"})

    first = make_dataset(tmp_path / "a", num_samples=6)
    records = {number: record(number % 3 if number else None, number) for number in range(6)}
    second = make_dataset(tmp_path / "b", num_samples=6, records=records)
    replace(second.manifest, label_names=("class 2", "new", "class 0")).write(second.directory)
    both = merge(tmp_path / "c", first, ShardDataset.open(second.directory))
    assert both.manifest.label_names == ("class 0", "class 1", "class 2", "new")
    labels = [both.metadata(number)["label"] for number in range(12)]
    assert labels[:6] == [0, 1, 2, 0, 1, 2]
    assert labels[6:] == [None, 3, 0, 2, 3, 0]
    assert [both.metadata(6 + n).get("text") for n in range(6)] == [f"b{n}" for n in range(6)]


def test_a_set_without_labels_is_merged_with_one_that_has_some(tmp_path: Path) -> None:
    first = make_dataset(tmp_path / "a", num_samples=2)
    second = make_dataset(tmp_path / "b", num_samples=2, records={0: b'{"label": null}', 1: b"{}"})
    replace(second.manifest, label_names=()).write(second.directory)
    both = merge(tmp_path / "c", first, ShardDataset.open(second.directory))
    assert both.manifest.label_names == first.manifest.label_names
    third = make_dataset(tmp_path / "d", num_samples=2)
    replace(third.manifest, label_names=()).write(third.directory)
    with pytest.raises(ShardError, match=r"has labels .* and no names of classes, the others have names"):
        plan_merge([first, ShardDataset.open(third.directory)], Cut())


def test_a_label_of_no_class_and_a_class_twice_are_refused(tmp_path: Path) -> None:
    first = make_dataset(tmp_path / "a", num_samples=2)
    second = make_dataset(tmp_path / "b", num_samples=2, records={1: b'{"label": 7}'})
    replace(second.manifest, label_names=("other",)).write(second.directory)
    with pytest.raises(ShardError, match="sample 000001, field json: its label is 7, and its data set has 1 classes"):
        plan_merge([first, ShardDataset.open(second.directory)], Cut()).run(tmp_path / "c")
    replace(second.manifest, label_names=("x", "x")).write(second.directory)
    with pytest.raises(ShardError, match="has two classes called 'x'"):
        plan_merge([first, ShardDataset.open(second.directory)], Cut())


def test_the_same_sample_is_kept_once_and_others_of_its_key_are_renamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_dataset(tmp_path / "a", num_samples=6)
    second = make_dataset(tmp_path / "b", num_samples=8, records={0: b'{"label": 1}', 5: b'{"label": 2}'})
    both = merge(tmp_path / "c", first, second)
    assert [both.key(number) for number in range(len(both))] == [
        *(f"{number:06d}" for number in range(6)),
        "000000-2",
        "000005-2",
        "000006",
        "000007",
    ]
    assert both.metadata(6) == {"label": 1}
    said = capsys.readouterr().err
    assert "4 samples ('000001', '000002', '000003' and 1 more) in several of them, byte for byte: kept once" in said
    assert "2 keys ('000000', '000005') of other samples in several of them: the later ones have -2" in said


def test_a_key_that_looks_like_a_renamed_one_is_not_met(tmp_path: Path) -> None:
    schema = make_dataset(tmp_path / "x", num_samples=1).schema
    first = make_lengths_dataset(tmp_path / "a", schema=schema, samples={"k": tubes_sample(1), "k-2": tubes_sample(2)})
    second = make_lengths_dataset(tmp_path / "b", schema=schema, samples={"k": tubes_sample(3), "k-3": tubes_sample(4)})
    both = merge(tmp_path / "c", first, second)
    assert [both.key(number) for number in range(4)] == ["k", "k-2", "k-4", "k-3"]


def test_the_provenance_keeps_what_all_agree_in_and_tells_the_rest(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    first = ShardDataset.open(tmp_path / "a")
    assert main(["reshard", str(first.directory), "--out", str(tmp_path / "b"), "--sample", "3"]) == 0
    second = ShardDataset.open(tmp_path / "b")
    both = merge(tmp_path / "c", first, second)
    provenance = dict(both.manifest.provenance)
    (step,) = provenance.pop("history")
    assert provenance == first.manifest.provenance
    assert [part["digest"] for part in step["of"]] == [first.digest, second.digest]
    assert step["of"][1]["provenance"] == second.manifest.provenance
    assert len(both) == len(first)


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({"view": {"hash": "b"}}, "view"),
        ({"view": {"hash": "a"}, "teacher": {"id": "y"}}, "different teachers: they differ in id"),
    ],
)
def test_sets_that_do_not_belong_together_are_refused(tmp_path: Path, provenance: dict[str, object], said: str) -> None:
    first, second = (make_dataset(tmp_path / name, num_samples=3) for name in "ab")
    replace(first.manifest, provenance={"view": {"hash": "a"}, "teacher": {"id": "x"}}).write(first.directory)
    replace(second.manifest, provenance=provenance).write(second.directory)
    with pytest.raises(ShardError, match=said):
        plan_merge([ShardDataset.open(one.directory) for one in (first, second)], Cut())


def test_sets_of_other_fields_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_dataset(tmp_path / "a"), make_dataset(tmp_path / "b", dim=8)
    third = make_lengths_dataset(tmp_path / "c")
    for other, said in ((second, "'target' is <f2 [16, 2, 6] tubes in"), (third, "'features' is not there in")):
        assert main(["merge", str(first.directory), str(other.directory), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert main(["merge", str(first.directory), "--out", str(tmp_path / "out")]) == 1
    assert "two data sets at least" in capsys.readouterr().err


KILLED = """
import sys
from pathlib import Path
from shards.dataset import ShardDataset
from shards.exchange.merge import plan_merge
from shards.exchange.reshard import Cut
count = 0
def progress(done, failed=0):
    global count
    count += done
    if count == 7:
        print("here", flush=True)
        sys.stdin.readline()
datasets = [ShardDataset.open(path) for path in sys.argv[2:]]
plan_merge(datasets, Cut(samples_per_shard=3)).run(Path(sys.argv[1]), threads=2, progress=progress)
"""


def test_a_merge_that_was_killed_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_lengths_dataset(tmp_path / "a"), others(tmp_path / "b")
    plan_merge([first, second], Cut(samples_per_shard=3)).run(tmp_path / "whole")
    process = start_python(KILLED, tmp_path / "out", first.directory, second.directory)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out" / "dataset.json").exists()
    plan_merge([first, second], Cut(samples_per_shard=3)).run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
