"""`reelshard index URL`: tars that stay where they are, in a bucket or on a plain HTTP server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shards.adopt import index_directory
from shards.dataset import ShardDataset
from shards.format.errors import MissingDataError
from shards.format.manifest import Manifest
from shards.hashing import hashed_tars
from shards.index_store import StoredTars, index_store, names_and_sizes
from shards.store import LocalStore, open_store
from tests.datasets import add_group, make_dataset
from tests.foreign_tars import pictures, write_tar
from tests.object_store import http_files, moto_server, use_bucket
from tools.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of foreign tars, and a cache of this test's own."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("REELSHARD_CACHE", str(tmp_path / "cache"))
    for number in range(3):
        write_tar(tmp_path / "there" / f"{number:05d}.tar", pictures(number * 4, 4))
    return tmp_path / "there"


def expected(place: Path) -> Manifest:
    """What indexing these tars here gives."""
    here = shutil.copytree(place, place.with_name("here"))
    return index_directory(here)


def test_tars_over_plain_http_are_indexed_by_name_into_a_folder(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with http_files(place) as url:
        tars, out = f"{url}/{{00000..00002}}.tar", tmp_path / "out"
        assert main(["index", tars]) == 1
        assert "give --out FOLDER" in capsys.readouterr().err
        assert main(["index", url, "--out", str(out)]) == 1
        assert "nothing can be listed" in capsys.readouterr().err
        assert main(["index", tars, "--out", str(out)]) == 0
        assert Manifest.read(out) == expected(place)
        assert sorted(path.name for path in out.iterdir()) == ["00000.idx", "00001.idx", "00002.idx", "dataset.json"]
        for path in out.iterdir():
            shutil.copy(path, place)
        assert main(["verify", url]) == 0
        assert main(["index", f"{url}/{{00000..00003}}.tar", "--out", str(tmp_path / "more")]) == 1
        assert "00003.tar is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_tars_in_a_bucket_get_their_sidecars_beside_them(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto_server() as port:
        url = use_bucket(port, tmp_path.name, monkeypatch)
        for path in place.iterdir():
            open_store(url).put_file(path, f"set/{path.name}")
        assert main(["index", f"{url}/set", "--out", str(tmp_path / "out")]) == 0
        dataset = ShardDataset.open(f"{url}/set")
        assert dataset.manifest == expected(place)
        assert dataset["00007"]["txt"] == b"picture 7"
        assert main(["verify", f"{url}/set"]) == 0


def test_a_run_that_was_stopped_fetches_no_tar_again(place: Path, tmp_path: Path) -> None:
    class Counting(LocalStore):
        def get_ranges(self, name: str, starts: object, stops: object) -> list[bytes]:
            fetched.append(name)
            return super().get_ranges(name, starts, stops)  # type: ignore[arg-type]

    fetched: list[str] = []
    store, out = Counting(place), tmp_path / "out"
    sizes = names_and_sizes(store, None)
    out.mkdir()
    names = [out / name for name in list(sizes)[:2]]
    with pytest.raises(KeyboardInterrupt), hashed_tars(names, out, tars=StoredTars(store, sizes)):
        raise KeyboardInterrupt
    assert sorted(fetched) == ["00000.tar", "00001.tar"]
    assert index_store(store, sizes, out, can_write=False) == expected(place)
    assert fetched[2:] == ["00002.tar"]


def test_a_lost_manifest_elsewhere_is_made_again_with_its_groups(tmp_path: Path) -> None:
    dataset = add_group(make_dataset(tmp_path / "there"))
    (tmp_path / "there" / "dataset.json").unlink()
    store = LocalStore(tmp_path / "there")
    index_store(store, names_and_sizes(store, None), tmp_path / "out", can_write=True)
    again = ShardDataset.open(tmp_path / "there")
    assert again.schema == dataset.schema
    assert again.manifest.groups == dataset.manifest.groups


def test_a_place_without_tars_and_compressed_ones_are_said(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match=r"no \.tar files in"):
        names_and_sizes(LocalStore(tmp_path / "empty"), None)
    (place / "x.tar.gz").write_bytes(b"")
    with pytest.raises(Exception, match=r"x\.tar\.gz is a compressed tar"):
        names_and_sizes(LocalStore(place), None)
