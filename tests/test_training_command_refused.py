"""What `reelshard train` and `reelshard evaluate` refuse, in one line; and the probe."""

import json
import shutil
from pathlib import Path

import pytest

from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Schema
from shards.writer import ShardWriter
from tests.datasets import tubes_sample, tubes_schema
from tests.test_training_command import train
from tests.workplaces import Workplace, make_workplace
from tools.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


def test_a_held_out_data_set_without_targets_is_refused_by_name(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = Schema(tuple(field for field in tubes_schema().fields if field.name != "target"))
    with ShardWriter(tmp_path / shard_name("validation", 0, 1), schema) as writer:
        writer.write("0", {name: value for name, value in tubes_sample(0).items() if name != "target"})
    Manifest(split="validation", schema=schema, shards=(writer.info,)).write(tmp_path)
    assert train(place, tmp_path / "run", "--val", str(tmp_path)) == 1
    assert f"{tmp_path} has no field 'target'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--optim.lr", "5e-4", "--resume", "auto"], "optim.lr was 0.001 and is now 0.0005"),
        (["--data.seed", "5", "--resume", "auto"], "seed is 0 in the state and 5 here"),
        (["--resume", "nowhere"], "nowhere is not a whole checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert train(place, tmp_path, "--train.steps", "1") == 0
    assert train(place, tmp_path, *arguments) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_data_set_of_another_geometry_is_refused_with_both_shapes(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path, "--model.target_dim", "99") == 1
    error = capsys.readouterr().err
    assert "target has shape (16, 2, 6)" in error
    assert "(16, 2, 99)" in error


def test_a_learning_rate_that_diverges_ends_in_one_line(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--optim.lr", "1e30", "--optim.min_lr", "1e30", "--optim.warmup", "0", "--train.max_nonfinite", "2")
    assert train(place, tmp_path, *arguments) == 1
    assert "loss or gradient was not finite in 2 steps in a row" in capsys.readouterr().err


def test_a_probe_reports_the_trained_student_beside_the_untrained_and_chance(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path) == 0
    capsys.readouterr()
    arguments = ["evaluate", "probe", "--run", str(tmp_path), "--train", place.train, "--val", place.val]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["step"] == 6
    assert report["num_classes"] == 3
    assert report["chance"] == pytest.approx(3 / 9)
    for which in ("trained", "untrained"):
        assert (report[which]["num_train"], report[which]["num_val"]) == (20, 9)
        assert len(report[which]["top1_per_seed"]) == 2
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "trained, step 6" in table
    assert "untrained" in table
    assert "most frequent label   33.3%" in table
    for which in ("trained", "untrained"):
        assert "[{:.1%}, {:.1%}]".format(*report[which]["top1_interval"]) in table


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "it has no recipe.yaml"), ("set", "it has no run.json"), ("runz", "there is no run folder")],
)
def test_a_probe_of_what_is_no_run_says_so_without_a_word_of_recipes(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    (tmp_path / "set").mkdir()
    shutil.copy(place.recipe, tmp_path / "set" / "recipe.yaml")
    arguments = ["evaluate", "probe", "--run", str(tmp_path / name), "--train", place.train, "--val", place.val]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error
    assert said in error
    assert "there is no recipe" not in error
    assert "--run is the --out of `reelshard train`" in error
    assert error.count("\n") == 1
