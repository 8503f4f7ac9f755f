"""The foveated VLM from the command line: stages, rows, warnings, refusals, and how it is scored."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.chats import build_chats, chat_config, write_chats
from tests.fvlm_runs import Workshop
from tests.tiny_vlm import tiny_llm
from tools.cli import main
from training.metrics import read_metrics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.make(tmp_path_factory.mktemp("fvlm"))


def train(workshop: Workshop, out: Path, *more: str, stage: int = 1, **sections: dict[str, Any]) -> int:
    recipe = workshop.recipe(stage, **sections)
    return main(["train", "--recipe", str(recipe), *workshop.sources(), "--out", str(out), *more])


@pytest.fixture(scope="module")
def stage1(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 1 on both sources, with held-out chats."""
    out = tmp_path_factory.mktemp("runs") / "stage1"
    val = ["--val", f"video={workshop.folder / 'held_out'}"]
    assert train(workshop, out, *val, train={"checkpoint_every": 4, "keep_checkpoints": 9}) == 0
    return out


def weights(run: Path, step: int) -> dict[str, Tensor]:
    return safetensors.torch.load_file(run / f"checkpoints/step-{step:08d}/model.safetensors")


def test_rows_say_what_each_source_costs_and_what_the_queries_do(stage1: Path) -> None:
    rows = read_metrics(stage1 / "metrics.jsonl")
    videos = [row for row in rows if "loss_video" in row]
    assert len(rows) == 8
    assert 0 < len([row for row in rows if "loss_text" in row]) < 8
    for row in videos:
        assert row["coarse_to_fine"] == pytest.approx(row["coarse_loss"] / row["fine_loss"])
        assert 0 < row["attention_entropy"] <= 1.0001
    for row in rows:
        assert 0.5 < row["query_std"] < 1.5
        assert row["query_difference"] > 0.3
        assert row["lr_llm"] == pytest.approx(row["lr"] / 10) == row["lr_dinov2"]
        assert row["grad_norm"] > 0
    assert "validation_loss" in rows[-1]


def test_the_best_checkpoint_is_the_one_whose_held_out_words_cost_least(stage1: Path) -> None:
    from training.checkpoint import best_checkpoint

    costs = {
        row["step"]: row["validation_loss"] for row in read_metrics(stage1 / "metrics.jsonl") if row["step"] % 4 == 0
    }
    best = best_checkpoint(stage1 / "checkpoints")
    assert best is not None
    assert int(best.name[-8:]) == min(costs, key=costs.__getitem__)


def test_stage_2_starts_from_the_weights_of_stage_1(workshop: Workshop, stage1: Path, tmp_path: Path) -> None:
    out = tmp_path / "stage2"
    still = {"lr": 1e-9}
    objective = {"llm_lr": 0.0, "dinov2_lr": 0.0}
    assert (
        train(workshop, out, "--init", str(stage1), stage=2, optim=still, objective=objective, train={"steps": 1}) == 0
    )
    before, after = weights(stage1, 8), weights(out, 1)
    assert before.keys() == after.keys()
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)
    assert float(before["model.visual_scale"]) > 0


