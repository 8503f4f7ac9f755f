"""What is trained of a small SAM3 in each stage, what is frozen, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.parts import lies_in
from pipeline.batch.batch import Batch
from pipeline.world import World
from tests.sam3_students import TRAINED, load_student, memory_objective, random_batch, read_all, write_student
from training.clock import StepClock
from training.config import TrainConfig
from training.learner import Learner
from training.masks_objective import ImageObjective, MaskObjective, Stage
from training.objective import declared
from training.optim import OptimConfig
from training.parts import freeze, kept_state

OUT_PROJ = ("student.memory_attention.attention.out_proj.weight",)
KINDS = ("weight", "bias")
PREFIXES = tuple(f"student.{name}" for name in TRAINED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student"))


def image_objective(folder: Path, stage: Stage, **options: Any) -> ImageObjective:
    student = load_student(folder, memory=None, **options)
    return ImageObjective(student, read_all(folder), stage=stage, feature_weight=0.1)


def image_batch(counts: list[int]) -> dict[str, Tensor]:
    batch = random_batch(counts)
    return batch | {"fpn": batch["fpn"][:, -1:]}


def step(objective: nn.Module, batch: dict[str, Tensor], *, steps: int, rate: float, **train: Any) -> list[float]:
    """The losses of some optimiser steps on one batch."""
    learner = Learner(
        objective,
        TrainConfig(device="cpu", precision="fp32", compile=None, **train),
        OptimConfig(lr=rate, weight_decay=0.01, clip_grad_norm=1.0),
        World(),
        torch.device("cpu"),
    )
    clock = StepClock(learner.accelerator)
    return [float(learner.step(Batch(batch), rate, clock).scores["loss"]) for _ in range(steps)]


def gradients(objective: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor | None]:
    objective.zero_grad(set_to_none=True)
    objective(batch)["loss"].sum().backward()
    return {name: parameter.grad for name, parameter in objective.named_parameters()}


def test_behind_one_step_every_gradient_of_the_memory_is_there_and_no_other(folder: Path) -> None:
    objective, batch = memory_objective(folder), random_batch([3, 1])
    step(objective, batch, steps=1, rate=1e-3)
    found = gradients(objective, batch)
    parts = declared(objective)
    assert parts.trainable == PREFIXES
    assert {name for name in found if not parts.is_frozen(name)} == {n for n in found if lies_in(n, PREFIXES)}
    for name, gradient in found.items():
        if parts.is_frozen(name):
            assert gradient is None, name
        elif name.endswith("k_proj.bias"):  # softmax takes away what is the same for all keys
            assert gradient is not None, name
        else:
            assert gradient is not None, name
            assert bool((gradient != 0).any()), name


def test_with_other_prefixes_other_parts_are_trained(folder: Path) -> None:
    prefixes = (*TRAINED, "sam.mask_decoder.mask_embedder")
    objective = MaskObjective(load_student(folder), read_all(folder), trainable=prefixes, memory="context")
    step(objective, random_batch([2, 1]), steps=1, rate=1e-3)
    found = gradients(objective, random_batch([2, 1]))
    wanted = tuple(f"student.{prefix}" for prefix in prefixes)
    assert {name for name, gradient in found.items() if gradient is not None} == {
        n for n in found if lies_in(n, wanted)
    }
    assert set(kept_state(objective, declared(objective))) == {name for name in found if lies_in(name, wanted)}


def test_before_the_first_step_a_memory_moves_nothing_and_a_constant_one_is_no_other(folder: Path) -> None:
    batch = random_batch([3, 0])
    right = memory_objective(folder).eval()
    image = {name: value for name, value in batch.items() if name != "fpn"}
    constant = MaskObjective(load_student(folder), read_all(folder), trainable=TRAINED, memory="constant").eval()
    with torch.no_grad():
        assert torch.equal(right(batch)["loss"], right(image)["loss"])
        for objective in (right, constant):
            attention = objective.student.memory_attention
            assert attention is not None
            torch.manual_seed(0)
            nn.init.normal_(attention.attention.out_proj.weight)
        other = batch | {"fpn": batch["fpn"].flip(0)}
        assert not torch.equal(right(batch)["loss"], right(other)["loss"])
        assert torch.equal(constant(batch)["loss"], constant(other)["loss"])
        assert not torch.equal(constant(batch)["loss"], right(batch)["loss"])


def test_frozen_parts_drop_nothing_in_training(folder: Path) -> None:
    objective, batch = memory_objective(folder), random_batch([3, 1])
    assert any(isinstance(part, nn.Dropout) and part.p > 0 for part in objective.modules())
    freeze(objective, declared(objective))
    assert objective.training
    first, second = objective(batch), objective(batch)
    assert all(torch.equal(first[name], second[name]) for name in first)
    alive = image_objective(folder, "outputs")  # where these parts are trained, they do
    freeze(alive, declared(alive))
    assert not torch.equal(alive(image_batch([3, 1]))["loss"], alive(image_batch([3, 1]))["loss"])


@pytest.mark.parametrize("counts", [[3, 1], [0, 0]], ids=["objects", "no object"])
def test_every_batch_reaches_every_part_that_is_trained(folder: Path, counts: list[int]) -> None:
    objectives: list[tuple[nn.Module, dict[str, Tensor]]] = [
        (memory_objective(folder), random_batch(counts)),
        (image_objective(folder, "features"), image_batch(counts)),
        (image_objective(folder, "outputs", iou_head=True), image_batch(counts)),
        (image_objective(folder, "outputs"), image_batch(counts)),
    ]
    for objective, batch in objectives:
        parts = declared(objective)
        freeze(objective, parts)
        for name, gradient in gradients(objective, batch).items():
            assert (gradient is None) == parts.is_frozen(name), name


def test_the_first_stage_trains_what_level_3_depends_on_and_the_second_all_that_is_scored(folder: Path) -> None:
    found = {}
    for stage in ("features", "outputs"):
        parts = declared(image_objective(folder, stage))
        names = [name.removeprefix("student.sam.") for name, _ in image_objective(folder, stage).named_parameters()]
        found[stage] = {name for name in names if not parts.is_frozen(f"student.sam.{name}")}
        assert parts.trainable is None  # checkpoints hold all of it
    assert all(lies_in(n, ("vision_encoder.backbone", "vision_encoder.neck.fpn_layers.3")) for n in found["features"])
    left = {name.split(".")[0] for name in names if name not in found["outputs"]}
    assert left == {"geometry_encoder", "mask_decoder", "text_encoder"}
    assert {name for name in names if name not in found["outputs"] and not name.startswith("geometry_encoder")} == {
        "mask_decoder.semantic_projection.weight",
        "mask_decoder.semantic_projection.bias",
        *(f"mask_decoder.pixel_decoder.{part}.2.{kind}" for part in ("conv_layers", "norms") for kind in KINDS),
        "text_encoder.text_projection.weight",
    }


def test_the_second_stage_adds_a_tenth_of_the_feature_loss(folder: Path) -> None:
    objective, batch = image_objective(folder, "outputs").eval(), image_batch([2, 1])
    with torch.no_grad():
        scores = objective(batch)
        alone = MaskObjective.forward(objective, {name: value for name, value in batch.items() if name != "fpn"})
        features = image_objective(folder, "features").eval()(batch)
    share = scores["feature_mse"] + scores["feature_cosine"]
    assert torch.allclose(scores["loss"], alone["loss"] + 0.1 * share, rtol=1e-5)
    assert torch.allclose(features["loss"], share, rtol=1e-5)
    with pytest.raises(ValueError, match=r"features are \[32, 4, 4\], the stored ones \[32, 5, 5\]"):
        objective(batch | {"fpn": torch.zeros(2, 1, 32, 5, 5)})


def test_a_prompt_is_read_once_where_its_reader_is_frozen_and_in_each_batch_where_it_learns(folder: Path) -> None:
    calls = []
    for objective in (memory_objective(folder), image_objective(folder, "outputs")):
        objective.student.sam.text_encoder.register_forward_hook(
            lambda module, args, kwargs, out: calls.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        fixed, prompt = objective.eval(), torch.tensor([1, 0, 1, 2, 3, 2])
        with torch.no_grad():
            texts = fixed.text(prompt)
        own = fixed.student.read(fixed.tokens, fixed.words)
        assert torch.allclose(texts.features, own.features[prompt], atol=1e-6)
        assert torch.equal(texts.mask, fixed.words[prompt])
    assert calls == [4, 4, 4]  # of the first by this test alone; six rows have four prompts


def test_a_student_learns_on_after_it_was_used_without_gradients(folder: Path) -> None:
    objective, batch = memory_objective(folder), random_batch([2, 1])
    with torch.inference_mode():  # what is kept of a first pass must be of use in training
        objective.find(batch)
    assert all(gradient is not None for gradient in (gradients(objective, batch)[name] for name in OUT_PROJ))


def test_chunks_of_one_give_the_gradients_of_the_whole_batch(folder: Path) -> None:
    batch = random_batch([3, 0, 1, 2])
    losses = [step(memory_objective(folder), batch, steps=4, rate=1e-3, chunk_size=size) for size in (None, 1)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_the_three_stages_overfit_and_a_memory_turns_a_frozen_student_to_other_objects(folder: Path) -> None:
    batch = image_batch([2, 1, 3, 1])
    features = step(image_objective(folder, "features"), batch, steps=60, rate=1e-3)
    assert features[-1] < 0.7 * features[0]
    image = image_objective(folder, "outputs")
    outputs = step(image, batch, steps=60, rate=1e-3)
    assert outputs[-1] < 0.7 * outputs[0]
    objective = memory_objective(folder)
    objective.student.sam.load_state_dict(image.student.sam.state_dict())
    others = random_batch([2, 1, 3, 1])  # each frame with the objects of the next
    others |= {name: others[name].roll(1, 0) for name in ("object_masks", "object_boxes", "num_objects")}
    remembered = step(objective, others, steps=60, rate=1e-2)
    assert remembered[-1] < 0.7 * remembered[0]
