"""A field group, once there, is kept by everything that writes a manifest anew, and read by nobody who does not ask."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.adopt import index_directory
from shards.builder import Source, load_folder
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, ShardError
from shards.groups import series_of_names
from shards.verify import verify_dataset
from tests.builds import build, contents, write_videos
from tests.datasets import add_group, make_dataset
from tools.cli import main


def assert_group_is_whole(directory: Path) -> ShardDataset:
    dataset = ShardDataset.open(directory)
    assert verify_dataset(directory).problems == ()
    for number in range(len(dataset)):
        assert np.array_equal(dataset[number]["dino"], np.full(5, number, np.float32))
    return dataset


def remove(directory: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in directory.glob(pattern):
            path.unlink()


def test_a_finished_build_that_is_run_again_keeps_the_group_and_its_digest(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    before = add_group(ShardDataset.open(tmp_path)).digest
    assert build(source, tmp_path).digest == before
    assert assert_group_is_whole(tmp_path).manifest.about("dinov2") == {"teacher": {"id": "dinov2"}}


def test_a_shard_that_is_built_again_keeps_the_group(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    before = add_group(ShardDataset.open(tmp_path)).digest
    remove(tmp_path, "train-00001-*")
    assert build(source, tmp_path).digest == before
    assert_group_is_whole(tmp_path)


def test_a_build_that_is_stopped_in_between_keeps_the_group(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    before = add_group(ShardDataset.open(tmp_path)).digest
    remove(tmp_path, "train-00001-*", "train-00002-*")

    steps = iter(range(3))

    def stop(done: int, failed: int = 0) -> None:
        if next(steps):  # the first is what was finished before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path, progress=stop)
    assert not (tmp_path / "dataset.json").exists()
    assert build(source, tmp_path).digest == before
    assert_group_is_whole(tmp_path)


def test_a_group_is_found_by_its_sidecars_where_the_manifest_is_lost(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    add_group(ShardDataset.open(tmp_path))
    (tmp_path / "dataset.json").unlink()
    build(source, tmp_path)
    assert_group_is_whole(tmp_path)


def test_what_a_stopped_import_left_is_no_group(source: Source, tmp_path: Path, expected: dict[str, bytes]) -> None:
    build(source, tmp_path)
    add_group(ShardDataset.open(tmp_path), manifest=False)
    remove(tmp_path, "train.dinov2-00002-*", "dataset.json")
    build(source, tmp_path)
    remove(tmp_path, "train.dinov2-*")
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("lost", ["train.dinov2-00001-*.tar", "train.dinov2-00001-*.idx", "train.dinov2-*"])
def test_a_group_that_is_not_whole_stops_the_build_with_what_to_do(
    source: Source, tmp_path: Path, lost: str, expected: dict[str, bytes]
) -> None:
    build(source, tmp_path)
    add_group(ShardDataset.open(tmp_path))
    remove(tmp_path, lost, "train-00000-*")
    for _ in range(2):  # the second time from what the first one put aside
        with pytest.raises(ShardError, match=r"'dinov2' cannot be kept: .*`reelshard drop-field .* --name dinov2`"):
            build(source, tmp_path)
    assert main(["drop-field", str(tmp_path), "--name", "dinov2"]) == 0
    build(source, tmp_path)
    assert contents(tmp_path) == expected


def test_samples_that_a_group_was_made_for_are_not_changed_under_it(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 5)
    whole = (videos / "v2.webm").read_bytes()
    (videos / "v2.webm").write_text("not yet a video")
    source, out = load_folder(videos), tmp_path / "out"
    build(source, out)
    before = contents(add_group(ShardDataset.open(out)).directory)
    (videos / "v2.webm").write_bytes(whole)
    with pytest.raises(ShardError, match="'dinov2' was made for those they have: run without --retry-failures"):
        build(source, out, retry_failures=True)
    after = contents(out)
    assert {name: data for name, data in after.items() if not name.startswith(".build")} == before
    assert_group_is_whole(out)


def test_a_manifest_is_made_again_from_sidecars_with_its_groups_and_layouts(tmp_path: Path) -> None:
    dataset = add_group(make_dataset(tmp_path, split="validation"))
    (tmp_path / "dataset.json").unlink()
    assert main(["index", str(tmp_path)]) == 0
    again = assert_group_is_whole(tmp_path)
    assert again.schema == dataset.schema
    assert (again.manifest.split, again.manifest.shards) == ("validation", dataset.manifest.shards)
    assert again.manifest.groups == dataset.manifest.groups


def test_without_sidecars_the_names_say_which_tars_are_of_a_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = add_group(make_dataset(tmp_path))
    remove(tmp_path, "*.idx", "dataset.json")
    assert main(["index", str(tmp_path)]) == 0
    assert "20 samples with clip, target, json, dino in 4 shards and as many of dinov2" in capsys.readouterr().out
    again = assert_group_is_whole(tmp_path)
    assert again.manifest.groups == dataset.manifest.groups


def test_lost_sidecars_of_a_group_are_made_again(tmp_path: Path) -> None:
    before = contents(add_group(make_dataset(tmp_path)).directory)
    remove(tmp_path, "train.dinov2-00002-*.idx", "train-00001-*.idx")
    index_directory(tmp_path)
    assert contents(tmp_path) == before


def test_a_group_that_the_manifest_does_not_know_is_taken_up(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    add_group(dataset, manifest=False)
    index_directory(tmp_path)
    assert set(assert_group_is_whole(tmp_path).schema.names) == {*dataset.schema.names, "dino"}


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_group_that_lacks_a_shard_is_refused(tmp_path: Path, with_manifest: bool) -> None:
    add_group(make_dataset(tmp_path), manifest=False)
    remove(tmp_path, "train.dinov2-00003-*")
    if not with_manifest:
        remove(tmp_path, "dataset.json")
    with pytest.raises(ShardError, match="group 'dinov2' has 3 shards, the main series has 4"):
        index_directory(tmp_path)


def test_a_group_of_other_samples_is_refused(tmp_path: Path) -> None:
    add_group(make_dataset(tmp_path / "other", num_samples=24))
    make_dataset(tmp_path / "set")
    remove(tmp_path / "set", "dataset.json")
    for path in (tmp_path / "other").glob("train.dinov2-*"):
        shutil.copy(path, tmp_path / "set")
    with pytest.raises(ShardError, match="'dinov2' was made for other samples"):
        index_directory(tmp_path / "set")


def test_a_tar_that_belongs_to_nothing_is_said(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    shutil.copy(dataset.tar_path(0), tmp_path / "copy.tar")
    with pytest.raises(ShardError, match=r"copy\.tar is not in dataset\.json, and is no field group of it"):
        index_directory(tmp_path)


def test_a_tar_that_is_not_the_one_of_its_sidecar_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    (tmp_path / "dataset.json").unlink()
    path = dataset.tar_path(1)
    content = bytearray(path.read_bytes())
    content[int(dataset.extents(1, "clip").offsets[0]) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedShardError, match="not the one that its sidecar describes"):
        index_directory(tmp_path)


def test_the_plan_of_a_build_says_whether_all_shards_are_there_and_where_they_came_from(
    source: Source, tmp_path: Path
) -> None:
    build(source, tmp_path)
    before = ShardDataset.open(tmp_path).manifest
    (tmp_path / "dataset.json").unlink()
    index_directory(tmp_path)
    again = ShardDataset.open(tmp_path).manifest
    assert (again.provenance, again.failures) == (before.provenance, before.failures)
    remove(tmp_path, "dataset.json", "train-00001-*")
    with pytest.raises(ShardError, match=r"3 of the 4 shards of its plan\.json: run the same `reelshard build`"):
        index_directory(tmp_path)


def test_the_view_that_all_samples_name_is_kept(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    view = ShardDataset.open(tmp_path).manifest.provenance["view"]["hash"]
    remove(tmp_path, "dataset.json", "plan.json")
    index_directory(tmp_path)
    assert ShardDataset.open(tmp_path).manifest.provenance == {"source": "indexed tars", "view": {"hash": view}}


@pytest.mark.parametrize(
    ("names", "series"),
    [
        (["t-00000-of-00002", "t-00001-of-00002"], {"": 2}),
        (["t-00000-of-00001", "t.a-00000-of-00001", "t.a.b-00000-of-00001"], {"": 1, "a": 1, "a.b": 1}),
        (["v1.0-00000-of-00001", "v1.0.a-00000-of-00001"], {"": 1, "a": 1}),
        (["t-00000-of-00002", "t.a-00000-of-00001"], {"": 2}),
        (["train-00000-of-00001", "val-00000-of-00001"], {"": 2}),
        (["a", "b.c"], {"": 2}),
    ],
)
def test_series_are_told_apart_by_name(names: list[str], series: dict[str, int]) -> None:
    found = series_of_names(f"{name}.tar" for name in names)
    assert {group: len(tars) for group, tars in found.items()} == series


def test_foreign_tars_of_one_kind_stay_one_series_whatever_their_names(tmp_path: Path) -> None:
    for name in ("x", "x.more"):
        (tmp_path / "1.txt").write_text(name)
        with tarfile.open(tmp_path / f"{name}-00000-of-00001.tar", "w") as tar:
            tar.add(tmp_path / "1.txt", f"{name.replace('.', '')}.txt")
    index_directory(tmp_path)
    assert len(ShardDataset.open(tmp_path)) == 2


def test_a_loader_of_clips_goes_on_after_a_group_was_added(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    config = LoaderConfig(global_batch_size=5, fields=("clip", "label"))
    loader = ShardLoader(dataset, config)
    iterator = iter(loader)
    next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    expected = [batch["index"].tolist() for batch in iterator]
    resumed = ShardLoader(add_group(dataset), config)
    resumed.load_state_dict(state)
    assert [batch["index"].tolist() for batch in resumed] == expected


def test_a_loader_that_reads_the_group_is_another(tmp_path: Path) -> None:
    dataset = add_group(make_dataset(tmp_path))
    state = ShardLoader(dataset, LoaderConfig(global_batch_size=5, fields=("clip",))).state_dict()
    other = ShardLoader(dataset, LoaderConfig(global_batch_size=5, fields=("clip", "dino")))
    with pytest.raises(ValueError, match="dataset is"):
        other.load_state_dict(state)


def test_a_state_of_the_first_format_still_loads_and_is_still_compared(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    config = LoaderConfig(global_batch_size=5)
    loader = ShardLoader(dataset, config)
    first = {**loader.state_dict(), "format": 1, "dataset": dataset.digest, "epoch": 1, "batch": 2}
    loader.load_state_dict(first)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 2)
    with pytest.raises(ValueError, match=f"dataset is '{dataset.digest}' in the state and"):
        ShardLoader(add_group(dataset), config).load_state_dict(first)
    with pytest.raises(ValueError, match="format is 3"):
        loader.load_state_dict({**first, "format": 3})


def test_rows_of_two_series_are_never_read_together_unless_their_keys_agree(tmp_path: Path) -> None:
    manifest = add_group(make_dataset(tmp_path, num_samples=12)).manifest
    replace(manifest, groups={"dinov2": manifest.groups["dinov2"][::-1]}).write(tmp_path)
    config = LoaderConfig(global_batch_size=4, fields=("clip", "dino"))
    with pytest.raises(DamagedShardError, match=r"its keys are not those of train-0000\d-of-00002\.tar"):
        list(ShardLoader(ShardDataset.open(tmp_path), config))
    assert len(verify_dataset(tmp_path).problems) == 2
