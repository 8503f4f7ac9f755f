"""Data sets in stores elsewhere, by the commands: copy, cache, verify, show, train; and what goes wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.dataset import ShardDataset
from shards.store import open_store
from shards.verify import verify_dataset
from tests.builds import ROOT
from tests.datasets import add_group, make_dataset
from tests.object_store import faulty_proxy, http_files, moto_server, use_bucket
from tests.workplaces import make_workplace
from tools.cli import main
from training.metrics import read_metrics

pytest.importorskip("obstore", reason="the extra 's3' is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with moto_server() as port:
        yield port


@pytest.fixture
def bucket(server: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("REELSHARD_CACHE", str(tmp_path / "cache"))
    return use_bucket(server, request.node.name, monkeypatch)


@pytest.fixture
def local(tmp_path: Path) -> ShardDataset:
    return add_group(make_dataset(tmp_path / "served/set", num_samples=23, samples_per_shard=3))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_copied_to_a_bucket_from_there_to_another_place_and_back_as_it_was(
    local: ShardDataset, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (local.directory / "recipe.yaml").write_text("view: {}\n")
    back = tmp_path / "back"
    for source, target in ((local.directory, f"{bucket}/a"), (f"{bucket}/a", f"{bucket}/b"), (f"{bucket}/b", back)):
        assert main(["copy", str(source), str(target), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["num_shards"], found["num_present"], found["digest"]) == (16, 0, local.digest)
        assert found["num_bytes"] == local.manifest.num_bytes
    assert files_of(back) == files_of(local.directory)
    assert main(["copy", str(local.directory), f"{bucket}/a"]) == 0
    assert "0 of 16 tars copied, 16 were there" in capsys.readouterr().out


def test_over_plain_http_a_set_is_copied_verified_and_shown_by_its_names(
    local: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("REELSHARD_CACHE", str(tmp_path / "cache"))
    with http_files(local.directory.parent) as url:
        assert main(["copy", f"{url}/set", str(tmp_path / "back")]) == 0
        assert main(["verify", f"{url}/set"]) == 0
        assert f"{url}/set: 23 samples, 16 shards" in capsys.readouterr().out
        assert main(["show", f"{url}/set"]) == 0
        assert f"{url}/set: split train, 23 samples in 8 shards" in capsys.readouterr().out
        assert main(["show", f"{url}/set", "#4"]) == 0
        assert "video_id: video000004" in capsys.readouterr().out
        assert main(["copy", str(tmp_path / "back"), f"{url}/other"]) == 1
    assert "is a plain HTTP server, where nothing can be " in capsys.readouterr().err
    assert verify_dataset(tmp_path / "back").problems == ()


def test_verify_finds_damage_in_a_bucket(local: ShardDataset, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    tar = local.tar_path(2)
    data = bytearray(tar.read_bytes())
    data[int(local.extents(2, "target").offsets[1]) + 7] ^= 1
    store = open_store(f"{bucket}/set")
    for path in local.directory.iterdir():
        store.put(path.name, bytes(data) if path == tar else path.read_bytes())
    assert main(["verify", f"{bucket}/set"]) == 1
    assert f"shard {tar.name}, key 000007, field target, offset" in capsys.readouterr().out
    assert main(["copy", f"{bucket}/set", str(local.directory.with_name("copy"))]) == 1
    assert f"shard {tar.name}: its bytes are not those that the manifest names" in capsys.readouterr().err
    assert not local.directory.with_name("copy").joinpath("dataset.json").exists()


def test_another_set_is_not_copied_over(
    local: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_dataset(tmp_path / "other", num_samples=5)
    before = files_of(other.directory)
    assert main(["copy", str(local.directory), str(other.directory)]) == 1
    assert "holds another data set already" in capsys.readouterr().err
    assert main(["copy", str(tmp_path / "nothing"), str(tmp_path / "target")]) == 1
    assert f"there is no data set at {tmp_path / 'nothing'}" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    for source, target in ((local.directory, file), (file, tmp_path / "target")):
        assert main(["copy", str(source), str(target)]) == 1
        assert f"{file} is a file: a data set is a folder" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"
    assert files_of(other.directory) == before


@pytest.mark.slow
def test_a_copy_that_is_killed_goes_on_through_a_bad_network(
    local: ShardDataset, server: int, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with faulty_proxy(server, share=0.3) as (port, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        command = [sys.executable, "-m", "tools", "copy", str(local.directory), f"{bucket}/set", "--threads", "1"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        store = open_store(f"{bucket}/set")
        while sum(name.endswith(".idx") for name, _ in store.list()) < 3 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert "dataset.json" not in dict(store.list())
        assert main(["copy", str(local.directory), f"{bucket}/set", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["num_present"] >= 2
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server}")
    assert verify_dataset(f"{bucket}/set").problems == ()


def test_the_cache_command_shows_pins_and_clears(
    local: ShardDataset, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in local.directory.iterdir():
        open_store(f"{bucket}/set").put(path.name, path.read_bytes())
    assert main(["show", f"{bucket}/set", "#0"]) == 0
    capsys.readouterr()
    assert main(["cache"]) == 0
    assert f"{bucket}/set (digest {local.digest[:12]})" in capsys.readouterr().out
    assert main(["cache", "pin", f"{bucket}/set", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["sets"]
    assert (found["url"], found["pinned"]) == (f"{bucket}/set", True)
    assert main(["cache", "clear"]) == 0
    assert ", pinned)" in capsys.readouterr().out
    assert main(["cache", "clear", f"{bucket}/set", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sets"] == []
    assert main(["cache", "pin", f"{bucket}/set"]) == 1
    assert "is not in the cache" in capsys.readouterr().err
    assert main(["cache", "pin"]) == 1
    assert "pin needs the URL" in capsys.readouterr().err


def test_what_would_change_a_set_in_a_bucket_is_refused_in_one_line(
    local: ShardDataset, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in local.directory.iterdir():
        open_store(f"{bucket}/set").put(path.name, path.read_bytes())
    (tmp_path / "table.csv").write_text("key,value\n" + "".join(f"{local.key(n)},{n}\n" for n in range(23)))
    table = ["--name", "more", "--table", str(tmp_path / "table.csv")]
    assert main(["add-field", f"{bucket}/set", *table]) == 1
    assert "data sets are read and not changed: `reelshard copy` it" in capsys.readouterr().err
    assert main(["drop-field", f"{bucket}/set", "--name", "dinov2"]) == 1
    assert f"{bucket}/set is no local folder, which is needed here" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_train_on_a_bucket_to_the_bits_of_the_local_set(bucket: str, tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    assert main(["copy", place.train, f"{bucket}/set"]) == 0
    runs: dict[str, tuple[list[float], str]] = {}
    for data in (place.train, f"{bucket}/set"):
        out = tmp_path / f"run{len(runs)}"
        command = ["-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", sys.executable, "-m", "tools"]
        command += ["train", "--recipe", place.recipe, "--data", data, "--out", str(out), "--train.steps", "4"]
        command += ["--data.window", "2", "--data.cache", str(tmp_path / "elsewhere")]
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        runs[data] = [row["loss"] for row in read_metrics(out / "metrics.jsonl")], done.stdout
    (expected, _), (found, output) = runs.values()
    assert found == expected
    assert f"{bucket}/set, split train" in output
    assert "shards mixed at a time, shuffled every epoch: a mixing radius of" in output
    assert re.search(r"store    about \d+ requests and .* an epoch on this machine", output)
    assert list((tmp_path / "elsewhere").glob("set-*/*.tar"))
