"""What a loader is told, what it refuses, and what it tells of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import LoaderConfig, Reader
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.read.auto import REMOTE_FILE_SYSTEMS, file_system, resident_share
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import POSITIONS, make_dataset

MASK = TubeMask(num_positions=POSITIONS)
GATHER = {"clip": "visible", "target": "masked"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("set"), num_samples=23, samples_per_shard=5)


@pytest.mark.parametrize(
    ("config", "world", "message"),
    [
        ({"global_batch_size": 5}, World(rank=0, size=2), "multiple of the number of ranks"),
        ({"global_batch_size": 24}, World(), "do not fill one global batch"),
        ({"global_batch_size": 4, "fields": ("pixels",)}, World(), "no field 'pixels'"),
        ({"global_batch_size": 4, "gather": {"clip": "seen"}}, World(), "draws 'seen'"),
        ({"global_batch_size": 4, "fields": ("target",), "gather": GATHER}, World(), "among the fields"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(
    dataset: ShardDataset, config: dict[str, object], world: World, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ShardLoader(dataset, LoaderConfig(**config), MASK, world)  # type: ignore[arg-type]


def test_a_mask_of_another_grid_is_refused(dataset: ShardDataset) -> None:
    with pytest.raises(ValueError, match="the mask has 9"):
        ShardLoader(dataset, LoaderConfig(global_batch_size=4, gather=GATHER), TubeMask(num_positions=9))


@pytest.mark.parametrize(
    "wrong",
    [{"threads": 0}, {"slabs": 1}, {"reader": "fast"}, {"verify": "maybe"}, {"on_error": "ignore"}, {"fields": ()}],
)
def test_a_configuration_validates_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoaderConfig(**wrong)  # type: ignore[arg-type]


def test_the_world_comes_from_the_environment() -> None:
    assert World.from_env({}) == World()
    assert World.from_env({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == World(rank=3, size=8, local_rank=1)
    with pytest.raises(ValueError, match="RANK must be a whole number"):
        World.from_env({"RANK": "x"})
    with pytest.raises(ValueError, match="rank must be in"):
        World.from_env({"RANK": "8", "WORLD_SIZE": "8"})


def test_stats_count_what_was_yielded(dataset: ShardDataset, tmp_path: Path) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=5))
    list(loader)
    stats = loader.stats()
    sample_bytes = sum(dataset.schema[name].num_bytes for name in ("clip", "target"))
    assert (stats.num_batches, stats.num_samples, stats.num_bytes) == (4, 20, 20 * sample_bytes)
    assert stats.read_seconds > 0


@pytest.mark.parametrize(("reader", "drawn"), [("mmap", True), ("pread", False), ("direct", False)])
def test_stats_count_the_bytes_that_were_asked_of_storage(
    dataset: ShardDataset, reader: Reader, drawn: bool, tmp_path: Path
) -> None:
    config = LoaderConfig(global_batch_size=5, reader=reader, gather=GATHER, verify="never")
    loader = ShardLoader(dataset, config, MASK)
    list(loader)
    tubes = {"clip": MASK.num_visible, "target": MASK.num_masked} if drawn else dict.fromkeys(GATHER, POSITIONS)
    sample_bytes = sum(dataset.schema[name].num_bytes * count // POSITIONS for name, count in tubes.items())
    assert loader.stats().num_bytes == 20 * sample_bytes
    checked = ShardLoader(dataset, replace(config, verify="always"), MASK)
    list(checked)
    assert checked.stats().num_bytes == 20 * sum(dataset.schema[name].num_bytes for name in GATHER)
    assert checked.stats().num_checked == 20


def test_auto_says_what_it_chose_and_why_once(dataset: ShardDataset, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pipeline.loader")
    for shard in range(dataset.num_shards):
        dataset.tar_path(shard).read_bytes()  # now in the page cache
    if resident_share(dataset) < 1 or file_system(dataset.directory).startswith(REMOTE_FILE_SYSTEMS):
        pytest.skip("the file system of temporary folders is remote, or does not say what is in the page cache")
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=5))
    for _ in range(2):
        list(loader)
    assert loader.stats().reader.startswith("mmap (auto: 100% of the pages")
    said = [record.message for record in caplog.records if record.name == "pipeline.loader"]
    assert said == [f"reader {loader.stats().reader}"]
