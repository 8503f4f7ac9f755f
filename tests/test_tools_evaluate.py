"""`reelshard evaluate probe`, `knn`, `arrow`, `features` and `compare`, on a run and on a VideoMAE of transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from evaluation.saved_probe import load_probe
from shards.dataset import ShardDataset
from shards.verify import verify_dataset
from tests.evaluations import make_clips, save_videomae
from tests.workplaces import SECTIONS
from tools.cli import main
from tools.encoders import load_encoder
from tools.evaluate import EVALUATIONS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a VideoMAE, and sets to train and to score on, the latter with two views of each video."""
    folder = tmp_path_factory.mktemp("place")
    make_clips(folder / "train", 30)
    make_clips(folder / "val", 12, seed=1, views=2, split="validation")
    save_videomae(folder / "videomae", seed=7)
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"system": "st_jepa", **SECTIONS}))
    from tests.datasets import make_dataset

    dataset = make_dataset(folder / "targets", num_samples=16)
    from dataclasses import replace

    replace(dataset.manifest, provenance={"view": {"hash": "a" * 64}}).write(dataset.directory)
    arguments = ["--recipe", str(folder / "tiny.yaml"), "--data", str(folder / "targets"), "--train.steps", "1"]
    assert main(["train", *arguments, "--out", str(folder / "run")]) == 0
    return folder


def sets(place: Path) -> list[str]:
    return ["--train", str(place / "train"), "--val", str(place / "val")]


def measured(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments)]) == 1
    *progress, error = capsys.readouterr().err.splitlines()
    assert all(line.startswith(("encoding", "probing", "adding")) for line in progress)
    return error


@pytest.mark.parametrize("checkpoint", ["run", "videomae", "copied.safetensors"])
def test_any_encoder_is_probed_by_one_command_with_what_stands_beside_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    if checkpoint.startswith("copied"):
        source = place / "run/checkpoints/step-00000001/model.safetensors"
        shutil.copy(source, place / checkpoint)
    out = ["--out", tmp_path / "out", "--epochs", 60, "--lr", 1e-2, 1e-1, "--weight-decay", 0, "--labels", 1, 0.1]
    report = measured(capsys, "probe", "--checkpoint", place / checkpoint, *sets(place), *out)
    results = report["results"]
    wanted = {f"{name}{share}" for name in ("trained", "untrained", "pixels") for share in ("", ", 0.1 of the labels")}
    assert set(results) == wanted
    assert results["pixels"]["metrics"]["top1"] > 0.8  # brightness can be seen
    assert results["trained"]["metrics"]["top1"] > 0.6  # even random features keep it
    one = results["trained"]
    assert one["protocol"]["num_val"] == 12  # videos; each has two views
    assert one["protocol"]["most_views"] == 2
    assert one["digests"] == {
        "train": ShardDataset.open(place / "train").digest,
        "val": ShardDataset.open(place / "val").digest,
        "model": load_encoder(str(place / checkpoint)).digest,
        "view": "a" * 64,
    }
    assert [row["class"] for row in one["tables"]["confusion"]] == ["dark", "mid", "light"]
    assert {row["count"] for row in one["tables"]["per_class"]} == {4}
    assert set(one["intervals"]) == {"top1", "mean_class_top1"}
    assert one["seed"] == 0
    assert results["trained, 0.1 of the labels"]["protocol"]["num_train"] == 3
    written = json.loads((tmp_path / "out/probe.json").read_text())
    assert written["results"] == results
    assert "untrained" in (tmp_path / "out/probe.html").read_text()


def test_a_probe_is_the_same_by_seed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("probe", "--checkpoint", place / "videomae", *sets(place), "--epochs", 3, "--baselines", "untrained")
    first, again, other = (measured(capsys, *command, "--seed", seed)["results"] for seed in (3, 3, 4))
    assert first == again
    assert first["untrained"]["digests"]["model"] != other["untrained"]["digests"]["model"]


def test_the_classifier_is_kept_and_says_what_the_probe_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", 20, "--layers", "all", "--baselines", "--out", tmp_path)
    report = measured(capsys, "probe", "--checkpoint", place / "videomae", *sets(place), *options)
    kept, encoder = load_probe(tmp_path / "probe.safetensors"), load_encoder(str(place / "videomae"))
    result = report["results"]["trained"]
    assert {row["layer"] for row in result["tables"]["tried"]} == {1, 2, 3}
    assert kept.layer == result["protocol"]["layer"]
    val = ShardDataset.open(place / "val")
    clips = torch.from_numpy(np.stack([np.asarray(val.read(number, "clip")) for number in range(len(val))]))
    guess = kept(encoder, clips).view(12, 2, 3).mean(dim=1).argmax(dim=1).tolist()
    assert guess == [row["predicted"][0] for row in result["rows"]]


