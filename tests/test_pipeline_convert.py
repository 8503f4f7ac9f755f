"""What is done to a field on a device: one kernel, once it is compiled, and the values of eager operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import metrics

from pipeline.accelerator import accelerator_of
from pipeline.batch.batch import Batch
from pipeline.convert import Converter
from pipeline.world import World
from shards.format.pixels import IMAGENET
from shards.format.schema import Field
from tests.datasets import DIM, FRAMES, PATCH, SIZE, make_dataset
from tests.marks import needs_torch_compile
from tools.loaders import TrainingLoader
from tools.recipe import load_recipe

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
CODEC = {"clip": "yuv420", "target": "int8"}
FIELDS = {
    "yuv420 to pixels": Field(name="clip", dtype="|u1", shape=(9, 2, 8, 12, 3), layout="tubes", codec="yuv420"),
    "yuv420 to u8": Field(name="more", dtype="|u1", shape=(9, 2, 8, 12, 3), layout="tubes", codec="yuv420"),
    "int8 to f16": Field(name="target", dtype="<f2", shape=(9, 3, 40), layout="tubes", codec="int8"),
    "int8 to f32": Field(name="target", dtype="<f4", shape=(9, 3, 40), layout="tubes", codec="int8"),
}
# The largest product of a pixel, 4.4, is rounded before the shift is added, or with it; then the sum, at most 2.7, is.
LAST_BITS = 2.0**-22 + 2.0**-22


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    """Nothing compiled, nothing counted."""
    torch._dynamo.reset()
    metrics.reset()
    yield
    torch._dynamo.reset()


def converters(device: str, dtype: torch.dtype = torch.float32) -> tuple[Converter, Converter]:
    """One that is eager, and one that is compiled; they normalise the field `clip`."""
    eager, compiled = (
        Converter(torch.device(device), dtype, {"clip": IMAGENET}, compiled=compiled) for compiled in (False, True)
    )
    return eager, compiled


def batch_of(field: Field, stored: torch.Tensor) -> Batch:
    return Batch({field.name: stored}, epoch=0, number=0, coded={field.name: field})


def stored_like(field: Field, device: str, rows: int) -> torch.Tensor:
    """Any bytes; as scales, finite numbers."""
    generator = torch.Generator().manual_seed(rows)
    stored = torch.randint(256, (rows, *field.as_stored.fixed_shape), dtype=torch.uint8, generator=generator)
    if field.codec == "int8":
        stored[..., 3] = 58  # the byte of the exponent: about 1e-3
    return stored.to(device)


@needs_torch_compile
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FIELDS)
def test_a_coded_field_is_one_kernel_from_its_bytes_to_what_the_model_takes(name: str, device: str) -> None:
    field = FIELDS[name]
    eager, compiled = converters(device)
    stored = stored_like(field, device, 4)
    found = compiled(batch_of(field, stored))
    assert metrics.generated_kernel_count == 1
    assert not found.coded
    expected = eager(batch_of(field, stored))
    assert found[field.name].dtype == expected[field.name].dtype
    assert found[field.name].shape == (4, *field.fixed_shape)
    if field.name == "clip":
        assert (found["clip"] - expected["clip"]).abs().max() < LAST_BITS
        assert len(set(found["clip"].flatten().tolist())) > 500
    else:
        assert torch.equal(found[field.name], expected[field.name])


@needs_torch_compile
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_that_no_codec_has_stored_are_normalised_in_one_kernel(device: str, dtype: torch.dtype) -> None:
    eager, compiled = converters(device, dtype)
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2, 3).reshape(2, 8, 2, 16, 3).to(device)
    found = compiled(Batch({"clip": pixels}, epoch=0, number=0))["clip"]
    assert metrics.generated_kernel_count == 1
    expected = eager(Batch({"clip": pixels}, epoch=0, number=0))["clip"]
    assert found.dtype == expected.dtype == dtype
    assert (found.float() - expected.float()).abs().max() < (LAST_BITS if dtype == torch.float32 else 2.0**-6)


@needs_torch_compile
def test_batches_of_other_lengths_are_converted_by_the_same_kernels() -> None:
    field = FIELDS["yuv420 to pixels"]
    eager, compiled = converters("cpu")
    for rows in (4, 7, 3, 6, 2):
        stored = stored_like(field, "cpu", rows)
        found, expected = (convert(batch_of(field, stored))["clip"] for convert in (compiled, eager))
        assert (found - expected).abs().max() < LAST_BITS
    assert metrics.generated_kernel_count == 2  # of the first length, and of any other


@needs_torch_compile
def test_training_converts_as_it_compiles_its_step(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, codec=CODEC)
    sizes = {"num_frames": FRAMES, "image_size": SIZE, "patch": PATCH, "target_dim": DIM}
    values = {f"model.{name}": value for name, value in sizes.items()} | {"data.global_batch_size": 6}

    def batches(mode: str) -> list[dict[str, Any]]:
        flags = [f"--{name}={value}" for name, value in {**values, "train.compile": mode}.items()]
        recipe = load_recipe("demo", flags)
        loader = TrainingLoader(recipe, {"": dataset}, accelerator_of("twin"), World())
        with closing(loader):
            return [{name: tensor.clone() for name, tensor in batch.items()} for batch in loader]

    for mode in ("null", "auto"):  # the twin is a CPU
        eager = batches(mode)
        assert metrics.generated_kernel_count == 0
    compiled = batches("default")
    assert metrics.generated_kernel_count == 2  # one a field
    for mine, theirs in zip(compiled, eager, strict=True):
        assert torch.equal(mine["target"], theirs["target"])
        assert (mine["clip"] - theirs["clip"]).abs().max() < LAST_BITS
