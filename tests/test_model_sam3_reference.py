"""Students to begin with: at full size their shapes, without any weight; and one of a small CLIP, with weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, Sam3Model

from model.memory import MemoryAttention, MemoryConfig, MemoryResampler
from model.sam3 import Sam3Student, Text
from model.sam3_files import read_prompts
from model.sam3_reference import make_reference, reference_config
from tests.clip_text import save_whole_clip
from tests.sam3_runs import Workshop
from tests.sam3_students import TRAINED
from tools.cli import main
from training.masks_objective import ImageObjective, MaskObjective, Prompts

VIT_B_32 = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}


def reference(name: str, *, memory: bool = True) -> Sam3Student:
    """At full size, inside of a FakeTensorMode without weights."""
    text = CLIPTextConfig(**VIT_B_32, projection_dim=512).to_dict()
    sam = Sam3Model(reference_config(name, 504, text))
    parts = MemoryResampler(256, MemoryConfig(), num_frames=8, num_cells=324), MemoryAttention(256, MemoryConfig())
    return Sam3Student(sam, memory=parts if memory else None)


def batch(frames: int) -> dict[str, Tensor]:
    """As the recipes have it."""
    return {
        "frames": torch.zeros(2, 1, 3, 504, 504, dtype=torch.uint8),
        "fpn": torch.zeros(2, frames, 256, 18, 18, dtype=torch.float16),
        "object_masks": torch.zeros(2, 20, 144, 144, dtype=torch.uint8),
        "object_boxes": torch.zeros(2, 20, 4),
        "num_objects": torch.zeros(2, dtype=torch.long),
        "num_lost": torch.zeros(2, dtype=torch.long),
        "prompt": torch.zeros(2, dtype=torch.long),
    }


@pytest.mark.parametrize(("name", "millions"), [("reference", 107.2), ("reference-192", 90.4)])
def test_a_reference_student_has_its_parameters(name: str, millions: float) -> None:
    with FakeTensorMode():
        count = sum(parameter.numel() for parameter in reference(name).parameters())
    assert round(count / 1e6, 1) == millions


def test_at_full_size_nothing_waits_for_the_device() -> None:
    with FakeTensorMode():  # its tensors have shapes and no values: whoever wants one fails
        with pytest.raises(DataDependentOutputException):
            float(torch.zeros(()))
        prompts = Prompts(torch.zeros(4, 32, dtype=torch.long), torch.ones(4, 32, dtype=torch.bool))
        text = Text(torch.zeros(2, 32, 256), torch.ones(2, 32, dtype=torch.bool))
        student = reference("reference").eval()
        pixels = student.pixels(batch(8)["frames"][:, 0])
        found = student.video(pixels, text, batch(8)["fpn"])
        assert [list(part.shape) for part in found] == [[2, 100, 144, 144], [2, 100, 4], [2, 100], [2, 1], [2, 100]]
        assert student.see(pixels).context.shape == (2, 256, 18, 18)
        objective = MaskObjective(student, prompts, trainable=(*TRAINED, "sam.text_projection"), memory="context")
        objective.text = lambda prompt: text  # type: ignore[method-assign]  # CLIP looks at its mask, once a prompt
        scores = objective(batch(8))
        scores["loss"].sum().backward()
        assert scores["loss"].shape == (2,)
        image = ImageObjective(reference("reference", memory=False), prompts, stage="features", feature_weight=0.1)
        assert image(batch(1))["loss"].shape == (2,)


def test_a_fresh_student_has_the_text_encoder_of_a_clip(tmp_path: Path) -> None:
    clip = save_whole_clip(tmp_path / "clip")
    torch.manual_seed(0)
    sam = make_reference("reference-192", 112, str(clip))
    text = CLIPTextModel.from_pretrained(clip).state_dict()
    own = sam.get_submodule("text_encoder.text_model").state_dict()
    for name, value in own.items():
        assert torch.equal(value, text.get(name, text.get(f"text_model.{name}"))), name
    assert read_prompts(str(clip), ["a dog"])[0].shape == (1, 32)
    with pytest.raises(ValueError, match=r"cannot load the text encoder './nowhere'"):
        make_reference("reference", 112, "./nowhere")


def test_training_can_begin_with_a_fresh_student_and_a_memory_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop = Workshop.make(tmp_path, lengths=(37, 41))
    clip = save_whole_clip(tmp_path / "clip")
    recipe = workshop.recipe("sam3_image_features", model={"clip": str(clip)})
    assert main(workshop.arguments(recipe, tmp_path / "run", "--dry-run", "--student", "reference-192")) == 1
    assert "features are [256, 4, 4], the stored ones [32, 4, 4]" in capsys.readouterr().err  # of a tiny teacher
    recipe = workshop.recipe("sam3_video")
    assert main(workshop.arguments(recipe, tmp_path / "run", "--dry-run", "--student", "reference")) == 1
    assert "the student 'reference' has learnt nothing yet" in capsys.readouterr().err
