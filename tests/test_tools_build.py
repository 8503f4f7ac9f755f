import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import ShardDataset
from tests.builds import contents
from tests.test_model_teacher import save_backbone
from tests.videos import moving_square, write_video
from tools.recipe import load_recipe

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
    done = reelshard(*arguments, "--projection-dim", 6, "--model.target_dim", 6, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "3 of 4 clips" in done.stdout
    assert "1 failed: missing_file 1" in done.stdout
    data = ShardDataset.open(out)
    assert data.schema["target"].shape == (4, 2, 6)
    assert data.manifest.provenance["teacher"]["id"] == "teacher"
    assert data.metadata(0)["label_name"] == "Moving something right"
    projection = np.load(out / "projection.npy", allow_pickle=False)  # as docs/format.md has it
    about = data.manifest.provenance["teacher"]["projection"]
    assert (projection.dtype, list(projection.shape)) == (np.dtype("<f4"), about["shape"])
    assert hashlib.sha256(projection.tobytes()).hexdigest() == about["sha256"]
    recipe = load_recipe(out / "recipe.yaml")
    assert (recipe.view.size, recipe.build.patch, recipe.build.workers) == (32, 16, None)
    again = reelshard(*arguments, "--projection-dim", 6, "--model.target_dim", 6, "--device", "cpu", "--json")
    assert json.loads(again.stdout)["num_resumed"] == 4
    other = reelshard(*arguments, "--projection-dim", 7, "--model.target_dim", 7, "--device", "cpu")
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


@pytest.mark.slow
def test_devices_give_the_bytes_of_a_plain_build(ssv2: Path, tmp_path: Path) -> None:
    teacher = save_backbone(tmp_path / "teacher")
    arguments = [*TINY, "--videos", ssv2 / "videos", "--annotations", ssv2, "--teacher", teacher, "--device", "cpu"]
    arguments += ["--projection-dim", 6, "--model.target_dim", 6, "--build.samples_per_shard", 1]
    for name, more in (("plain", []), ("devices", ["--devices", "cpu,cpu", "--workers", 2])):
        done = reelshard(*arguments, "--out", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "plain") == contents(tmp_path / "devices")


@pytest.mark.slow
def test_partitions_and_finalize_give_the_bytes_of_a_plain_build_the_recipe_included(
    ssv2: Path, tmp_path: Path
) -> None:
    arguments = [*TINY, "--videos", ssv2 / "videos", "--teacher", "none", "--build.samples_per_shard", 1]
    for name, more in (
        ("plain", []),
        ("parts", ["--partition", "1/2", "--workers", 3]),
        ("parts", ["--partition", "0/2"]),
        ("parts", ["--finalize"]),
    ):
        done = reelshard(*arguments, "--out", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "plain") == contents(tmp_path / "parts")
    assert "recipe.yaml" in contents(tmp_path / "parts")


@pytest.mark.slow
def test_a_partition_points_to_the_failures_that_are_there(ssv2: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*TINY, "--videos", ssv2 / "videos", "--annotations", ssv2, "--teacher", "none", "--out", out]
    done = reelshard(*arguments, "--partition", "0/1")
    assert done.returncode == 0, done.stderr
    assert f"1 failed: missing_file 1; each one is a line of {out}/.build/*.failures.jsonl, and of" in done.stdout
    assert not (out / "failures.jsonl").exists()
    assert sum(len(path.read_text().splitlines()) for path in (out / ".build").glob("*.failures.jsonl")) == 1
    assert f"each one is a line of {out}/failures.jsonl" in reelshard(*arguments, "--finalize").stdout
    assert f"each one is a line of {out}/failures.jsonl" in reelshard(*arguments, "--partition", "0/1").stdout
    assert len((out / "failures.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_ssv2_in_one_folder_builds_its_first_clips_without_labels(ssv2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ssv2 / "videos", tmp_path / "ssv2")
    shutil.copy(ssv2 / "train.json", folder)
    arguments = [*TINY, "--videos", folder, "--teacher", "none", "--out", tmp_path / "out", "--limit", 2]
    done = reelshard(*arguments, "--limit-order", "source")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "labels.json" in line]
    assert line.startswith(f"reelshard: there is no labels.json in {folder}, so the data set is built without labels")
    data = ShardDataset.open(tmp_path / "out")
    assert {data.metadata(number)["video_id"] for number in range(len(data))} == {"0", "1"}
    assert {data.metadata(number)["label"] for number in range(len(data))} == {None}
    assert data.manifest.provenance["source"]["limit_order"] == "source"
    assert 'source.limit_order was "source", is now null' in reelshard(*arguments).stderr
    assert reelshard(*arguments, "--limit-order", "source", "--json").returncode == 0
    without = [argument for argument in arguments if argument not in ("--limit", 2)]
    assert "no meaning without --limit" in reelshard(*without, "--limit-order", "source").stderr


@pytest.mark.slow
def test_bad_videos_stop_a_build_before_it_begins(ssv2: Path, tmp_path: Path) -> None:
    arguments = [*TINY, "--videos", ssv2 / "videos", "--annotations", ssv2, "--out", tmp_path / "out"]
    done = reelshard(*arguments, "--max-failures", "0.1")  # a teacher would have to be downloaded: it is not asked for
    assert done.returncode == 1
    assert "the videos are not fit to build: 4 videos: missing_file 1" in done.stderr
    looked = reelshard(*arguments, "--preflight")
    assert looked.returncode == 0
    assert "preflight: 4 videos: missing_file 1; of 3 taken at random: all decode" in looked.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_command_in_one_line_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path\nfirst.webm\nsecond.webm\n")
    os.mkfifo(tmp_path / "first.webm")
    os.mkfifo(tmp_path / "second.webm")
    arguments = [*TINY, "--videos", tmp_path, "--annotations", table, "--teacher", "none", "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "tools", "build", *map(str, arguments)]
    builder = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)
    with builder, (tmp_path / "first.webm").open("wb"):  # it is at work when its decoder has opened the pipe
        builder.send_signal(number)
        _, errors = builder.communicate(timeout=60)
    assert builder.returncode == status
    assert "reelshard: stopped: 0 of 1 shards are finished and kept, 1 remain" in errors
    assert "Traceback" not in errors
    for name in ("first", "second"):
        (tmp_path / f"{name}.webm").unlink()
        write_video(tmp_path / f"{name}.webm", moving_square(num_frames=8))
    done = reelshard(*arguments)
    assert done.returncode == 0, done.stderr
    assert len(ShardDataset.open(tmp_path / "out")) == 2
