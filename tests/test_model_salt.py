"""The SALT student: its size, what it can see, and that both modes predict where they are asked to."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.blocks import recompute_blocks
from model.salt import SALT, Mode, SALTConfig, take_tokens
from model.tubelets import TubeletEmbedding
from tests.runs import SALT_MODEL

SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
MODES: tuple[Mode, ...] = ("dense", "jepa")


def student(mode: Mode) -> SALT:
    torch.manual_seed(0)
    return SALT(dataclasses.replace(SALT_MODEL, mode=mode))


def video(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def masks(batch: int = 2) -> tuple[Tensor, Tensor]:
    """Eight of 32 tokens visible, of each sample its own."""
    order = torch.rand(batch, 32, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    return order[:, :8].sort().values, order[:, 8:].sort().values


@pytest.mark.parametrize(
    ("size", "encoder", "head"),
    [("tiny", 5_633_856, 247_040), ("small", 21_884_544, 492_800), ("base", 86_236_416, 984_320)],
)
def test_the_reference_sizes_have_the_published_numbers_of_parameters(size: str, encoder: int, head: int) -> None:
    dim, heads = SIZES[size]
    with torch.device("meta"):
        model = SALT(SALTConfig(dim=dim, heads=heads))
    counts = {name: p.numel() for name, p in model.encoder.named_parameters()}
    assert counts.pop("pos_embed") == 1568 * dim  # learned, and not counted in the literature
    assert sum(counts.values()) == encoder
    assert sum(p.numel() for p in model.head.parameters()) == head


@pytest.mark.parametrize(("dim", "heads"), SIZES.values(), ids=SIZES)
def test_the_predictor_of_jepa_mode_has_about_eleven_million_parameters(dim: int, heads: int) -> None:
    with torch.device("meta"):
        model = SALT(SALTConfig(mode="jepa", dim=dim, heads=heads))
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    assert 11.1e6 < count < 11.5e6


@pytest.mark.parametrize(
    ("mode", "size", "gflop"),
    [("dense", "tiny", 40.05), ("dense", "small", 112.81), ("jepa", "tiny", 61.57), ("jepa", "small", 76.34)],
)
def test_a_forward_pass_costs_what_arithmetic_says(mode: Mode, size: str, gflop: float) -> None:
    dim, heads = SIZES[size]
    with torch.device("meta"):
        model = SALT(SALTConfig(mode=mode, dim=dim, heads=heads)).to("meta")
        clip = torch.empty(1, 3, 16, 224, 224)
        visible, masked = (torch.empty(1, n, dtype=torch.int64) for n in (392, 1176))
    with FlopCounterMode(display=False) as counter:
        model(clip, visible, masked)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.03)


@pytest.mark.parametrize("mode", MODES)
def test_a_prediction_is_made_for_every_masked_token(mode: Mode) -> None:
    assert student(mode)(video(), *masks()).shape == (2, 24, 6)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_of_masked_tokens_have_no_influence_and_those_of_visible_ones_have(mode: Mode) -> None:
    clip = video().requires_grad_()
    visible, masked = masks()
    student(mode)(clip, visible, masked).square().sum().backward()
    assert clip.grad is not None
    used = TubeletEmbedding(dim=1, tubelet=2, patch=8)._tubelets(clip.grad).abs().sum(-1).flatten(1)  # [B, N]
    assert (take_tokens(used[..., None], visible) > 0).all()
    assert (take_tokens(used[..., None], masked) == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_order_in_which_masked_tokens_are_asked_for_is_that_of_the_answers(mode: Mode) -> None:
    model, (visible, masked) = student(mode), masks()
    with torch.no_grad():
        plain, turned = model(video(), visible, masked), model(video(), visible, masked.flip(1))
    torch.testing.assert_close(turned.flip(1), plain)


def test_the_encoder_turns_a_whole_clip_into_a_grid_in_which_token_i_is_at_t_times_s_plus_s() -> None:
    encoder = student("dense").encoder
    clip = video(1)
    changed = clip.clone()
    changed[:, :, 2:, 8:16, 16:24] += 1  # the second time, row 1, column 2
    with torch.no_grad():
        assert encoder(clip).shape == (1, 2, 16, 32)
        moved = (encoder.embed(changed) != encoder.embed(clip)).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [1 * 16 + 1 * 4 + 2]


@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_is_trained_also_when_activations_are_recomputed(mode: Mode) -> None:
    model = student(mode)
    grads = []
    for _ in range(2):
        model.zero_grad()
        model(video(), *masks()).square().mean().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
        recompute_blocks(model)
    for name, grad in grads[0].items():
        assert grad is not None, name
        assert grad.abs().sum() > 0, name
        assert torch.equal(grad, grads[1][name]), name  # type: ignore[arg-type]


def test_a_clip_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 8 tokens; the model is configured for 2 x 16"):
        student("dense").encoder(torch.zeros(1, 3, 4, 16, 16))


@pytest.mark.parametrize("wrong", [{"mode": "both"}, {"dim": 33}, {"predictor_heads": 5}, {"depth": 0}])
def test_an_impossible_size_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(SALT_MODEL, **wrong)  # type: ignore[arg-type]
