"""The foveated VLM's objective: which words count, what a batch moves, and what is said of a step."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.batch.batch import Batch
from tests.tiny_vlm import random_batch, tiny_llm, tiny_vlm
from tools.systems.fvlm import FoveatedObjective, FoveatedObjectiveConfig
from training.clock import StepClock
from training.config import TrainConfig
from training.diagnosis import Diagnosis
from training.learner import Learner
from training.optim import OptimConfig

CPU = torch.device("cpu")


def objective(**config: Any) -> FoveatedObjective:
    return FoveatedObjective(tiny_vlm(), FoveatedObjectiveConfig(**config))


def text(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if not name.startswith("frames")}


@pytest.mark.parametrize(("scored", "count"), [("text", [5, 9]), ("answer", [3, 5])])
def test_stage_1_trains_on_all_words_and_the_others_on_answers(scored: str, count: list[int]) -> None:
    batch = random_batch([(3, 5), (1, 9)])
    found, all_costs = objective(scored=scored)(batch), objective(scored="text").model
    assert found["weight"].tolist() == count
    names = ("frames", "frames_length", "tokens", "tokens_length")
    costs = all_costs(*(batch[name] for name in names))
    kept = torch.ones_like(costs) if scored == "text" else batch["answer"]
    expected = torch.stack([(costs[row] * kept[row]).sum() / count[row] for row in range(2)])
    torch.testing.assert_close(found["loss"], expected, rtol=1e-5, atol=1e-6)


def learner(made: FoveatedObjective, chunk_size: int | None = None, **optim: Any) -> Learner:
    from pipeline.world import World

    config = TrainConfig(device="cpu", chunk_size=chunk_size)
    return Learner(made, config, OptimConfig(lr=1e-3, min_lr=0.0, **optim), World(), CPU)


def test_a_text_batch_moves_the_language_model_alone_and_shrinks_nothing() -> None:
    made = objective(scored="text")
    one = learner(made, weight_decay=0.5)
    one.step(Batch(random_batch([(3, 5), (1, 9)])), 1e-3, StepClock(CPU))  # so that there is momentum
    before = {name: value.clone() for name, value in made.named_parameters()}
    one.step(Batch(text(random_batch([(0, 5), (0, 9)]))), 1e-3, StepClock(CPU))
    moved = {name for name, value in made.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("model.llm.") for name in moved)


@pytest.mark.parametrize("mode", ["coarse_fine", "coarse_only"])
def test_a_video_batch_moves_all_that_is_not_frozen(mode: str) -> None:
    made = objective(scored="text", mode=mode)
    before = {name: value.clone() for name, value in made.named_parameters()}
    learner(made).step(Batch(random_batch([(3, 5), (4, 9)])), 1e-2, StepClock(CPU))
    still = {name for name, value in made.named_parameters() if torch.equal(value, before[name])}
    expected = {"model.dinov2.embeddings.mask_token"}
    if mode == "coarse_only":
        expected |= {"model.q_init", "model.llm_to_query.weight", "model.llm_to_query.bias"}
    assert still == expected


@pytest.mark.parametrize("part", ["dinov2", "llm"])
def test_a_frozen_part_stays_as_it_is(part: str) -> None:
    made = objective(scored="text", **{f"train_{part}": False})
    before = {name: value.clone() for name, value in made.named_parameters()}
    learner(made).step(Batch(random_batch([(3, 5), (4, 9)])), 1e-2, StepClock(CPU))
    moved = {name.split(".")[1] for name, value in made.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"q_static", "q_init", "query_proj", "dino_to_llm", "llm_to_query", "dinov2", "llm"} - {part}


def test_a_dinov2_without_a_mask_token_needs_none_frozen() -> None:
    from model.foveated import FoveatedConfig, FoveatedVLM
    from tests.tiny_vlm import tiny_dino

    config = FoveatedConfig(query_dim=24, visual_scale="auto")
    model = FoveatedVLM(tiny_dino(use_mask_token=False), tiny_llm(), config)
    assert FoveatedObjective(model, FoveatedObjectiveConfig()).frozen == ()


def test_the_loss_is_a_mean_over_words_however_a_batch_is_cut() -> None:
    batch = random_batch([(3, 5), (1, 9), (6, 2), (2, 30)])
    found, norms = [], []
    for size in (None, 3, 1):
        result = learner(objective(scored="text"), size).step(Batch(batch), 1e-3, StepClock(CPU))
        found.append(float(result.scores["loss"]))
        norms.append(float(result.scores["grad_norm"]))
    scores = objective(scored="text")(batch)
    by_hand = float((scores["loss"] * scores["weight"]).sum().detach() / scores["weight"].sum())
    assert found == pytest.approx([by_hand] * 3, rel=1e-5)
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


def test_diagnosing_changes_nothing_and_draws_nothing() -> None:
    made = objective(scored="text")
    one, state = learner(made), torch.get_rng_state()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    diagnosis = Diagnosis(one)
    diagnosis.look(Batch(random_batch([(3, 5), (1, 9)])))
    row = diagnosis.row({"step": 1})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert made.training
    assert all(parameter.grad is None for parameter in made.parameters())
    scores = made(random_batch([(3, 5), (1, 9)]))
    assert row["fine_loss"] == pytest.approx(float((scores["loss"] * scores["weight"]).sum().detach()) / 14, rel=1e-5)
    assert row["query_std"] == pytest.approx(float(made.model.q_static.detach().std()))
    assert diagnosis.row({"step": 2}) == {}


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"coarse_loss": 2.0, "fine_loss": 2.0001}, "what the queries ask makes no difference"),
        ({"query_std": 0.02}, "q_static has a standard deviation of 0.020"),
        ({"query_std": 1.3}, "outside [0.8, 1.2]"),
        ({"query_difference": 0.01}, "differ by 0.010 behind W_q"),
        ({"grad_norm": 11.0}, "the gradient's norm is 11.0"),
    ],
)
def test_each_thing_that_is_wrong_is_said_once_until_it_is_right_again(
    numbers: dict[str, float], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    fine = {"coarse_loss": 2.0, "fine_loss": 1.5, "query_std": 1.0, "query_difference": 0.64, "grad_norm": 3.0}
    diagnosis = Diagnosis(learner(objective()))
    with caplog.at_level(logging.WARNING):
        for step, row in enumerate([fine, fine | numbers, fine | numbers, fine, fine | numbers]):
            diagnosis.row({**row, "step": step})
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["step 1", "step 4"]
    assert all(said in record.getMessage() for record in caplog.records)
