"""Stores: one protocol over a local folder, an object store and a plain HTTP server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.store import Store, open_store, url_of
from shards.store.remote import PART_BYTES, RemoteStore
from shards.store.urls import without_secrets
from tests.object_store import faulty_proxy, http_files, moto_server, use_bucket

pytest.importorskip("obstore", reason="the extra 's3' is not installed")
DATA = bytes(range(256)) * 64


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with moto_server() as port:
        yield port


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "set")
    port = request.getfixturevalue("server")
    return open_store(use_bucket(port, request.node.name, monkeypatch) + "/some/set")


def test_what_is_put_is_what_is_got_listed_and_deleted(store: Store, tmp_path: Path) -> None:
    store.put("a.idx", DATA)
    (tmp_path / "file").write_bytes(DATA[:1000])
    store.put_file(tmp_path / "file", "folder/b.tar")
    assert store.get("a.idx") == DATA
    assert store.size("folder/b.tar") == 1000
    assert sorted(store.list()) == [("a.idx", len(DATA)), ("folder/b.tar", 1000)]
    assert list(store.list("folder")) == [("folder/b.tar", 1000)]
    assert [bytes(part) for part in store.get_ranges("a.idx", [3, 700, 5], [9, 1500, 6])] == [
        DATA[3:9],
        DATA[700:1500],
        DATA[5:6],
    ]
    store.delete("a.idx")
    store.delete("a.idx")
    assert list(store.list()) == [("folder/b.tar", 1000)]


def test_an_object_that_is_not_there_is_missing_and_one_that_is_shorter_damaged(store: Store) -> None:
    store.put("a", DATA)
    for ask in (lambda: store.get("b"), lambda: store.size("b"), lambda: store.get_ranges("b", [0], [1])):
        with pytest.raises(MissingDataError, match="b is not there") as raised:
            ask()
        assert "\n" not in str(raised.value)
    with pytest.raises(DamagedShardError, match=r"shard a, offset 16000: it ends before byte 17000"):
        store.get_ranges("a", [16000], [17000])
    with pytest.raises(DamagedShardError, match=r"shard a, offset 20000: it ends before byte 20010"):
        store.get_ranges("a", [20000], [20010])


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\nb", "a\\b"])
def test_no_name_leaves_its_store(store: Store, name: str) -> None:
    asks: list[Callable[[], object]] = [
        lambda: store.get(name),
        lambda: store.put(name, b""),
        lambda: store.delete(name),
    ]
    for ask in asks:
        with pytest.raises(ShardError, match="is no name in a store"):
            ask()


def test_a_plain_http_server_is_read_by_name_and_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.tar").write_bytes(DATA)
    with http_files(tmp_path) as url:
        store = open_store(f"{url}/set/")
        assert store.get("a.tar") == DATA
        assert store.size("a.tar") == len(DATA)
        assert [bytes(part) for part in store.get_ranges("a.tar", [5, 1000], [8, 2000])] == [DATA[5:8], DATA[1000:2000]]
        with pytest.raises(ShardError, match="plain HTTP server, where nothing can be listed: "):
            list(store.list())
        with pytest.raises(MissingDataError, match="set/b is not there: there is no such object"):
            store.get("b")


def test_a_server_without_ranges_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "a.tar").write_bytes(DATA)
    with (
        http_files(tmp_path, ranges=False) as url,
        pytest.raises(ShardError, match=r"a\.tar cannot be read: ") as raised,
    ):
        open_store(url).get_ranges("a.tar", [5], [8])
    assert "\n" not in str(raised.value)


def test_each_failure_is_one_line_that_says_what_to_do(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_bucket(server, "failures", monkeypatch)
    with pytest.raises(MissingDataError, match=r"s3://nosuch/set/dataset\.json is not there: there is no such bucket"):
        open_store("s3://nosuch/set").get("dataset.json")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ShardError, match=r"no connection to http://127\.0\.0\.1:9, it does not answer: .*AWS_ENDPOINT"):
        open_store("s3://bucket/set").get("dataset.json")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL is 'nonsense'; it has to be a URL"):
        open_store("s3://bucket/set")
    with pytest.raises(ValueError, match=r"az://box/set cannot be opened: no credentials were found; set AZURE_"):
        open_store("az://box/set")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(ValueError, match="s3:// names no bucket or server"):
        open_store("s3://")


def test_without_obstore_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ValueError, match=r"s3://b/set needs obstore: pip install 'reelshard\[s3\]'"):
        open_store("s3://b/set")


def test_ranges_come_whole_through_a_bad_network(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = use_bucket(server, "badnet", monkeypatch)
    open_store(url).put("a", DATA)
    with faulty_proxy(server, share=0.3) as (port, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        store = open_store(url)
        for start in range(0, 4000, 100):
            parts = store.get_ranges("a", [start, start + 5000], [start + 4000, start + 9000])
            assert [bytes(part) for part in parts] == [DATA[start : start + 4000], DATA[start + 5000 : start + 9000]]
    assert done["cut_response"] > 0
    assert done["error"] > 0


def test_a_url_is_told_from_a_path_also_when_it_was_made_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert url_of("s3://bucket/set/") == "s3://bucket/set"
    assert url_of(Path("s3://bucket/set")) == "s3://bucket/set"
    assert url_of(Path("https://host/a/b")) == "https://host/a/b"
    assert url_of("sets/s3") is None
    assert url_of(tmp_path) is None
    monkeypatch.chdir(tmp_path)
    Path("s3:/bucket").mkdir(parents=True)
    assert url_of(Path("s3://bucket")) is None
    assert without_secrets("https://me:secret@host/set?signature=1") == "https://host/set"


@pytest.mark.slow
def test_an_object_of_several_parts_is_compared_by_its_digest(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(use_bucket(server, "parts", monkeypatch) + "/set")
    assert isinstance(store, RemoteStore)
    path = tmp_path / "large.tar"
    path.write_bytes(DATA * ((PART_BYTES + 1000 * 256) // len(DATA) + 1))
    store.put_file(path, "large.tar")
    found = store.inner.head("large.tar")
    assert found["size"] == path.stat().st_size
    assert (found["e_tag"] or "").strip('"').endswith("-2")
