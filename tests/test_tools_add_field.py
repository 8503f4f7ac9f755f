"""`reelshard add-field` and `drop-field` as a user types them, with real checkpoints made by transformers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from shards.dataset import ShardDataset
from shards.exchange.zarr import export_targets
from shards.format.layout import tubes_to_clip, tubes_to_target
from shards.verify import verify_dataset
from tests.builds import ROOT, contents
from tests.clip_text import WIDTH, save_text_encoder
from tests.datasets import FRAMES, PATCH, SIZE, TUBELET, make_dataset
from tools.cli import main

HIDDEN = 24
CAPTIONS = ["a dog runs", "a cat jumps over the fox", "a dog runs"]


def save_videomae(folder: Path, **changes: int) -> Path:
    sizes = {"image_size": SIZE, "patch_size": PATCH, "num_frames": FRAMES, "tubelet_size": TUBELET} | changes
    torch.manual_seed(0)
    config = VideoMAEConfig(
        hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, **sizes
    )
    VideoMAEModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    save_videomae(folder / "videomae")
    save_text_encoder(folder / "clip")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> ShardDataset:
    """Clips, targets and captions, with a view on record."""
    records = {
        number: json.dumps({"video_id": f"v{number}", "text": CAPTIONS[number % 3]}).encode() for number in range(6)
    }
    made = make_dataset(tmp_path / "set", num_samples=6, samples_per_shard=4, records=records)
    replace(made.manifest, provenance={"view": {"hash": "a" * 64}}).write(made.directory)
    return ShardDataset.open(made.directory)


def add(dataset: ShardDataset, name: str, *more: object) -> int:
    return main(["add-field", str(dataset.directory), "--name", name, *map(str, more)])


def test_a_videomae_and_a_clip_are_added_dropped_and_the_set_is_as_it_was(
    dataset: ShardDataset, teachers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(dataset.directory)
    assert add(dataset, "tokens", "--teacher", teachers / "videomae", "--device", "cpu") == 0
    assert f"tokens <f2 [16, 2, {HIDDEN}] for 6 samples in 2 shards" in capsys.readouterr().out
    assert add(dataset, "caption", "--teacher", teachers / "clip", "--device", "cpu", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 6
    both = ShardDataset.open(dataset.directory)
    assert verify_dataset(dataset.directory).problems == ()
    clips = np.stack([tubes_to_clip(np.asarray(both[n]["clip"]), 4) for n in range(4)])  # those of the first shard
    from model.teacher import TeacherConfig, load_videomae_teacher

    teacher = load_videomae_teacher(TeacherConfig(id=str(teachers / "videomae"), projection_dim=None), "cpu")
    stored = np.stack([tubes_to_target(np.asarray(both[n]["tokens"])) for n in range(4)])
    assert np.array_equal(stored, teacher(clips))
    embeddings = [np.asarray(both[n]["caption"]) for n in range(3)]
    assert embeddings[0].shape == (WIDTH,)
    assert np.array_equal(embeddings[0], embeddings[2])
    assert np.abs(embeddings[0].astype(np.float32) - embeddings[1]).max() > 0.05
    assert both.manifest.about("caption")["teacher"]["output"] == "text_embeds"
    for name in ("tokens", "caption"):
        assert main(["drop-field", str(dataset.directory), "--name", name]) == 0
    assert contents(dataset.directory) == before


def test_the_projection_of_a_group_lies_beside_it_is_checked_and_goes_with_it(
    dataset: ShardDataset, teachers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = dataset.directory
    assert add(dataset, "short", "--teacher", teachers / "videomae", "--projection-dim", 5, "--device", "cpu") == 0
    assert ShardDataset.open(out).schema["short"].shape == (16, 2, 5)
    projection = out / "projection.short.npy"
    data = projection.read_bytes()
    projection.write_bytes(data[:-4] + b"abcd")
    assert main(["verify", str(out)]) == 1
    assert "projection.short.npy is not the projection of the manifest" in capsys.readouterr().out
    assert main(["drop-field", str(out), "--name", "short"]) == 0
    assert not projection.exists()


def test_a_teacher_of_another_size_gives_its_own_grid(dataset: ShardDataset, tmp_path: Path) -> None:
    large = save_videomae(tmp_path / "large", patch_size=16)
    assert add(dataset, "large", "--teacher", large, "--device", "cpu") == 0
    field = ShardDataset.open(dataset.directory).schema["large"]
    assert (field.layout, field.shape) == ("plain", (8, HIDDEN))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--teacher", "nowhere/at-all"), "cannot load the teacher 'nowhere/at-all'"),
        (("--teacher", "/nowhere"), "cannot load the teacher '/nowhere': there is no such folder"),
        (("--teacher", "{t}/clip", "--projection-dim", "3"), "kept as they are, got a projection to 3"),
        (("--teacher", "{t}/videomae", "--missing", "none"), "--missing is 'none'; for a teacher give a number"),
        (("--teacher", "{t}/videomae", "--projection-dim", "0"), "projection_dim is 0"),
        (("--teacher", "{t}/videomae", "--teacher-dtype", "int8"), "dtype is 'int8'"),
        (("--teacher", "{t}/videomae", "--workers", "0"), "build.workers is 0"),
        (("--teacher", "{t}/videomae", "--name", "a b"), "field name 'a b' is not allowed"),
        (("--teacher", "{t}/videomae", "--name", "../a"), "the group's name '../a' is not allowed"),
        (("--zarr", "{t}"), "has no targets.zarr"),
        (("--zarr", "{t}", "--missing", "0"), "a cache has to hold every sample"),
        (("--zarr", "{t}/none"), "does not exist"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_the_set_stays_as_it_was(
    dataset: ShardDataset,
    teachers: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    pytest.importorskip("zarr")
    before = contents(dataset.directory)
    given = [argument.replace("{t}", str(teachers)) for argument in arguments]
    assert add(dataset, "new", *given, *(["--device", "cpu"] if "--teacher" in given else [])) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reelshard:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert contents(dataset.directory) == before


def test_a_clip_of_another_shape_is_refused_with_both_shapes(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = save_videomae(tmp_path / "longer", num_frames=2 * FRAMES)
    assert add(dataset, "longer", "--teacher", longer, "--device", "cpu") == 1
    assert f"takes clips [8, {SIZE}, {SIZE}, 3], the clips of" in capsys.readouterr().err


def test_nothing_or_two_origins_are_wrong_arguments(dataset: ShardDataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(dataset, "new") == 2
    assert add(dataset, "new", "--teacher", "a", "--table", "b") == 2
    assert main(["drop-field", str(dataset.directory)]) == 2
    assert capsys.readouterr().err.count("error:") == 3


def test_a_cache_becomes_a_field_under_the_groups_name_and_of_another_view_is_refused(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zarr")
    export_targets(dataset, tmp_path / "cache")
    assert add(dataset, "again", "--zarr", tmp_path / "cache") == 0
    assert "the same view" in capsys.readouterr().err
    both = ShardDataset.open(dataset.directory)
    for number in range(6):
        assert np.array_equal(np.asarray(both[number]["again"]), np.asarray(both[number]["target"]))
    assert main(["drop-field", str(dataset.directory), "--name", "again"]) == 0
    replace(dataset.manifest, provenance={"view": {"hash": "b" * 64}}).write(dataset.directory)
    assert add(dataset, "again", "--zarr", tmp_path / "cache") == 1
    assert "the views differ: " in capsys.readouterr().err
    assert not list(dataset.directory.glob("*again*"))


def spoil_plan(out: Path) -> None:
    plan = json.loads((out / "plan.notes.json").read_text())
    (out / "plan.notes.json").write_text(json.dumps(plan | {"sample": plan["sample"] | {"table": "other.csv"}}))


def damage_plan(out: Path) -> None:
    (out / "plan.notes.json").write_text("{")


def lose_failures(out: Path) -> None:
    (out / "failures.notes.jsonl").unlink()


def spoil_failures(out: Path) -> None:
    (out / "failures.notes.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_plan, "plan.notes.json: it is not the plan of the field group 'notes': where it came from differs"),
        (damage_plan, "plan.notes.json is damaged"),
        (lose_failures, "failures.notes.jsonl"),
        (spoil_failures, "failures.notes.jsonl, line 1, is damaged"),
    ],
)
def test_what_lies_beside_a_group_is_verified_and_a_damaged_group_can_be_dropped(
    dataset: ShardDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    said: str,
) -> None:
    before = contents(dataset.directory)
    (tmp_path / "t.csv").write_text("key,n\n" + "".join(f"{dataset.key(n)},{n}\n" for n in range(6)))
    assert add(dataset, "notes", "--table", tmp_path / "t.csv") == 0
    spoil(dataset.directory)
    capsys.readouterr()
    assert main(["verify", str(dataset.directory)]) == 1
    assert said in capsys.readouterr().out
    assert main(["drop-field", str(dataset.directory), "--name", "notes"]) == 0
    assert contents(dataset.directory) == before


def test_a_group_that_is_not_there_is_said_with_those_that_are(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(dataset.directory)
    assert main(["drop-field", str(dataset.directory), "--name", "dino"]) == 1
    assert "has no field group 'dino'; it has none" in capsys.readouterr().err
    assert main(["drop-field", str(tmp_path / "nowhere"), "--name", "dino"]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["drop-field", str(tmp_path), "--name", "dino"]) == 1
    assert "has no dataset.json" in capsys.readouterr().err
    assert main(["add-field", str(tmp_path), "--name", "dino", "--table", "t.csv"]) == 1
    assert not (tmp_path / ".build").exists()
    assert contents(dataset.directory) == before


# argv: a signal, then the command line. The signal comes when the first shard is opened after a plan was published.
AT_WORK = """
import os, sys
number, at_work = int(sys.argv.pop(1)), False
def audit(event, arguments):
    global at_work
    if event == "os.rename" and os.fspath(arguments[1]).endswith("plan.one.json"):
        at_work = True
    elif event == "open" and at_work and str(arguments[0]).endswith(".tar"):
        at_work = False
        os.kill(os.getpid(), number)
sys.addaudithook(audit)
from tools.__main__ import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_command_in_one_line_and_the_same_command_goes_on(
    dataset: ShardDataset, teachers: Path, number: signal.Signals, status: int
) -> None:
    arguments = ["--name", "one", "--teacher", str(teachers / "videomae"), "--device", "cpu"]
    command = [sys.executable, "-c", AT_WORK, str(int(number)), "add-field", str(dataset.directory), *arguments]
    stopped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert stopped.returncode == status
    assert "Traceback" not in stopped.stderr
    (line,) = [line for line in stopped.stderr.splitlines() if line.startswith("reelshard:")]
    assert "0 of 2 shards are finished and kept" in line
    assert main(["add-field", str(dataset.directory), *arguments]) == 0
    assert verify_dataset(dataset.directory).problems == ()
