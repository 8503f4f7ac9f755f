import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from transformers.utils import logging

from model.teacher import (
    TeacherConfig,
    VideoMAETeacher,
    load_videomae_teacher,
    random_projection,
    teacher_width,
)
from shards.builder import BuildConfig, Item, Source, Teacher, ViewSpec
from shards.builder.plan import make_plan

CLIP_SHAPE = (4, 32, 32, 3)
NUM_TOKENS, HIDDEN = 2 * 4, 24


def make_config(**changes: object) -> VideoMAEConfig:
    return VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        tubelet_size=2,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        **changes,
    )


def save_backbone(folder: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    VideoMAEModel(make_config(**changes)).save_pretrained(folder)
    return folder


def load(folder: Path, device: str = "cpu", **teacher: Any) -> VideoMAETeacher:
    return load_videomae_teacher(TeacherConfig(id=str(folder), **teacher), device)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("teacher") / "tiny_videomae")


def clips(count: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, *CLIP_SHAPE), np.uint8)


def test_targets_are_the_projected_last_hidden_state_of_normalised_clips(backbone: Path) -> None:
    teacher = load(backbone, projection_dim=6)
    got = teacher(clips())
    assert (got.shape, got.dtype) == ((3, NUM_TOKENS, 6), np.float16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((torch.from_numpy(clips()) / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        tokens = VideoMAEModel.from_pretrained(backbone).eval()(pixel_values=pixels).last_hidden_state
    expected = tokens.numpy() @ random_projection(HIDDEN, 6, 0)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


def test_without_a_projection_the_teacher_keeps_its_width(backbone: Path) -> None:
    teacher = load(backbone, projection_dim=None)
    assert teacher.output_shape == (NUM_TOKENS, HIDDEN)
    assert teacher(clips()).shape == (3, NUM_TOKENS, HIDDEN)
    assert teacher.files == {}
    assert teacher.provenance["projection"] is None


def test_a_token_is_affected_most_by_its_own_tubelet(backbone: Path) -> None:
    teacher = load(backbone, projection_dim=None)
    plain = np.full((1, *CLIP_SHAPE), 128, np.uint8)
    for time, row, column in [(0, 0, 1), (1, 1, 0)]:
        changed = plain.copy()
        changed[:, 2 * time : 2 * time + 2, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 255
        difference = np.abs(teacher(changed).astype(np.float32) - teacher(plain)).sum(-1)[0]
        assert difference.argmax() == time * 4 + row * 2 + column


def test_the_first_token_is_dropped_only_where_there_is_one_too_many(backbone: Path) -> None:
    teacher = load(backbone, projection_dim=None)
    plain = teacher(clips())

    def with_cls(module: object, args: object, output: object) -> object:
        tokens = output.last_hidden_state  # type: ignore[attr-defined]
        output.last_hidden_state = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)  # type: ignore[attr-defined]
        return output

    teacher.backbone.register_forward_hook(with_cls)
    assert np.array_equal(teacher(clips()), plain)


def test_the_projection_is_saved_with_the_digest_that_provenance_names(backbone: Path) -> None:
    import hashlib

    teacher = load(backbone, projection_dim=6, projection_seed=5)
    saved = np.load(io.BytesIO(teacher.files["projection.npy"]), allow_pickle=False)
    assert np.array_equal(saved, random_projection(HIDDEN, 6, 5))
    projection = teacher.provenance["projection"]
    assert projection == {"seed": 5, "shape": [HIDDEN, 6], "sha256": hashlib.sha256(saved.tobytes()).hexdigest()}


def test_provenance_names_the_weights_and_no_place_on_this_machine(backbone: Path, tmp_path: Path) -> None:
    about = load(backbone, projection_dim=6).provenance
    assert about["id"] == "tiny_videomae"
    assert str(backbone.parent) not in json.dumps(about)
    moved = save_backbone(tmp_path / "moved" / "tiny_videomae")
    assert load(moved, projection_dim=6).provenance == about
    with torch.no_grad():
        other = VideoMAEModel.from_pretrained(backbone)
        next(other.parameters()).add_(1)
    other.save_pretrained(tmp_path / "other")
    changed = load(tmp_path / "other", projection_dim=6).provenance
    assert changed["weights_sha256"] != about["weights_sha256"]


@pytest.mark.parametrize("pooling", [True, False])
def test_provenance_tells_whether_the_last_norm_is_there(tmp_path: Path, pooling: bool) -> None:
    teacher = load(save_backbone(tmp_path / "t", use_mean_pooling=pooling))
    assert teacher.provenance["layer_norm"] is not pooling


def test_a_value_beyond_float16_comes_out_infinite(tmp_path: Path) -> None:
    model = VideoMAEModel.from_pretrained(save_backbone(tmp_path / "t", use_mean_pooling=False))
    assert model.layernorm is not None
    with torch.no_grad():
        model.layernorm.bias.fill_(1e5)
    model.save_pretrained(tmp_path / "t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(load(tmp_path / "t", projection_dim=None)(clips())).any()


def test_a_teacher_cannot_be_trained(backbone: Path) -> None:
    teacher = load(backbone)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.backbone.training


def test_clips_of_another_shape_are_refused(backbone: Path) -> None:
    teacher = load(backbone)
    with pytest.raises(ValueError, match=r"takes clips \[4, 32, 32, 3\].*got \[4, 48, 48, 3\]"):
        teacher(np.zeros((1, 4, 48, 48, 3), np.uint8))


def test_a_checkpoint_that_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot load the teacher .*--teacher none") as caught:
        load(tmp_path / "empty")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        load(tmp_path, dtype="int8")


def test_the_builder_accepts_it_as_a_teacher(backbone: Path) -> None:
    teacher: Teacher = load(backbone, projection_dim=6)
    source = Source(kind="folder", root=Path(), items=(Item(id="a", path="a.webm"),))
    plan = make_plan(source, ViewSpec(num_frames=4, size=32), BuildConfig(), split="train", teacher=teacher)
    assert plan.schema["target"].shape == (4, 2, 6)
    json.dumps(plan.fingerprint)


def pretrained(folder: Path) -> Path:
    """A checkpoint as pretraining leaves it: a decoder above the encoder, and the encoder's last norm."""
    torch.manual_seed(0)
    decoder = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    }
    VideoMAEForPreTraining(make_config(use_mean_pooling=False, **decoder)).save_pretrained(folder)
    return folder


def finetuned(folder: Path) -> Path:
    """A checkpoint as finetuning leaves it: a classifier above the encoder, and a norm of the pooled tokens."""
    torch.manual_seed(0)
    VideoMAEForVideoClassification(make_config(num_labels=3)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [pretrained, finetuned])
def test_a_head_above_the_encoder_is_left_out_without_a_word(
    make: Callable[[Path], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "teacher")
    capfd.readouterr()
    teacher = load(folder, projection_dim=None)
    assert capfd.readouterr() == ("", "")
    assert teacher.provenance["layer_norm"] is (make is pretrained)
    assert teacher(clips()).shape == (3, NUM_TOKENS, HIDDEN)


def test_loading_leaves_transformers_as_talkative_as_it_was(backbone: Path) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(backbone)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = pretrained(tmp_path) / "model.safetensors"
    whole = load_file(file)
    capfd.readouterr()
    name = "videomae.encoder.layer.1.intermediate.dense.weight"
    for wrong, said in (
        ({key: value for key, value in whole.items() if key != name}, "missing: encoder.layer.1.intermediate"),
        (whole | {"videomae.adapter.weight": torch.zeros(3)}, "unexpected: videomae.adapter.weight"),
        (whole | {name: torch.zeros(7, HIDDEN)}, "of another shape: encoder.layer.1.intermediate"),
        ({"classifier.weight": torch.zeros(3)}, "missing: .* and 3[0-9] more"),
    ):
        save_file(wrong, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"the weights of the teacher .* do not fit.*{said}") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_width_of_the_targets_is_known_from_the_configuration_alone(tmp_path: Path) -> None:
    folder = pretrained(tmp_path)
    (folder / "model.safetensors").unlink()
    assert teacher_width(TeacherConfig(id=str(folder), projection_dim=None)) == HIDDEN
    assert teacher_width(TeacherConfig(id="nowhere", projection_dim=7)) == 7
    with pytest.raises(ValueError, match="cannot load the teacher 'nowhere/at-all'"):
        teacher_width(TeacherConfig(id="nowhere/at-all", projection_dim=None))


@pytest.mark.parametrize("wrong", [{"id": ""}, {"projection_dim": 0}, {"projection_seed": -1}, {"dtype": "int8"}])
def test_an_impossible_teacher_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="teacher"):
        TeacherConfig(**wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu_agrees_with_the_cpu(backbone: Path) -> None:
    on_cpu = load(backbone, projection_dim=6)(clips())
    on_gpu = load(backbone, "cuda:0", projection_dim=6)(clips())
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=2e-2, atol=2e-2)
