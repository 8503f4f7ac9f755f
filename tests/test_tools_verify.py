import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tools.cli import main


def test_a_sound_data_set_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dataset(tmp_path / "train")
    assert main(["verify", str(tmp_path / "train")]) == 0
    assert "20 samples, 4 shards" in capsys.readouterr().out


def test_a_damaged_one_is_status_1_and_names_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound, damaged = (make_dataset(tmp_path / name) for name in ("sound", "damaged"))
    path = damaged.tar_path(2)
    data = bytearray(path.read_bytes())
    data[int(damaged.extents(2, "target").offsets[1]) + 5] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(sound.directory), str(damaged.directory), "--json"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["problems"] == []
    assert path.name in second["problems"][0]
    assert "target" in second["problems"][0]
    assert main(["verify", str(damaged.directory)]) == 1
    captured = capsys.readouterr()
    assert "000013" in captured.out
    assert "1 problem(s)" in captured.err


def test_verify_needs_a_thread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path), "--threads", "0"]) == 1
    assert "--threads is 0" in capsys.readouterr().err


def test_tars_made_elsewhere_become_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(3):
            buffer = io.BytesIO()
            np.save(buffer, np.full((2, 2), number, np.float32))
            for suffix, data in (("x.npy", buffer.getvalue()), ("txt", b"words")):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    assert main(["index", str(tmp_path), "--split", "test"]) == 0
    assert "3 samples with x, txt in 1 shards" in capsys.readouterr().out
    dataset = ShardDataset.open(tmp_path)
    assert np.asarray(dataset["2"]["x"]).tolist() == [[2, 2], [2, 2]]
    assert main(["verify", str(tmp_path)]) == 0
    assert main(["index", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["digest"] == dataset.digest


def test_a_folder_without_tars_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(tmp_path)]) == 1
    assert "no .tar files" in capsys.readouterr().err
