"""`reelshard train` and `reelshard evaluate probe` on real, tiny data sets."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.st_jepa import STJEPAEncoder
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL
from tests.workplaces import Workplace, make_workplace
from tools.cli import main
from tools.recipe import load_recipe
from training.checkpoint import list_checkpoints, newest_checkpoint
from training.metrics import read_metrics


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


def train(place: Workplace, run_dir: Path, *more: str) -> int:
    return main(["train", "--recipe", place.recipe, "--data", place.train, "--out", str(run_dir), *more])


def test_a_run_leaves_a_folder_that_explains_itself(place: Workplace, tmp_path: Path) -> None:
    assert train(place, tmp_path, "--train.steps", "4") == 0
    assert load_recipe(tmp_path / "recipe.yaml").train.steps == 4
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["dataset"]["digest"] == ShardDataset.open(place.train).digest
    assert record["versions"]["torch"]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2, 3, 4]
    assert (tmp_path / "curves.png").exists()
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 2


def test_the_record_of_a_run_says_by_which_code_it_was_trained_on_what(place: Workplace, tmp_path: Path) -> None:
    assert train(place, tmp_path, "--train.steps", "1", "--val", place.val) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["versions"].keys() == {"python", "reelshard", "torch", "numpy", "transformers", "safetensors"}
    assert record["git_revision"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", record["git_revision"])
    assert record["dataset"]["path"] == place.train
    assert record["validation"] == place.val
    assert (record["num_ranks"], record["device"], record["started_after_step"]) == (1, "cpu", 0)
    assert record["precision"] == "float32"
    assert record["loader"]["fields"] == ["clip", "target"]
    assert record["loader"]["gather"] == {"clip": "visible", "target": "masked"}
    assert record["loader"]["global_batch_size"] == 8
    assert record["command"]


def test_the_launch_says_where_the_data_is_how_it_is_read_and_what_a_rank_gets(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert train(place, tmp_path, "--val", place.val, "--train.chunk_size", "4", "--train.steps", "2") == 0
    said = capsys.readouterr().out
    for part in (
        f"{place.train}, split train: 20 samples in 4 shards",
        f"held out {place.val}",
        "reader auto, 1 threads, 4 slabs, seed 0, verify sample, on error raise",
        "8 = 1 rank(s) x 8 in chunks of 4",
        "float32 on cpu",
        "targets  6 wide, of a teacher that the data set does not name",
        "2 steps = 1.0 epochs",
    ):
        assert part in said
    assert re.search(r"reader (mmap|pread|direct) \(auto: .+\)", caplog.text)
    assert re.search(r"step 2/2  loss .*  validation_loss .*  left under a second", said)


def test_weights_from_a_file_start_the_encoder_and_what_is_not_used_is_said(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(7)
    weights = {f"videomae.encoder.{k}": v for k, v in STJEPAEncoder(MODEL).state_dict().items()}
    save_file(weights | {"decoder.head.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    more = ("--init", str(tmp_path / "weights.safetensors"), "--train.steps", "1")
    slow = ("--optim.lr", "1e-30", "--optim.min_lr", "0", "--optim.weight_decay", "0")
    assert train(place, tmp_path / "run", *more, *slow) == 0
    assert "not used: decoder.head.weight" in capsys.readouterr().out
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    for name, value in weights.items():
        assert torch.equal(checkpoint.model[f"student.{name.removeprefix('videomae.')}"], value), name


@pytest.mark.parametrize(
    ("content", "said"), [(b"\x80\x02pickled", "is not a safetensors file"), (None, "No such file")]
)
def test_weights_that_are_no_safetensors_file_are_refused_in_one_line(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "weights.pth").write_bytes(content)
    assert train(place, tmp_path / "run", "--init", str(tmp_path / "weights.pth")) == 1
    error = capsys.readouterr().err
    assert "weights.pth" in error
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_the_weights_of_another_run(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path / "first", "--train.steps", "2") == 0
    capsys.readouterr()
    more = ("--train.steps", "1", "--optim.lr", "1e-12", "--optim.min_lr", "0")
    assert train(place, tmp_path / "second", "--init", str(tmp_path / "first"), *more) == 0
    assert re.search(r"weights .*step-00000002", "".join(capsys.readouterr()))
    first, second = (newest_checkpoint(tmp_path / name / "checkpoints") for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert (first.step, second.step) == (2, 1)
    for name, weights in first.model.items():
        torch.testing.assert_close(second.model[name], weights, rtol=0, atol=1e-6)


def test_a_sample_that_cannot_be_read_is_logged_with_shard_key_and_thread_and_training_goes_on(
    place: Workplace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = make_dataset(tmp_path / "train", num_samples=8)
    path = damaged.tar_path(1)
    tar = bytearray(path.read_bytes())
    tar[int(damaged.extents(1, "target").offsets[0]) + 40] ^= 0xFF
    path.write_bytes(tar)
    rules = ("--data.verify", "always", "--data.on_error", "quarantine", "--train.steps", "3")
    arguments = ("train", "--recipe", place.recipe, "--data", str(tmp_path / "train"), "--out", str(tmp_path / "run"))
    assert main([*arguments, *rules]) == 0
    assert [row["num_invalid"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 1]
    left_out = [record for record in caplog.records if "left out" in record.message]
    assert len(left_out) >= 3  # once an epoch, and the loader reads ahead
    assert all(re.findall(r"\((\d) of at most 1\)", record.message) == ["1"] for record in left_out)
    assert all("train-00001-of-00002.tar" in r.message and "000006" in r.message for r in left_out)
    assert all(str(tmp_path / "train") in record.message for record in left_out)
    assert all(record.threadName and record.threadName.startswith("reelshard-reader") for record in left_out)
    assert "2 samples of the last 2 steps did not count" in caplog.text


def test_the_module_that_scripts_of_before_start_trains_too(place: Workplace, tmp_path: Path) -> None:
    arguments = ("--recipe", place.recipe, "--data", place.train, "--out", str(tmp_path / "run"), "--train.steps", "1")
    subprocess.run([sys.executable, "-m", "tools.train", *arguments], check=True, capture_output=True, timeout=120)
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_the_best_checkpoint_by_what_an_evaluation_finds_is_kept(place: Workplace, tmp_path: Path) -> None:
    best = ("--evaluate", "probe", "--train.best_metric", "probe_top1", "--train.best_mode", "max")
    often = ("--train.checkpoint_every", "1", "--train.keep_checkpoints", "1")
    assert train(place, tmp_path / "run", "--val", place.val, *best, *often) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    found = max((row["probe_top1"], row["step"]) for row in rows)
    kept = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert set(kept) == {f"step-{found[1]:08d}", "step-00000006"}
    assert rows[-1]["probe_top1_low"] <= rows[-1]["probe_top1"] <= rows[-1]["probe_top1_high"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--evaluate", "probe"), "--evaluate probe needs the data val; give --val SET"),
        (("--evaluate", "taste"), "there is no evaluation 'taste' of ST-JEPA; there are probe"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_refused_before_the_run(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert train(place, tmp_path / "run", *arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "preflight"])
def test_what_is_read_of_a_sample_cannot_be_set(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = [command, "--recipe", place.recipe, "--data", place.train, "--out", str(tmp_path / "run")]
    for flag, value in (("--data.fields", "[clip]"), ("--data.gather", "{clip: masked}")):
        assert main([*arguments, flag, value]) == 1
        error = capsys.readouterr().err
        assert f"leave {flag.removeprefix('--')} out" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bf16_of_a_recipe_trains_on_a_cpu(place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place, tmp_path, "--train.precision", "bf16") == 0
    assert "bfloat16 on cpu" in capsys.readouterr().out
    losses = [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "run.json").read_text())["precision"] == "bfloat16"
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert {tensor.dtype for tensor in checkpoint.model.values()} == {torch.float32}


def test_tars_that_were_exchanged_stop_training_before_a_wrong_sample_is_trained_on(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "train", num_samples=24)
    one, two, aside = dataset.tar_path(0), dataset.tar_path(1), tmp_path / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    arguments = ("train", "--recipe", place.recipe, "--data", str(tmp_path / "train"), "--out", str(tmp_path / "run"))
    assert main([*arguments, "--data.global_batch_size", "24"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"shard train-0000[01]-of-00004.tar, key .* the file was exchanged", error)
    assert error.count("\n") == 1
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    assert not read_metrics(tmp_path / "run" / "metrics.jsonl")


def test_the_terminal_gets_data_student_and_one_line_per_interval(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path) == 0
    out = capsys.readouterr().out
    assert "20 samples" in out
    assert "6 steps = 3.0 epochs" in out
    assert "step 6/6  loss " in out


def test_json_is_all_that_stdout_gets_when_asked_for(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == 6
    assert Path(summary["checkpoint"]).is_dir()


def test_a_folder_with_a_run_is_not_overwritten_but_resumed_on_request(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path) == 0
    assert train(place, tmp_path) == 1
    assert "--resume auto" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000006")
    assert train(place, tmp_path, "--resume", "auto") == 0
    assert "resuming after step 3" in capsys.readouterr().out
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 6


def test_resume_auto_in_an_empty_folder_starts_a_run(place: Workplace, tmp_path: Path) -> None:
    assert train(place, tmp_path / "new", "--resume", "auto") == 0
