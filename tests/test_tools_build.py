import json
import subprocess
import sys
from pathlib import Path

import pytest

from shards.dataset import ShardDataset
from tests.test_model_teacher import save_backbone
from tests.videos import moving_square, write_video

TINY = ["--recipe", "demo", "--view.num_frames", "4", "--view.size", "32", "--build.patch", "16"]


def reelshard(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools", "build", *map(str, arguments)]
    return subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def ssv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos and annotations in the official form; one video is missing."""
    folder = tmp_path_factory.mktemp("ssv2")
    template = "Moving [something] right"
    for number in range(3):
        write_video(folder / "videos" / f"{number}.webm", moving_square(num_frames=8, seed=number))
    entries = [{"id": str(n), "label": "Moving a box right", "template": template} for n in range(4)]
    (folder / "labels.json").write_text(json.dumps({"Moving something right": "0"}))
    (folder / "train.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.slow
def test_the_command_builds_a_data_set_with_targets_and_says_what_failed(ssv2: Path, tmp_path: Path) -> None:
    teacher = save_backbone(tmp_path / "teacher")
    out = tmp_path / "out"
    arguments = [*TINY, "--videos", ssv2 / "videos", "--annotations", ssv2, "--teacher", teacher, "--out", out]
    done = reelshard(*arguments, "--projection-dim", 6, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "3 of 4 clips" in done.stdout
    assert "1 failed: missing_file 1" in done.stdout
    data = ShardDataset.open(out)
    assert data.schema["target"].shape == (4, 2, 6)
    assert data.manifest.provenance["teacher"]["id"] == "teacher"
    assert data.metadata(0)["label_name"] == "Moving something right"
    assert (out / "projection.npy").is_file()
    again = reelshard(*arguments, "--projection-dim", 6, "--device", "cpu", "--json")
    assert json.loads(again.stdout)["num_resumed"] == 4
    other = reelshard(*arguments, "--projection-dim", 7, "--device", "cpu")
    assert other.returncode != 0
    assert "was begun with another plan" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.mark.slow
def test_the_command_builds_clips_alone_from_a_plain_folder(ssv2: Path, tmp_path: Path) -> None:
    done = reelshard(*TINY, "--videos", ssv2 / "videos", "--teacher", "none", "--limit", 2, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    data = ShardDataset.open(tmp_path / "out")
    assert len(data) == 2
    assert data.schema.names == ("clip", "json")


@pytest.mark.slow
def test_a_missing_data_set_is_an_error_that_says_where_to_get_it(tmp_path: Path) -> None:
    done = reelshard(
        *TINY, "--videos", tmp_path / "no", "--annotations", tmp_path, "--teacher", "none", "--out", tmp_path / "out"
    )
    assert done.returncode != 0
    assert "reelshard: error: there is no folder of videos" in done.stderr
    assert "Get it from" in done.stderr
    assert "Traceback" not in done.stderr
