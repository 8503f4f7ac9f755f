"""The SAM3 teacher: one level of its vision encoder's pyramid, whatever the checkpoint's layout and precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import Sam3Model

from model.pretrained import weights_sha256
from model.sam3_teacher import Sam3TeacherConfig
from model.teacher import TeacherConfig
from model.teachers import load_teacher as load_any
from model.teachers import teacher_sees
from shards.builder import Teacher
from tests.sav_sets import CHANNELS, SIDE, load_teacher, write_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "tiny_sam3")


def pictures(count: int = 3, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def by_transformers(folder: Path, level: int, side: int = SIDE) -> NDArray[np.float16]:
    model = Sam3Model.from_pretrained(folder, image_size=side).eval()
    pixels = (torch.from_numpy(pictures(side=side)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        features: NDArray[np.float32] = model.get_vision_features(pixel_values=pixels).fpn_hidden_states[level].numpy()
    return features.astype(np.float16)


@pytest.mark.parametrize(("level", "cells"), [(0, 32), (1, 16), (2, 8), (3, 4)])
def test_features_are_a_level_of_transformers_own_to_the_bit(folder: Path, level: int, cells: int) -> None:
    teacher = load_teacher(folder, level=level)
    made = teacher(pictures())
    assert made.dtype == np.float16
    assert made.shape == (3, *teacher.output_shape) == (3, CHANNELS, cells, cells)
    assert np.array_equal(made, by_transformers(folder, level))


@pytest.mark.parametrize("side", [56, 168])
def test_pictures_may_be_of_another_size_than_the_checkpoints(folder: Path, side: int) -> None:
    teacher = load_teacher(folder, image_size=side)
    assert teacher.output_shape == (CHANNELS, side // 28, side // 28)
    assert np.array_equal(teacher(pictures(side=side)), by_transformers(folder, 3, side))


def test_a_teacher_is_one_to_the_builder_and_says_all_that_decides_its_bits(folder: Path) -> None:
    teacher: Teacher = load_teacher(folder)
    assert (teacher.input_shape, teacher.output_dtype, dict(teacher.files)) == ((SIDE, SIDE, 3), "<f2", {})
    about = dict(teacher.provenance)
    assert about["weights_sha256"] == weights_sha256(Sam3Model.from_pretrained(folder).vision_encoder)
    assert {name: about[name] for name in ("id", "image_size", "level", "mean", "std", "dtype", "device")} == {
        "id": "tiny_sam3",
        "image_size": SIDE,
        "level": 3,
        "mean": 0.5,
        "std": 0.5,
        "dtype": "float32",
        "device": "cpu",
    }
    assert {"revision", "torch", "transformers"} <= set(about)
    json.dumps(about)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_positions_stay_in_full_precision_where_weights_do_not(folder: Path, dtype: str) -> None:
    whole, half = load_teacher(folder, image_size=168), load_teacher(folder, image_size=168, dtype=dtype)
    assert next(half.encoder.parameters()).dtype == getattr(torch, dtype)
    kept = {name: buffer for name, buffer in whole.encoder.named_buffers() if "position_ids" in name or "freq" in name}
    assert kept
    for name, buffer in half.encoder.named_buffers():
        if name in kept and buffer is not None:
            assert torch.equal(buffer, kept[name]), name
    assert half.provenance["weights_sha256"] == whole.provenance["weights_sha256"]
    made, expected = (teacher(pictures(side=168)).astype(np.float32) for teacher in (half, whole))
    assert np.abs(made - expected).max() < 0.1 * np.abs(expected).max()


def test_a_checkpoint_for_videos_gives_the_same_features(folder: Path, tmp_path: Path) -> None:
    """The layout of `facebook/sam3`: the detector's weights under a name of their own, a tracker's beside them."""
    weights = {f"detector_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights | {"tracker_model.scale": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    detector = json.loads((folder / "config.json").read_text())
    config = {"model_type": "sam3_video", "architectures": ["Sam3VideoModel"], "detector_config": detector}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert np.array_equal(load_teacher(tmp_path)(pictures()), load_teacher(folder)(pictures()))
    assert teacher_sees(TeacherConfig(id=str(tmp_path), projection_dim=None)) == "frames"


def test_the_kind_of_a_checkpoint_is_read_from_its_configuration(folder: Path) -> None:
    config = TeacherConfig(id=str(folder), projection_dim=None)
    assert teacher_sees(config) == "frames"
    assert np.array_equal(load_any(config, "cpu", SIDE)(pictures()), load_teacher(folder)(pictures()))
    with pytest.raises(ValueError, match="not projected"):
        load_any(TeacherConfig(id=str(folder)), "cpu", SIDE)


def test_a_checkpoint_whose_weights_do_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "vision_encoder" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, tmp_path / "cut" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: .*vision_encoder"):
        load_teacher(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"cannot load the teacher .*there is no such folder.*Give a SAM3 id"):
        load_teacher(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"id": ""}, "teacher.id is empty"),
        ({"image_size": 0}, "teacher.image_size is 0"),
        ({"level": 4}, "teacher.level is 4; the pyramid has the levels 0 to 3"),
        ({"dtype": "int8"}, "teacher.dtype is 'int8'; choose auto, float32"),
    ],
)
def test_values_out_of_range_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sam3TeacherConfig(**given)  # type: ignore[arg-type]


def test_pictures_of_another_size_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"takes pictures \[112, 112, 3\]"):
        load_teacher(folder)(pictures(side=56))
    with pytest.raises(ValueError, match=r"image_size is 100.* a multiple of 28"):
        load_teacher(folder, image_size=100)
