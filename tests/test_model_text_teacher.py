"""CLIP's text encoder as a teacher, and which teacher a checkpoint is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextModelWithProjection, Dinov2Config, Dinov2Model

from model.teacher import TeacherConfig, VideoMAETeacher
from model.teachers import load_teacher, teacher_sees
from model.text_teacher import CLIPTextTeacher
from tests.clip_text import MAX_TOKENS, TEXT, WIDTH, save_text_encoder, save_tokenizer, save_whole_clip
from tests.test_model_teacher import save_backbone

CAPTIONS = ["a dog jumps over the lazy fox", "a cat runs", "pushing something from left to right"]


def config(folder: Path, **changes: object) -> TeacherConfig:
    return TeacherConfig(**{"id": str(folder), "projection_dim": None, **changes})  # type: ignore[arg-type]


def load(folder: Path) -> CLIPTextTeacher:
    teacher = load_teacher(config(folder), "cpu")
    assert isinstance(teacher, CLIPTextTeacher)
    return teacher


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_encoder(tmp_path_factory.mktemp("clip") / "tiny_clip")


def test_embeddings_are_the_models_text_embeds_and_two_captions_differ(encoder: Path) -> None:
    got = load(encoder)(CAPTIONS)
    assert (got.shape, got.dtype) == ((3, WIDTH), np.float16)
    model, tokenizer = CLIPTextModelWithProjection.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    for row, caption in zip(got, CAPTIONS, strict=True):
        with torch.no_grad():
            expected = model(**tokenizer([caption], return_tensors="pt")).text_embeds[0]
        np.testing.assert_allclose(row, expected.numpy(), rtol=2e-3, atol=2e-3)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(got[one].astype(np.float32) - got[other]).max() > 0.05


def test_an_embedding_does_not_depend_on_the_length_of_its_neighbours(encoder: Path) -> None:
    teacher, shapes = load(encoder), list[tuple[int, ...]]()

    def look(module: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    teacher.backbone.register_forward_pre_hook(look, with_kwargs=True)
    assert np.array_equal(teacher(["a cat runs", "a"])[0], teacher(["a cat runs", CAPTIONS[0]])[0])
    assert shapes == [(2, MAX_TOKENS)] * 2  # bits are equal only where shapes are


def test_a_caption_longer_than_the_model_takes_is_cut_and_still_ends(encoder: Path) -> None:
    teacher = load(encoder)
    long = " ".join(["dog"] * 3 * MAX_TOKENS)
    assert np.array_equal(teacher([long]), teacher([" ".join(["dog"] * (MAX_TOKENS - 2))]))
    assert not np.array_equal(teacher([long]), teacher(["a cat " + long]))


def test_the_text_encoder_of_a_whole_clip_is_taken_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_whole_clip(tmp_path / "clip")
    capfd.readouterr()
    got = load(folder)(CAPTIONS)
    assert capfd.readouterr() == ("", "")
    assert got.shape == (3, WIDTH)
    assert not np.array_equal(got[0], got[1])


def test_provenance_names_weights_and_tokenizer_and_no_place_on_this_machine(encoder: Path, tmp_path: Path) -> None:
    about = load(encoder).provenance
    assert (about["id"], about["output"], about["max_tokens"]) == ("tiny_clip", "text_embeds", MAX_TOKENS)
    assert str(encoder.parent) not in json.dumps(about)
    assert load(save_text_encoder(tmp_path / "moved" / "tiny_clip")).provenance == about
    weights = load(save_text_encoder(tmp_path / "weights" / "tiny_clip", seed=1)).provenance
    assert {name for name in about if about[name] != weights[name]} == {"weights_sha256"}
    save_tokenizer(save_text_encoder(tmp_path / "words" / "tiny_clip"), more=2)
    words = load(tmp_path / "words" / "tiny_clip").provenance
    assert {name for name in about if about[name] != words[name]} == {"tokenizer_sha256"}


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    save_tokenizer(save_text_encoder(tmp_path / "large"), more=TEXT["vocab_size"])
    with pytest.raises(ValueError, match="knows 51 tokens, its model 32"):
        load(tmp_path / "large")
    save_tokenizer(save_text_encoder(tmp_path / "endless"), ends=False)
    with pytest.raises(ValueError, match=r"ends no text with token 3.*all captions would have the same"):
        load(tmp_path / "endless")


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


class Hostile:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('was_here').touch()",)


def with_code(folder: Path) -> None:
    torch.save({"weights": Hostile()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def of_other_weights(folder: Path) -> None:
    save_file({"text_model.nothing": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("config.json"), "cannot load the teacher"),
        (without("tokenizer.json"), "cannot load the teacher"),
        (with_code, "cannot load the teacher"),
        (of_other_weights, "do not fit its configuration; missing: .*unexpected: text_model.nothing"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_one_clear_line(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(save_text_encoder(tmp_path / "clip"))
    with pytest.raises(ValueError, match=said) as caught:
        load(tmp_path / "clip")
    assert "\n" not in str(caught.value)


def test_weights_that_torch_saved_are_read_as_tensors_and_code_among_them_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_backbone(tmp_path / "videomae")
    weights = load_file(folder / "model.safetensors")
    expected = load_teacher(config(folder), "cpu")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = load_teacher(config(folder), "cpu")
    assert found.provenance["weights_sha256"] == expected.provenance["weights_sha256"]
    torch.save(weights | {"more": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load the teacher") as caught:
        load_teacher(config(folder), "cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was_here").exists()


def test_which_teacher_it_is_follows_from_the_checkpoint(encoder: Path, tmp_path: Path) -> None:
    videomae = save_backbone(tmp_path / "videomae")
    assert isinstance(load_teacher(config(videomae), "cpu"), VideoMAETeacher)
    assert (teacher_sees(config(videomae)), teacher_sees(config(encoder))) == ("clip", "text")
    assert teacher_sees(config(save_whole_clip(tmp_path / "clip"))) == "text"
    Dinov2Model(Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=3)).save_pretrained(
        tmp_path / "dino"
    )
    with pytest.raises(ValueError, match="of the kind 'dinov2', which is not one of videomae, clip, clip_text_model"):
        teacher_sees(config(tmp_path / "dino"))
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match=r"cannot load the teacher.*VideoMAE of any size") as caught:
            teacher_sees(config(place))
        assert "\n" not in str(caught.value)


def test_an_embedding_is_not_projected(encoder: Path) -> None:
    with pytest.raises(ValueError, match="kept as they are, got a projection to 8; leave --projection-dim out"):
        load_teacher(config(encoder, projection_dim=8), "cpu")
