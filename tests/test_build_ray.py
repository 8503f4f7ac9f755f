"""A real Ray cluster of two nodes on this machine."""

import os
import signal
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.builder import InProcess, Source, load_folder
from shards.builder.add_group import add_teacher_group
from shards.builder.engines.ray import RayCluster
from shards.dataset import ShardDataset
from tests.builds import CONFIG, ROOT, VIEW, build, contents, descendants, make_teacher, write_videos
from tests.sav_sets import build_sav, load_teacher, write_teacher, write_train
from tests.teachers import MeanTeacher

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own; those of the project are errors in every other test
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for work and two nodes of one CPU each; every process of it is gone afterwards."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    before = descendants(os.getpid())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        for pid in descendants(os.getpid()) - before:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_folder(write_videos(tmp_path_factory.mktemp("videos"), 20))


class CountedRounds(RayCluster):
    """Counts how often it was asked for what is missing."""

    num_rounds = 0

    def run(self, *arguments: Any) -> Any:
        self.num_rounds += 1
        return super().run(*arguments)


def test_a_build_on_two_nodes_of_which_one_is_killed_gives_the_same_bytes(
    cluster: Any, source: Source, tmp_path: Path
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    killed: list[Any] = []

    def progress(done: int, failed: int = 0) -> None:
        if not killed:
            killed.append(nodes[0])
            cluster.remove_node(nodes[0], allow_graceful=False)

    with warnings.catch_warnings(), CountedRounds(make_teacher, "cpu") as engine:
        build(source, tmp_path / "ray", engine=engine, progress=progress)
    assert killed
    assert engine.num_rounds == 1
    build(source, tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_videos_with_masks_come_out_of_a_cluster_the_same(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    write_train(tmp_path, [41, 49, 57])
    teacher = write_teacher(tmp_path / "teacher")
    with warnings.catch_warnings(), RayCluster(partial(load_teacher, teacher), "cpu") as engine:
        build_sav(tmp_path, tmp_path / "ray", None, engine=engine)
    build_sav(tmp_path, tmp_path / "here", teacher)
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


class MortalTeacher(MeanTeacher):
    """Of two, the first at work dies, and the other waits until one comes in the dead one's place."""

    def __init__(self, folder: Path) -> None:
        super().__init__(VIEW.clip_shape)
        self.died, self.came = folder / "died", folder / "came"
        self.is_substitute = self.died.exists()
        if self.is_substitute:
            self.came.write_bytes(b"")  # a FIFO: this waits for the one who reads, as reading waits for this

    def __call__(self, clips: NDArray[np.uint8]) -> NDArray[np.float16]:
        if not self.is_substitute:
            try:
                self.died.touch(exist_ok=False)
            except FileExistsError:
                self.came.read_bytes()
                self.is_substitute = True  # has met it; from here on they are alike
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(clips)


def make_mortal(folder: Path, device: str) -> MortalTeacher:
    return MortalTeacher(folder)


@pytest.mark.timeout(120)
def test_a_worker_that_dies_is_replaced_while_the_others_are_at_work(
    cluster: Any, source: Source, tmp_path: Path
) -> None:
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    os.mkfifo(tmp_path / "came")
    with CountedRounds(partial(make_mortal, tmp_path), "cpu") as engine:
        build(source, tmp_path / "ray", engine=engine)
    assert (tmp_path / "died").exists()
    assert engine.num_rounds == 1  # the shards of the dead one, too, were built in it
    build(source, tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_a_field_group_is_built_by_a_cluster_from_a_set_that_was_named_by_a_relative_path(
    cluster: Any, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    for name in ("ray", "here"):
        build(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with RayCluster(make_teacher, "cpu") as engine:
        add_teacher_group(ShardDataset.open("ray"), "mean", engine, CONFIG)
    add_teacher_group(ShardDataset.open("here"), "mean", InProcess(make_teacher("cpu")), CONFIG)
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
