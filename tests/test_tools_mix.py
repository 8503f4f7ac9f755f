"""Several data sets through one `train`: named on the command line, mixed by the recipe, under budgets of length."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.world import World
from shards.dataset import ShardDataset
from tests.builds import kill_all
from tests.two_kinds import write_set
from tools.cli import main
from tools.draws import bytes_per_draw
from tools.loaders import TrainingLoader
from tools.recipe import load_recipe
from training.metrics import read_metrics

NUM_VIDEOS, NUM_TEXTS = 48, 30
RECIPE: dict[str, Any] = {
    "system": str(Path(__file__).parent / "two_kinds.py"),
    "data": {"global_batch_size": 4, "threads": 1, "mix": {"video": 0.75, "text": 0.25}},
    "optim": {"lr": 1e-2, "warmup": 0},
    "train": {"epochs": 2, "device": "cpu", "log_every": 1, "checkpoint_every": 5},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mix")
    write_set(folder / "video", NUM_VIDEOS, video=True)
    write_set(folder / "text", NUM_TEXTS, video=False, seed=1)
    (folder / "mix.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def command(place: Path, name: str, *more: object) -> list[str]:
    data = ["--data", f"video={place / 'video'}", "--data", f"text={place / 'text'}"]
    return [name, "--recipe", str(place / "mix.yaml"), *data, *map(str, more)]


def open_mix(place: Path, *overrides: str, world: World = World()) -> TrainingLoader:  # noqa: B008
    datasets = {name: ShardDataset.open(place / name) for name in ("video", "text")}
    return TrainingLoader(load_recipe(place / "mix.yaml", overrides), datasets, torch.device("cpu"), world)


def test_an_epoch_is_one_pass_over_the_heaviest_and_the_run_the_exact_batches_of_its_epochs(
    place: Path, tmp_path: Path
) -> None:
    assert main(command(place, "train", "--out", tmp_path)) == 0
    num_video = NUM_VIDEOS // 4  # of 12 batches of videos, 4 of text make 75 to 25
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")][-1] == 2 * (num_video + num_video // 3)


def test_what_ran_is_recorded_of_each_source(place: Path, tmp_path: Path) -> None:
    assert main(command(place, "train", "--out", tmp_path, "--train.steps", 1, "--model.window", 2)) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert {name: entry["num_samples"] for name, entry in record["datasets"].items()} == {
        "video": NUM_VIDEOS,
        "text": NUM_TEXTS,
    }
    assert record["loaders"]["text"]["fields"] == ["tokens"]
    assert record["loaders"]["video"]["gather"] == {"frames": "context"}
    assert "num_context=2" in record["loaders"]["video"]["draws"][0]
    recorded = load_recipe(tmp_path / "recipe.yaml")
    assert recorded.data.mix == {"video": 0.75, "text": 0.25}
    assert recorded == load_recipe(place / "mix.yaml", ["--train.steps=1", "--model.window=2", "--train.epochs=null"])


@pytest.mark.parametrize("overrides", [(), ("--data.length_budget={frames: 60, tokens: 40}",)])
def test_a_mix_that_was_stopped_goes_on_on_another_number_of_ranks_with_the_same_batches(
    place: Path, overrides: tuple[str, ...]
) -> None:
    with_one = [(batch.source, _samples(batch)) for _ in range(2) for batch in open_mix(place, *overrides)]
    whole = open_mix(place, *overrides)
    expected = [(batch.source, _samples(batch)) for _ in range(2) for batch in whole]
    assert expected != with_one or len(expected) == len(with_one)
    ranks = [open_mix(place, *overrides, world=World(rank=rank, size=2)) for rank in range(2)]
    iterators = [iter(rank) for rank in ranks]
    seen = []
    for _ in range(5):
        parts = [next(iterator) for iterator in iterators]
        assert len({part.source for part in parts}) == 1
        seen.append((parts[0].source, sorted(sample for part in parts for sample in _samples(part))))
    state = json.loads(json.dumps(ranks[0].state_dict()))
    alone = open_mix(place, *overrides)
    alone.load_state_dict(state)
    seen += [(batch.source, sorted(_samples(batch))) for batch in alone]
    seen += [(batch.source, sorted(_samples(batch))) for batch in alone]
    assert seen == [(source, sorted(samples)) for source, samples in expected]


def _samples(batch: Any) -> list[int]:
    found: list[int] = batch["index"][batch["index"] >= 0].tolist()
    return found


def test_budgets_count_for_the_sources_that_have_such_lengths(place: Path) -> None:
    loader = open_mix(place, "--data.length_budget={frames: 60, tokens: 40}")
    assert loader.sources["video"].config.length_budget == {"frames": 60, "tokens": 40}
    assert loader.sources["text"].config.length_budget == {"tokens": 40}
    for batch in loader:
        rows = len(batch["valid"])
        assert rows * batch["tokens"].shape[1] <= 40
        assert "frames" not in batch or rows * batch["frames"].shape[1] <= 60
        assert ("frames" in batch) == (batch.source == "video")


def test_the_bytes_that_were_read_are_those_of_the_draw(place: Path) -> None:
    loader = open_mix(place, "--model.window=3", "--data.verify=never", "--data.reader=pread")
    for _ in loader:
        pass
    video = loader.sources["video"]
    draw = bytes_per_draw(video.dataset, video.reads)
    lengths = video.dataset.lengths("frames")
    assert draw["frames"] == 16 * np.clip(lengths - 1, 1, 3).mean()  # of short videos there are not three before one
    stats = video.stats()
    assert stats.num_bytes / stats.num_samples == pytest.approx(sum(draw.values()), rel=1e-6)
    loader.close()


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        (
            ["video={}/video"],
            [],
            "data.mix weighs text, video, given is video: give --data text=PATH --data video=PATH",
        ),
        (["{}/video"], [], "without a name"),
        (["{}/video", "{}/text"], [], "several data sets are given: give each a name"),
        (["video={}/video", "video={}/text"], [], "'video' is given twice"),
        (["video={}/video", "text={}/text"], ["--data.mix=null"], "give --data.mix '{video: 1, text: 1}'"),
        (["video={}/video", "text={}/text"], ["--data.length_budget={words: 9}"], "data.length_budget names words"),
        (["video={}/video", "text={}/text"], ["--val", "{}/text"], "names no source; give NAME="),
        (["video={}/nowhere", "text={}/text"], [], "there is no data set at"),
    ],
)
def test_data_sets_that_do_not_fit_the_mix_are_refused_in_one_line(
    place: Path, tmp_path: Path, data: list[str], more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [part for text in data for part in ("--data", text.format(place))]
    rest = [text.format(place) if text.startswith("{}") else text for text in more]
    assert main(["train", "--recipe", str(place / "mix.yaml"), *named, "--out", str(tmp_path / "run"), *rest]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_held_out_data_is_of_one_source(place: Path, tmp_path: Path) -> None:
    held_out = ("--val", f"text={place / 'text'}", "--train.steps", 5)
    assert main(command(place, "train", "--out", tmp_path, *held_out)) == 0
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["validation_loss"] > 0


def test_preflight_looks_at_each_source(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(place, "preflight", "--out", tmp_path, "--batches", 3, "--json")) == 0
    checks = {entry["name"]: entry["detail"] for entry in json.loads(capsys.readouterr().out)["checks"]}
    assert "frames [4, " in checks["batch video"]
    assert "frames" not in checks["batch text"]
    assert "16 batches an epoch" in checks["loader"]


def test_a_source_is_shown_as_the_system_reads_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["show", str(place / "video"), "--recipe", str(place / "mix.yaml"), "--source", "video"]
    assert main([*arguments, "--model.window", "2", "--json"]) == 0
    assert 16 < json.loads(capsys.readouterr().out)["bytes_per_draw"]["frames"] < 2 * 16
    assert main(arguments) == 0
    whole = ShardDataset.open(place / "video").lengths("frames").mean() * 16
    assert re.search(rf"frames +{whole:,.0f}\n", capsys.readouterr().out)
    assert main([*arguments[:-1], "sound"]) == 1
    assert "name it video or text" in capsys.readouterr().err


def test_the_first_step_is_shown_of_each_source_and_nothing_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, "train", "--out", tmp_path / "run", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert said.count("loss ") == 2
    assert "no gradient" in said  # of the eye, in a batch of text
    assert not (tmp_path / "run").exists()


def test_a_source_is_measured_as_the_system_reads_it(place: Path, tmp_path: Path) -> None:
    quick = ["--threads", "1", "--rounds", "1", "--seconds", "0.01", "--json", str(tmp_path / "rates.json")]
    arguments = ["bench", str(place / "video"), "--recipe", str(place / "mix.yaml"), "--source", "video", *quick]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "rates.json").read_text())
    assert {rate["reader"] for rate in found["rates"]} == {"mmap", "pread"}
    assert all(rate["samples_per_second"] > 0 and rate["bytes_per_second"] > 0 for rate in found["rates"])
    assert main([*arguments, "--mask", "0.5"]) == 1


BUDGETS = ("--data.length_budget", "{frames: 60, tokens: 40}", "--train.epochs", "3")


@pytest.mark.slow
def test_a_mix_under_two_budgets_killed_on_two_ranks_goes_on_on_one_with_the_same_losses(
    place: Path, tmp_path: Path
) -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    reelshard = str(Path(sys.executable).parent / "reelshard")

    def on_two_ranks(name: str) -> subprocess.Popen[bytes]:
        own = command(place, "train", "--out", tmp_path / name, *BUDGETS)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", *launcher, reelshard, *own]
        return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)

    assert on_two_ranks("whole").wait(timeout=300) == 0
    killed = on_two_ranks("killed")
    while not (tmp_path / "killed/checkpoints/step-00000005/checkpoint.json").exists() and killed.poll() is None:
        time.sleep(0.01)
    kill_all(killed)
    assert main(command(place, "train", "--out", tmp_path / "killed", *BUDGETS, "--resume", "auto")) == 0
    whole, resumed = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed"))
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
