"""Object storage, against a real S3-compatible server behind a network that loses, cuts and delays."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.builder import InProcess, Source
from shards.builder.remote import RemoteFolder, is_remote
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.verify import verify_dataset
from tests.builds import ROOT, VIEW, build, contents
from tests.datasets import add_group
from tests.object_store import faulty_proxy, moto_server, use_bucket
from tests.teachers import MeanTeacher

obstore = pytest.importorskip("obstore", reason="the extra 's3' is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with moto_server() as port:
        yield port


@pytest.fixture
def store(server: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket, reached without the proxy."""
    bucket = use_bucket(server, request.node.name, monkeypatch).removeprefix("s3://")
    return obstore.store.S3Store(bucket, client_options={"allow_http": True}, virtual_hosted_style_request=False)


def build_remote(source: Source, url: str, scratch: Path, **changes: Any) -> Any:
    remote = RemoteFolder(url, scratch)
    remote.pull()
    engine = InProcess(MeanTeacher(VIEW.clip_shape), remote.push_shard)
    summary = build(source, scratch, engine=engine, **changes)
    remote.push_manifest()
    return summary


def download(store: Any, folder: Path) -> Path:
    for entry in (entry for page in store.list() for entry in page):
        path = folder / str(entry["path"]).removeprefix("set/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(store.get(entry["path"]).bytes()))
    return folder


def test_a_url_is_told_from_a_path() -> None:
    assert is_remote("s3://bucket/set")
    assert not is_remote("sets/s3")


def test_a_build_through_a_bad_network_gives_the_bytes_of_a_local_one(
    server: int, store: Any, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_proxy(server, share=0.3) as (port, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        build_remote(source, f"s3://{store.config['bucket']}/set", tmp_path / "scratch")
    assert min(done[fault] for fault in ("error", "cut_request", "cut_response", "slow_response")) > 0
    build(source, tmp_path / "local")
    assert contents(download(store, tmp_path / "downloaded")) == contents(tmp_path / "local")
    assert not verify_dataset(tmp_path / "downloaded").problems
    assert not list((tmp_path / "scratch").glob("*.tar"))


def test_a_build_goes_on_from_the_bucket_alone(store: Any, source: Source, tmp_path: Path) -> None:
    url = f"s3://{store.config['bucket']}/set"

    items = 0

    def stop(done: int, failed: int = 0) -> None:
        nonlocal items
        items += done
        if items >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_remote(source, url, tmp_path / "first", progress=stop)
    uploaded = {str(entry["path"]) for page in store.list() for entry in page}
    assert "set/dataset.json" not in uploaded
    num_finished = sum(name.endswith(".idx") for name in uploaded)
    assert num_finished >= 1
    assert build_remote(source, url, tmp_path / "elsewhere").num_resumed == 3 * num_finished
    build(source, tmp_path / "local")
    assert contents(download(store, tmp_path / "downloaded")) == contents(tmp_path / "local")
    again = build_remote(source, url, tmp_path / "elsewhere")
    assert again.num_resumed == again.num_planned


def test_a_field_group_in_the_bucket_is_kept_when_a_shard_is_built_again(
    store: Any, source: Source, tmp_path: Path
) -> None:
    url = f"s3://{store.config['bucket']}/set"
    build_remote(source, url, tmp_path / "first")
    local = add_group(ShardDataset.open(download(store, tmp_path / "local")))
    for path in (*local.directory.glob("train.dinov2-*"), local.directory / "dataset.json"):
        store.put(f"set/{path.name}", path)
    for shard in (0, 1):
        store.delete(f"set/train-0000{shard}-of-00004.tar")
    items = 0

    def stop(done: int, failed: int = 0) -> None:
        nonlocal items
        items += done
        if items >= 5 + 3 + 2:  # those of two shards were there; the first is built again, the second not wholly
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_remote(source, url, tmp_path / "second", progress=stop)
    uploaded = {str(entry["path"]) for page in store.list() for entry in page}
    assert "set/dataset.json" not in uploaded
    assert "set/.build/dataset.json" in uploaded
    assert build_remote(source, url, tmp_path / "third").digest == local.digest
    assert verify_dataset(download(store, tmp_path / "again")).problems == ()


def test_a_store_that_cannot_be_reached_is_one_clear_line(tmp_path: Path, store: Any) -> None:
    with pytest.raises(ShardError, match=r"s3://no-such-bucket/set cannot be read: .*run the same command again"):
        RemoteFolder("s3://no-such-bucket/set", tmp_path).pull()


@pytest.mark.slow
def test_the_command_builds_into_a_bucket_and_goes_on_there(store: Any, source: Source, tmp_path: Path) -> None:
    url = f"s3://{store.config['bucket']}/set"
    command = [sys.executable, "-m", "tools", "build", "--recipe", "demo", "--teacher", "none", "--json"]
    command += ["--videos", str(source.root), "--out", url, "--build.samples_per_shard", "4"]
    for number, num_resumed in enumerate((0, 11)):
        options = ["--scratch", str(tmp_path / f"scratch{number}")]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["num_resumed"] == num_resumed
    folder = download(store, tmp_path / "downloaded")
    assert verify_dataset(folder).num_samples == 10
    assert (folder / "recipe.yaml").is_file()
