"""Learning rate, weight decay, and the state of the optimiser."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from model.st_jepa import STJEPA
from tests.runs import MODEL
from training.config import TrainConfig
from training.optim import OptimConfig, learning_rate, make_optimizer, refuse_long_warmup
from training.state import load_optimizer_tensors, optimizer_tensors

CONFIG = OptimConfig(lr=3e-4, min_lr=3e-5, warmup=0.1)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (50, 1.5e-4), (100, 3e-4), (550, 1.65e-4), (1000, 3e-5), (2000, 3e-5)]
)
def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine_to_its_floor(step: int, expected: float) -> None:
    assert learning_rate(step, 1000, CONFIG) == pytest.approx(expected)


def test_a_warm_up_can_be_given_in_steps() -> None:
    config = OptimConfig(lr=3e-4, min_lr=3e-5, warmup=500)  # SALT: 0, the peak after 500 steps, the floor at the end
    rates = [learning_rate(step, 10_000, config) for step in (0, 250, 500, 10_000)]
    assert rates == pytest.approx([0, 1.5e-4, 3e-4, 3e-5])


@given(num_steps=st.integers(1, 5000), warmup=st.floats(0, 0.99), step=st.integers(0, 5000))
def test_the_rate_stays_between_zero_and_its_peak(num_steps: int, warmup: float, step: int) -> None:
    config = OptimConfig(lr=1e-3, min_lr=1e-5, warmup=warmup)
    assert 0 <= learning_rate(step, num_steps, config) <= config.lr
    if step >= warmup * num_steps:
        assert learning_rate(step, num_steps, config) >= config.min_lr


def test_only_matrices_and_kernels_decay() -> None:
    student = STJEPA(MODEL)
    optimizer = make_optimizer(student, OptimConfig(weight_decay=0.05))
    decay = {name: g["weight_decay"] for g in optimizer.param_groups for name in g["param_names"]}
    assert set(decay) == {name for name, _ in student.named_parameters()}
    for name, parameter in student.named_parameters():
        assert decay[name] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert decay["predictor.mask_token"] == 0.0


def test_frozen_parameters_are_not_given_to_the_optimiser() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    names = [name for g in make_optimizer(model, OptimConfig()).param_groups for name in g["param_names"]]
    assert names == ["1.weight", "1.bias"]


def test_a_model_of_matrices_alone_can_be_optimised() -> None:
    groups = make_optimizer(nn.Linear(2, 2, bias=False), OptimConfig()).param_groups
    assert [group["param_names"] for group in groups] == [["weight"]]


@pytest.mark.parametrize(("warmup", "fits"), [(0.99, True), (10, True), (11, False), (500, False)])
def test_a_warm_up_may_not_be_longer_than_the_run(warmup: float, fits: bool) -> None:
    if fits:
        refuse_long_warmup(10, OptimConfig(warmup=warmup))
        return
    with pytest.raises(ValueError, match=f"warmup is {warmup} steps, the whole run has 10"):
        refuse_long_warmup(10, OptimConfig(warmup=warmup))


def test_the_optimisers_state_goes_by_parameter_name() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    optimizers = [make_optimizer(model, OptimConfig()) for model in (first, second)]
    for step in range(4):
        for model, optimizer in zip((first, second), optimizers, strict=True):
            if step < 2 and model is second:
                continue
            model(torch.full((1, 3), step + 1.0)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        if step == 1:
            state = {key: value.clone() for key, value in optimizer_tensors(optimizers[0]).items()}
            assert {"exp_avg/weight", "exp_avg_sq/bias", "step/weight"} <= set(state)
            second.load_state_dict(first.state_dict())
            load_optimizer_tensors(optimizers[1], state)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = make_optimizer(nn.Linear(3, 2), OptimConfig())
    with pytest.raises(ValueError, match="head"):
        load_optimizer_tensors(optimizer, {"exp_avg/head": torch.zeros(2)})


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"min_lr": 1.0}, {"warmup": -0.1}, {"warmup": 1.5}, {"clip_grad_norm": 0.0}]
)
def test_an_impossible_optimiser_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"), [("cpu", "cpu"), ("cuda", "cuda:3"), ("cuda:1", "cuda:1"), ("meta", "meta")]
)
def test_each_rank_of_a_machine_trains_on_a_gpu_of_its_own(name: str, expected: str) -> None:
    assert TrainConfig(device=name).torch_device(local_rank=3) == torch.device(expected)


@pytest.mark.parametrize("name", ["steps", "log_every", "checkpoint_every", "keep_checkpoints", "chunk_size"])
def test_a_count_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        TrainConfig(**{name: 0})  # type: ignore[arg-type]