@pytest.mark.parametrize("blocks", [1, 4])
def test_an_attentive_probe_streams_tokens_and_says_how_much(
    place: Path, capsys: pytest.CaptureFixture[str], blocks: int
) -> None:
    command = ["evaluate", "probe", "--checkpoint", str(place / "videomae"), *sets(place), "--kind", "attentive"]
    capsys.readouterr()
    assert main([*command, "--blocks", str(blocks), "--epochs", "1", "--lr", "1e-3", "--baselines"]) == 0
    said = capsys.readouterr().out
    assert "attentive probe, top-1 of 12 videos in 3 classes, up to 2 views averaged" in said
    assert "tokens: 32 x 24 in f16 = 0.00 MB a clip" in said
    assert "encoded anew in each pass" in said


def test_stored_tokens_give_what_streamed_ones_give(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "val"):
        store = ("features", place / name, "--checkpoint", place / "videomae", "--name", "tokens", "--tokens")
        assert measured(capsys, *store)["num_samples"] == len(ShardDataset.open(place / name))
        assert verify_dataset(place / name).problems == ()
        assert measured(capsys, *store)["num_resumed"] == len(ShardDataset.open(place / name))
    command = ("probe", "--checkpoint", place / "videomae", *sets(place), "--baselines", "--epochs", "2")
    for kind in ("linear", "attentive"):
        streamed = measured(capsys, *command, "--kind", kind)["results"]["trained"]
        stored = measured(capsys, *command, "--kind", kind, "--features", "tokens")["results"]["trained"]
        assert stored["metrics"]["top1"] == pytest.approx(streamed["metrics"]["top1"], abs=0.1)  # f16 may turn a guess
        assert stored["protocol"]["stored_features"] == "tokens"
    said = refused(capsys, "probe", "--checkpoint", place / "run", *sets(place), "--features", "tokens")
    assert "holds features of videomae" in said
    assert "give the checkpoint that it was stored with" in said
    said = refused(capsys, "probe", "--checkpoint", place / "videomae", *sets(place), "--features", "nothing")
    assert "has no field 'nothing'; store it with `reelshard evaluate features" in said