def test_a_run_that_is_resumed_in_the_middle_of_a_mix_goes_on_to_the_bit(
    workshop: Workshop, stage1: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(stage1, out)
    shutil.rmtree(out / "checkpoints/step-00000008")
    val = ["--val", f"video={workshop.folder / 'held_out'}"]
    settings = {"checkpoint_every": 4, "keep_checkpoints": 9}
    assert train(workshop, out, *val, "--resume", "auto", train=settings) == 0
    first, second = (read_metrics(run / "metrics.jsonl") for run in (stage1, out))
    names = ("loss", "grad_norm", "coarse_loss", "attention_entropy", "validation_loss")
    assert [[row.get(name) for name in names] for row in first] == [[row.get(name) for name in names] for row in second]
    assert all(torch.equal(value, weights(out, 8)[name]) for name, value in weights(stage1, 8).items())


def test_a_dry_run_shows_what_is_trained_and_that_every_term_is_finite(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workshop, tmp_path / "run", "--dry-run", objective={"train_dinov2": False}) == 0
    printed = capsys.readouterr().out
    assert "template 'tokenizer'; captions will be asked for by the recipe's, 'literal'" in printed
    for part, state in (("dinov2", "frozen"), ("llm", "trained"), ("q_static", "trained"), ("dino_to_llm", "trained")):
        assert re.search(rf"model\.{part} +[\d,]+ +{state}", printed), part
    assert "frames" in printed
    (video,) = [line for line in printed.splitlines() if line.startswith("loss ") and "coarse_loss" in line]
    assert "coarse_to_fine" in video
    assert not (tmp_path / "run").exists()


def test_a_dry_run_with_a_term_that_is_not_finite_ends_with_an_error(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm: Any = tiny_llm(vocab_size=260)
    llm.model.norm.weight.data.fill_(torch.nan)
    llm.save_pretrained(tmp_path / "llm")
    assert train(workshop, tmp_path / "run", "--dry-run", model={"llm": str(tmp_path / "llm")}) == 1
    assert "the loss is not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"optim": {"lr": 2e-3}}, r"optim.lr is 0.002, .*above 0.001"),
        ({"objective": {"scored": "words"}}, "scored"),
        ({"objective": {"mode": "autoregressive"}}, "objective.mode is 'autoregressive'"),
        ({"objective": {"train_llm": False}}, r"is text alone, .* leave it out by --data.mix.text 0"),
        ({"evaluate": {"modes": []}}, "name each once"),
        ({"model": {"visual_scale": 5.0}}, "set model.visual_scale to auto"),
        (
            {"model": {"dinov2": "/nowhere/at/all"}},
            "cannot load the encoder '/nowhere/at/all': there is no such folder",
        ),
        ({"view": {"size": 42}}, "holds pictures of 28 px, the recipe's view is of 42 px"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    workshop: Workshop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sections: dict[str, Any],
    said: str,
) -> None:
    assert train(workshop, tmp_path / "run", **sections) == 1
    error = capsys.readouterr().err.strip()
    assert re.search(said, error), error
    assert "\n" not in error
    assert not (tmp_path / "run").exists()


def test_tokens_that_the_language_model_does_not_know_are_refused(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small: Any = tiny_llm(vocab_size=200)
    small.save_pretrained(tmp_path / "llm")
    assert train(workshop, tmp_path / "run", model={"llm": str(tmp_path / "llm")}) == 1
    assert re.search(r"has the tokens of .*259 of them, .* knows 200", capsys.readouterr().err)


def test_a_run_that_recomputes_activations_is_the_run_that_keeps_them(
    workshop: Workshop, stage1: Path, tmp_path: Path
) -> None:
    assert train(workshop, tmp_path / "run", train={"recompute": True, "steps": 8}) == 0
    kept, again = (read_metrics(run / "metrics.jsonl") for run in (stage1, tmp_path / "run"))
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in kept], rel=1e-5)


def test_a_run_of_several_chunks_is_the_run_of_whole_batches(workshop: Workshop, stage1: Path, tmp_path: Path) -> None:
    assert train(workshop, tmp_path / "run", train={"chunk_size": 2}) == 0
    whole, cut = (read_metrics(run / "metrics.jsonl") for run in (stage1, tmp_path / "run"))
    for name in ("loss", "grad_norm", "coarse_loss", "fine_loss", "attention_entropy"):
        for one, other in zip(whole, cut, strict=True):
            assert (name in one) == (name in other)
            assert other.get(name, 0) == pytest.approx(one.get(name, 0), rel=1e-4), name


def scores_of(workshop: Workshop, run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    capsys.readouterr()
    arguments = ["evaluate", "vlm", "--run", str(run), "--val", str(workshop.folder / "held_out"), "--json", *more]
    assert main(arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["trained"]
    return found


def test_three_modes_score_the_same_words_and_the_loss_is_the_held_out_one(
    workshop: Workshop, stage1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = scores_of(workshop, stage1, capsys)
    metrics, rows = found["metrics"], found["rows"]
    words = sum(row["num_tokens"] for row in rows)
    assert metrics["num_tokens"] == words
    assert metrics["num_samples"] == len(rows) == 6
    last = read_metrics(stage1 / "metrics.jsonl")[-1]
    assert metrics["ce_coarse_fine"] == pytest.approx(last["validation_loss"], rel=1e-5)
    for name in ("coarse_only", "coarse_fine", "autoregressive"):
        assert metrics[f"ce_{name}"] == pytest.approx(sum(row[name] for row in rows) / words, rel=1e-6)
    long = [row for row in rows if row["num_frames"] >= 8]
    assert metrics["num_gap_samples"] == len(long) == 2
    fine, stepwise = (sum(row[name] for row in long) for name in ("coarse_fine", "autoregressive"))
    assert metrics["gap"] == pytest.approx((stepwise - fine) / fine, abs=1e-7)
    (single,) = [row for row in rows if row["num_frames"] == 1]
    assert single["coarse_fine"] == pytest.approx(single["autoregressive"], rel=1e-5)


def test_the_modes_are_chosen(workshop: Workshop, stage1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = scores_of(workshop, stage1, capsys, "--mode", "coarse_only,autoregressive")
    assert found["protocol"]["modes"] == ["coarse_only", "autoregressive"]
    assert "ce_coarse_fine" not in found["metrics"]
    assert "gap" not in found["metrics"]
    arguments = ["evaluate", "vlm", "--run", str(stage1), "--val", str(workshop.folder / "held_out"), "--mode", "fine"]
    assert main(arguments) == 1
    assert "fine" in capsys.readouterr().err


def test_baselines_are_scored_on_the_words_that_the_right_frames_are(
    workshop: Workshop, stage1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, three = (scores_of(workshop, stage1, capsys, *size) for size in (("--data.length_budget", "{frames: 9}"), ()))
    for row, other in zip(one["rows"], three["rows"], strict=True):
        assert row["key"] == other["key"]
        assert row["text_alone"] == pytest.approx(other["text_alone"], rel=1e-5)
        assert row["num_behind"] == row["num_tokens"] - 1  # nothing precedes the first word of text alone
        assert row["right_behind"] < row["coarse_fine"]
    metrics, rows = three["metrics"], [row for row in three["rows"] if row["other_frames"] is not None]
    assert len(rows) == 6
    difference = sum(row["other_frames"] - row["coarse_fine"] for row in rows)
    assert metrics["gain_other_frames"] == pytest.approx(
        difference / sum(row["other_frames"] for row in rows), rel=1e-5
    )
    right, wrong = (sum(row[name] for row in rows) for name in ("right_behind", "text_alone"))
    assert metrics["gain_text_alone"] == pytest.approx((wrong - right) / wrong, rel=1e-5)


def test_a_run_measures_at_its_checkpoints_what_evaluate_measures(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--val", f"video={workshop.folder / 'held_out'}", "--evaluate", "vlm", "--train.best_metric", "vlm_gap"]
    assert train(workshop, tmp_path / "run", *more, train={"steps": 2}) == 0
    row = read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    found = scores_of(workshop, tmp_path / "run", capsys)["metrics"]
    assert row["vlm_gap"] == pytest.approx(found["gap"], abs=1e-6)
    assert row["vlm_ce_autoregressive"] == pytest.approx(found["ce_autoregressive"], rel=1e-5)


def test_a_run_on_text_alone_or_on_videos_alone_trains_and_is_scored(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, frames in (("text", False), ("video", True)):
        recipe = workshop.recipe(
            2, data={"mix": None, "length_budget": None, "global_batch_size": 4}, train={"steps": 2}
        )
        out, data = tmp_path / name, workshop.folder / name
        assert main(["train", "--recipe", str(recipe), "--data", str(data), "--out", str(out)]) == 0
        capsys.readouterr()
        assert main(["evaluate", "vlm", "--run", str(out), "--val", str(data), "--json"]) == 0
        metrics = json.loads(capsys.readouterr().out)["trained"]["metrics"]
        assert ("gain_other_frames" in metrics) is ("ce_other_frames" in metrics) is frames


def test_chats_of_no_one_one_64_and_65_frames_are_trained_on(workshop: Workshop, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [0, 1, 64, 65])
    build_chats(chats, tmp_path / "set", chat_config(workshop.folder / "tokenizer"))
    data = {"mix": None, "length_budget": {"frames": 128, "tokens": 2048}}
    recipe = workshop.recipe(1, data=data, train={"steps": 3})
    assert (
        main(["train", "--recipe", str(recipe), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run")]) == 0
    )
    assert all(row["num_invalid"] == 0 for row in read_metrics(tmp_path / "run/metrics.jsonl"))
