"""A small SAM3 with a memory: transformers' model to the bit, the memory's sizes, its ring, and export."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.memory import MemoryAttention, MemoryConfig, MemoryResampler, MemoryRing
from model.sam3 import Predictions, Sam3Student, Text
from model.sam3_files import load_sam3, pixel_statistics, read_prompts
from tests.sam3_students import CELLS, MEMORY, NUM_FRAMES, PROMPTS, load_student, read_all, write_student
from tests.sav_sets import CHANNELS, SIDE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def student(folder: Path) -> Sam3Student:
    return load_student(folder).eval()


def pictures(count: int = 2, seed: int = 0, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def context(count: int = 2, frames: int = NUM_FRAMES) -> Tensor:
    return torch.randn(count, frames, CHANNELS, CELLS, CELLS, generator=torch.Generator().manual_seed(5))


def text_of(student: Sam3Student, folder: Path, *numbers: int) -> Text:
    prompts = read_all(folder)
    return student.read(prompts.tokens[list(numbers)], prompts.words[list(numbers)])


def equal(left: Predictions, right: Predictions) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("side", [SIDE, 84, 140], ids=lambda side: f"{side}px")
def test_a_picture_gives_what_transformers_gives_to_the_bit(folder: Path, side: int) -> None:
    student = load_student(folder, side=side).eval()
    prompts, pixels = read_all(folder), pictures(side=side)
    theirs = student.sam(pixel_values=pixels, input_ids=prompts.tokens[:2], attention_mask=prompts.words[:2])
    ours = student.image(pixels, text_of(student, folder, 0, 1))
    assert torch.equal(ours.masks, theirs.pred_masks)
    assert torch.equal(ours.boxes, theirs.pred_boxes)
    assert torch.equal(ours.logits, theirs.pred_logits)
    assert torch.equal(ours.presence, theirs.presence_logits)
    assert torch.equal(ours.ious, theirs.pred_logits.sigmoid())
    assert ours.masks.shape == (2, 10, side // 14 * 4, side // 14 * 4)
    vision = student.sam.get_vision_features(pixel_values=pixels)
    assert torch.equal(student.see(pixels).context, vision.fpn_hidden_states[3])


@torch.no_grad()
def test_the_memory_changes_nothing_before_it_has_learnt(student: Sam3Student, folder: Path) -> None:
    text = text_of(student, folder, 0, 1)
    assert equal(student.image(pictures(), text), student.video(pictures(), text, context()))


@torch.no_grad()
def test_what_the_memory_says_reaches_decoder_and_mask_decoder(student: Sam3Student, folder: Path) -> None:
    text, pixels = text_of(student, folder, 0, 1), pictures()
    assert student.memory_attention is not None
    torch.nn.init.normal_(student.memory_attention.attention.out_proj.weight)
    seen: dict[str, Tensor] = {}
    with (
        student.sam.detr_decoder.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(decoder=kwargs["vision_features"]), with_kwargs=True
        ),
        student.sam.mask_decoder.prompt_cross_attn_norm.register_forward_pre_hook(
            lambda module, args: seen.update(masks=args[0])
        ),
    ):
        without = student.image(pixels, text)
        before = dict(seen)
        remembered = student.video(pixels, text, context())
    assert torch.equal(seen["decoder"], seen["masks"])
    assert not torch.equal(seen["decoder"], before["decoder"])
    assert all(not torch.equal(one, other) for one, other in zip(without, remembered, strict=True))
    other = student.video(pixels, text, context().flip(0))
    assert not torch.equal(remembered.masks, other.masks)  # and which memory it is matters


def test_at_full_size_the_two_modules_have_the_parameters_that_were_asked_for() -> None:
    config = MemoryConfig()
    with torch.device("meta"):
        resampler = MemoryResampler(256, config, num_frames=8, num_cells=324)
        attention = MemoryAttention(256, config)
        both = MemoryConfig(time_embedding=True, cell_embedding=True)
        told = MemoryResampler(256, both, num_frames=8, num_cells=324)
    assert sum(p.numel() for p in resampler.parameters()) == 1_334_784
    assert sum(p.numel() for p in attention.parameters()) == 264_192
    assert sum(p.numel() for p in told.parameters()) == 1_334_784 + (8 + 324) * 256
    latents = resampler(torch.zeros(2, 8, 256, 18, 18, dtype=torch.float16, device="meta"))
    assert latents.shape == (2, 64, 256)


@torch.no_grad()
def test_without_embeddings_the_past_is_a_bag_and_with_them_it_has_an_order_and_places() -> None:
    for name, turned in (("time_embedding", context().flip(1)), ("cell_embedding", context().flip(-1))):
        torch.manual_seed(0)
        bag = MemoryResampler(CHANNELS, MEMORY, num_frames=NUM_FRAMES, num_cells=CELLS**2)
        assert torch.allclose(bag(context()), bag(turned), atol=1e-5)
        told = MemoryResampler(
            CHANNELS,
            MemoryConfig(num_latents=8, ffn_dim=64, num_heads=4, **{name: True}),
            num_frames=NUM_FRAMES,
            num_cells=CELLS**2,
        )
        assert not torch.allclose(told(context()), told(turned), atol=1e-3)


@torch.no_grad()
def test_of_a_short_past_the_newest_frame_is_told_as_the_newest() -> None:
    config = MemoryConfig(num_latents=8, num_layers=1, ffn_dim=64, num_heads=4, time_embedding=True)
    resampler = MemoryResampler(CHANNELS, config, num_frames=NUM_FRAMES, num_cells=CELLS**2)
    assert resampler.time_pos_embed is not None
    short = resampler(context(frames=3))
    resampler.time_pos_embed[:-3] += 1.0
    assert torch.equal(short, resampler(context(frames=3)))
    with pytest.raises(ValueError, match="the memory holds 9 frames, its embedding tells 8 apart"):
        resampler(context(frames=9))


def test_the_ring_keeps_the_newest_in_their_order_and_forgets_on_reset() -> None:
    ring = MemoryRing(3)
    assert ring.context() is None
    for number in range(5):
        ring.push(torch.full((1, CHANNELS, CELLS, CELLS), float(number)))
    kept = ring.context()
    assert kept is not None
    assert kept.shape == (1, 3, CHANNELS, CELLS, CELLS)
    assert kept[0, :, 0, 0, 0].tolist() == [2.0, 3.0, 4.0]
    ring.reset()
    assert len(ring) == 0
    assert ring.context() is None


@torch.no_grad()
def test_a_student_without_a_memory_and_a_memory_of_another_width_are_refused(folder: Path) -> None:
    alone, text = load_student(folder, memory=None).eval(), None
    text = text_of(alone, folder, 0, 1)
    with pytest.raises(ValueError, match="this student has no memory"):
        alone.video(pictures(), text, context())
    with pytest.raises(ValueError, match="have 16 channels, the student's have 32"):
        load_student(folder).eval().video(pictures(), text, context()[:, :, :16])


def test_prompts_are_padded_to_32_and_a_longer_one_is_refused(folder: Path) -> None:
    prompts = read_all(folder)
    assert prompts.tokens.shape == prompts.words.shape == (4, 32)
    assert prompts.words.sum(dim=1).tolist() == [len(prompt.split()) + 2 for prompt in PROMPTS]
    assert (prompts.tokens[~prompts.words] == 0).all()  # the tokenizer's own padding
    with pytest.raises(ValueError, match="has 42 tokens; the most are 32"):
        read_prompts(str(folder), ["all " * 40])
    with pytest.raises(ValueError, match="cannot load the tokenizer"):
        read_prompts(str(folder / "nowhere"), PROMPTS)


@torch.no_grad()
def test_padding_has_no_part_in_what_is_found(student: Sam3Student, folder: Path) -> None:
    text = text_of(student, folder, 0, 1)
    other = text.features.masked_fill(~text.mask[:, :, None], 7.0)
    assert equal(student.image(pictures(), text), student.image(pictures(), Text(other, text.mask)))


def test_pixels_are_normalised_by_the_students_own_statistics(folder: Path, tmp_path: Path) -> None:
    assert pixel_statistics(str(folder)) == ((0.5,) * 3, (0.5,) * 3)  # it has no file
    frames = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(1, 4, 5, 3).movedim(-1, 1)
    halves = load_student(folder).pixels(frames)
    assert halves.shape == (1, 3, 4, 5)
    assert halves[0, :, 0, 0].tolist() == pytest.approx([-1.0, 1.0, -0.6])
    other = write_student(tmp_path / "other")
    (other / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.2]}')
    own = load_student(other).pixels(frames)[0, :, 0, 0].tolist()
    assert own == pytest.approx([-0.2, 2.0, -0.5])
    (other / "preprocessor_config.json").write_text('{"image_mean": [0.1], "image_std": [0.5, 0.4, 0.2]}')
    with pytest.raises(ValueError, match="does not say image_mean and image_std in three numbers each"):
        pixel_statistics(str(other))


def test_a_student_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"cannot load the student './nowhere': there is no such folder"):
        load_sam3("./nowhere", SIDE)


EXPORTED = """
import sys, torch
program = torch.export.load(sys.argv[1])
given = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    found = program.module()(*given["given"])
assert len(found) == len(given["wanted"])
assert all(torch.equal(one, other) for one, other in zip(found, given["wanted"])), "other numbers"
assert not any(name.startswith(("model", "transformers")) for name in sys.modules), "our code was needed"
"""


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("remembers", [False, True], ids=["image", "video"])
def test_the_exported_program_gives_the_same_in_a_fresh_process(folder: Path, tmp_path: Path, remembers: bool) -> None:
    student: Any = load_student(folder).eval()
    if remembers:
        torch.nn.init.normal_(student.memory_attention.attention.out_proj.weight)
    text = text_of(student, folder, 0, 1)
    given = (pictures(), text.features, text.mask, *([context()] if remembers else []))
    torch.export.save(torch.export.export(student, given), tmp_path / "student.pt2")
    torch.save({"given": given, "wanted": student(*given)}, tmp_path / "given.pt")
    done = subprocess.run(
        [sys.executable, "-c", EXPORTED, str(tmp_path / "student.pt2"), str(tmp_path / "given.pt")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
