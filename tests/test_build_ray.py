"""A real Ray cluster of two nodes on this machine."""

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.build import Source, load_folder
from tests.builds import ROOT, build, contents, make_teacher, write_videos

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own; those of the project are errors in every other test
]


def descendants(pid: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | descendants(child)
    return found


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


def test_a_build_on_two_nodes_of_which_one_is_killed_gives_the_same_bytes(
    cluster: Any, source: Source, tmp_path: Path
) -> None:
    from shards.build.cluster import RayCluster

    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    killed: list[Any] = []

    def progress(done: int, failed: int) -> None:
        if not killed:
            killed.append(nodes[0])
            cluster.remove_node(nodes[0], allow_graceful=False)

    with warnings.catch_warnings(), RayCluster(make_teacher, "cpu") as engine:
        build(source, tmp_path / "ray", engine=engine, progress=progress)
    assert killed
    build(source, tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