def test_features_as_arrays_go_on_where_they_were_stopped(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("features", place / "val", "--checkpoint", place / "videomae", "--arrays", tmp_path)
    measured(capsys, *command)
    files = sorted(tmp_path.glob("*.npy"))
    found = np.concatenate([np.load(file) for file in files])
    dataset, encoder = ShardDataset.open(place / "val"), load_encoder(str(place / "videomae"))
    clips = torch.from_numpy(np.stack([np.asarray(dataset.read(number, "clip")) for number in range(len(dataset))]))
    expected = encoder(clips.permute(0, 4, 1, 2, 3).contiguous()).mean(dim=1)
    np.testing.assert_allclose(found[:, 0], expected.numpy(), rtol=2e-3, atol=2e-3)
    before = {file: file.stat().st_mtime_ns for file in files}
    files[1].unlink()
    measured(capsys, *command)
    assert files[1].exists()
    assert before[files[0]] == files[0].stat().st_mtime_ns
    said = refused(capsys, "features", place / "val", "--checkpoint", place / "run", "--arrays", tmp_path)
    assert "holds features that were begun otherwise, they differ in features" in said


def test_neighbours_and_the_arrow_of_time_are_measured_beside_pixels(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("knn", "--checkpoint", place / "run", *sets(place), "--k", 1, 5, "--out", tmp_path)
    near = measured(capsys, *command)["results"]
    assert near["pixels"]["metrics"]["top1"] == near["pixels"]["metrics"]["top1_k5"] > 0.8
    assert set(near) == {"trained", "untrained", "pixels"}
    assert (tmp_path / "knn.html").is_file()
    arrow = measured(capsys, "arrow", "--checkpoint", place / "run", *sets(place), "--epochs", 20)["results"]
    assert arrow["pixels"]["metrics"]["paired_top1"] == 1.0  # clips grow dark
    assert arrow["trained"]["protocol"]["num_val"] == 12


def test_the_arrow_of_time_needs_no_labels(tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = (make_clips(tmp_path / name, 8, unlabelled=tuple(range(8))) for name in ("train", "val"))
    command = ("arrow", "--checkpoint", place / "run", "--train", train.directory, "--val", val.directory)
    assert measured(capsys, *command, "--epochs", 2)["results"]["trained"]["protocol"]["num_train"] == 8


def test_results_are_compared_in_one_table_beside_published_ones(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", "videomae"):
        measured(capsys, "knn", "--checkpoint", place / name, *sets(place), "--k", 1, "--out", tmp_path / name)
    paths = [str(tmp_path / name) for name in ("run", "videomae")]
    assert main(["evaluate", "compare", *paths, "--published", "ssv2", "--out", str(tmp_path / "both")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said[1:7]] == [
        f"{name}: {which}" for name in ("run", "videomae") for which in ("trained", "untrained", "pixels")
    ]
    (row,) = [line for line in said if line.startswith("V-JEPA ViT-L (published)")]
    assert "69.5 %" in row
    assert any("these results are of 3 classes, ssv2 has 174" in line for line in said)
    assert any(line.startswith("run: trained: top-1") or "Protocol: " in line for line in said)
    assert "published" in (tmp_path / "both/compare.html").read_text()
    spoiled = json.loads((tmp_path / "run/knn.json").read_text())
    for result in spoiled["results"].values():
        result["digests"]["view"] = "b" * 64
    (tmp_path / "other.json").write_text(json.dumps(spoiled))
    assert "the view differs" in refused(capsys, "compare", paths[1], tmp_path / "other.json")
    for result in spoiled["results"].values():
        result["digests"] |= {"view": "a" * 64, "val": "c" * 64}
    (tmp_path / "other.json").write_text(json.dumps(spoiled))
    assert "the data that was scored on differs" in refused(capsys, "compare", paths[1], tmp_path / "other.json")
    (tmp_path / "none.json").write_text("{}")
    assert "holds no results of an evaluation" in refused(capsys, "compare", tmp_path / "none.json")


def test_what_does_not_fit_is_one_clear_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe = ("probe", "--checkpoint", place / "run")
    make_clips(tmp_path / "unlabelled", 6, unlabelled=tuple(range(6)))
    make_clips(tmp_path / "larger", 6, size=40)
    make_clips(tmp_path / "other view", 6, view="b" * 64)
    make_clips(tmp_path / "other classes", 6, classes=("x", "y"))
    train = ("--train", place / "train")
    for name, expected in {
        "unlabelled": "no sample has a label",
        "larger": "are [4, 40, 40, 3] ([T, H, W, 3]), run",
        "other view": "the views differ",
        "other classes": "the label names of train and val differ",
    }.items():
        assert expected in refused(capsys, *probe, *train, "--val", tmp_path / name), name
    nothing = ("--train", tmp_path / "no set", "--val", place / "val")
    assert "no set" in refused(capsys, "knn", "--checkpoint", tmp_path / "none", *nothing)  # before the encoder
    assert "there is no run folder or file" in refused(capsys, "knn", "--checkpoint", tmp_path / "none", *sets(place))
    few = ("--k", 31, "--train", place / "train", "--val", place / "val")
    assert "31 neighbours cannot vote" in refused(capsys, "knn", "--checkpoint", place / "run", *few)
    assert "--batch-size is 0; give at least 1" in refused(capsys, *probe, *sets(place), "--batch-size", 0)
    assert "--data.threads=3 has no effect here" in refused(capsys, *probe, *sets(place), "--data.threads=3")
    assert "there is no layer" in refused(capsys, "knn", "--checkpoint", place / "run", *sets(place), "--layer", 9)
    assert "--layers has '9'" in refused(capsys, *probe, *sets(place), "--layers", 9)
    assert "give a number that divides it" in refused(
        capsys, *probe, *sets(place), "--kind", "attentive", "--heads", 5, "--epochs", 1
    )
    assert "write the name first" in refused(capsys, "--run", place / "run", "knn")


@pytest.mark.parametrize("name", sorted(EVALUATIONS))
def test_every_evaluation_explains_itself_and_is_listed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out
    assert main(["evaluate", name, "--help"]) == 0
    assert f"reelshard evaluate {name}" in capsys.readouterr().out
