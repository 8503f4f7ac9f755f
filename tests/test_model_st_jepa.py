"""The ST-JEPA student: its size, its two ways in, and what it must not see."""

import dataclasses
from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.blocks import Attention, Block, Factorisation
from model.positions import sinusoid_table
from model.st_jepa import STJEPA, STJEPAConfig, STJEPAEncoder, STJEPAPredictor
from model.tubelets import TubeletEmbedding

TINY = STJEPAConfig(
    num_frames=4,
    image_size=32,
    patch=8,
    dim=24,
    depth=3,
    num_joint=1,
    heads=3,
    predictor_depth=1,
    predictor_dim=12,
    target_dim=10,
)
MODES: tuple[Factorisation, ...] = ("twice", "single", "separate")


def num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def to_tubes(video: Tensor, config: STJEPAConfig) -> Tensor:
    sizes = {"k": config.tubelet, "p": config.patch, "q": config.patch}
    return rearrange(video, "b c (t k) (y p) (x q) -> b (y x) t k p q c", **sizes)


def draw_split(batch: int, num_positions: int, num_visible: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(num_positions, generator=generator) for _ in range(batch)])
    return order[:, :num_visible].sort().values, order[:, num_visible:].sort().values


def video_of(config: STJEPAConfig, batch: int = 2, seed: int = 0) -> Tensor:
    shape = (batch, 3, config.num_frames, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("mode", "expected"), [("twice", 21_884_544), ("single", 21_884_544), ("separate", 26_621_568)]
)
def test_the_reference_encoder_has_the_published_number_of_parameters(mode: Factorisation, expected: int) -> None:
    with torch.device("meta"):
        encoder = STJEPAEncoder(STJEPAConfig(factorised=mode))
    assert num_parameters(encoder) == expected


@pytest.mark.parametrize(
    ("change", "whole", "visible"),
    [
        ({"num_joint": 12}, 113.8, 19.9),
        ({"factorised": "twice"}, 102.3, 22.0),
        ({"factorised": "single"}, 87.5, 18.3),
        ({"factorised": "separate"}, 102.3, 22.0),
    ],
)
def test_factorising_saves_operations_on_the_whole_grid_and_not_once_it_is_masked(
    change: dict[str, Any], whole: float, visible: float
) -> None:
    encoder = STJEPAEncoder(STJEPAConfig(**change)).to("meta")
    video, tubes = torch.empty(1, 3, 16, 224, 224, device="meta"), torch.empty(1, 49, 8, 2, 16, 16, 3, device="meta")
    kept = torch.empty(1, 49, dtype=torch.long, device="meta")
    measured = []
    for arguments in ((video,), (tubes, kept)):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encoder(*arguments)
        measured.append(round(counter.get_total_flops() / 1e9, 1))
    assert measured == [whole, visible]  # GFLOP of one clip, a multiply-add being two


def test_the_reference_predictor_has_seven_and_a_quarter_million_parameters() -> None:
    with torch.device("meta"):
        predictor = STJEPAPredictor(STJEPAConfig())
    assert num_parameters(predictor) == 7_246_848


def test_the_reference_grid_has_1568_tokens() -> None:
    config = STJEPAConfig()
    assert (config.num_times, config.num_positions, config.num_tokens) == (8, 196, 1568)


def test_a_twice_factorised_block_has_the_state_of_a_joint_block() -> None:
    joint = Block(dim=24, num_heads=3, mlp_ratio=4)
    twice = Block(dim=24, num_heads=3, mlp_ratio=4, factorised="twice")
    twice.load_state_dict(joint.state_dict(), strict=True)


def test_positions_interleave_sine_and_cosine_as_videomae_does() -> None:
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    torch.testing.assert_close(sinusoid_table(12, 8), get_sinusoid_encoding_table(12, 8)[0])


def test_the_tubelet_embedding_equals_the_convolution_of_its_parameters() -> None:
    embedding = TubeletEmbedding(dim=24, tubelet=2, patch=8)
    video = video_of(TINY)
    expected = rearrange(embedding.proj(video), "b d t y x -> b t (y x) d")
    torch.testing.assert_close(embedding(video), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), num_visible=st.integers(1, 16))
def test_dense_video_all_tubes_and_visible_tubes_give_the_same_tokens(
    mode: Factorisation, seed: int, num_visible: int
) -> None:
    encoder = STJEPAEncoder(dataclasses.replace(TINY, factorised=mode))
    video = video_of(TINY, seed=seed)
    tubes = to_tubes(video, TINY)
    visible, _ = draw_split(2, 16, num_visible, seed)
    seen = torch.stack([tubes[b, visible[b]] for b in range(2)])
    tokens = encoder(video, visible)
    assert tokens.shape == (2, 2, num_visible, 24)
    for same, expected in (
        (encoder(seen, visible), tokens),
        (encoder(tubes, visible), tokens),
        (encoder(tubes), encoder(video)),
    ):
        torch.testing.assert_close(same, expected, rtol=1e-4, atol=1e-5)


def test_all_positions_visible_is_the_same_as_no_mask() -> None:
    encoder = STJEPAEncoder(TINY)
    video = video_of(TINY)
    everything = torch.arange(16).expand(2, 16)
    torch.testing.assert_close(encoder(video, everything), encoder(video))


@pytest.mark.parametrize("mode", MODES)
def test_the_encoder_has_a_gradient_at_exactly_the_visible_pixels(mode: Factorisation) -> None:
    encoder = STJEPAEncoder(dataclasses.replace(TINY, factorised=mode))
    video = video_of(TINY).requires_grad_()
    visible, _ = draw_split(2, 16, 4)
    encoder(video, visible).square().sum().backward()
    assert video.grad is not None
    touched = to_tubes(video.grad, TINY).abs().amax(dim=(3, 4, 5, 6)) > 0  # [B, S, T']
    expected = torch.zeros(2, 16, dtype=torch.bool).scatter(1, visible, True)
    assert torch.equal(touched, expected[:, :, None].expand_as(touched))


@pytest.mark.parametrize("mode", MODES)
def test_masked_pixels_do_not_change_the_prediction(mode: Factorisation) -> None:
    student = STJEPA(dataclasses.replace(TINY, factorised=mode))
    visible, masked = draw_split(2, 16, 4)
    tubes = to_tubes(video_of(TINY), TINY)
    changed = tubes.clone()
    for b in range(2):
        changed[b, masked[b]] = 1e6
    assert torch.equal(student(tubes, visible, masked), student(changed, visible, masked))


def test_a_prediction_belongs_to_its_position_whatever_the_order_of_the_mask() -> None:
    student = STJEPA(TINY)
    visible, masked = draw_split(2, 16, 4)
    video = video_of(TINY)
    prediction = student(video, visible, masked)
    assert prediction.shape == (2, 2, 12, 10)
    reordered = student(video, visible.flip(1), masked.flip(1))
    torch.testing.assert_close(reordered.flip(2), prediction, rtol=1e-4, atol=1e-5)


def test_time_attention_mixes_no_positions_and_space_attention_no_times() -> None:
    attention = Attention(12, 2)
    x = torch.randn(1, 3, 5, 12)
    changed = x.clone()
    changed[:, 1, 2] += 1
    over_time = (attention(x, "time") - attention(changed, "time")).abs().amax(-1)[0] > 0  # [T, S]
    over_space = (attention(x, "space") - attention(changed, "space")).abs().amax(-1)[0] > 0
    assert over_time[:, 2].all()
    assert over_time.sum() == 3
    assert over_space[1].all()
    assert over_space.sum() == 5


def test_time_and_space_attention_equal_brute_force() -> None:
    attention = Attention(12, 2)
    x = torch.randn(2, 3, 5, 12)
    over_time = torch.stack([_plain_attention(attention, x[:, :, s]) for s in range(5)], dim=2)
    over_space = torch.stack([_plain_attention(attention, x[:, t]) for t in range(3)], dim=1)
    joint = rearrange(_plain_attention(attention, x.flatten(1, 2)), "b (t s) d -> b t s d", t=3)
    torch.testing.assert_close(attention(x, "time"), over_time, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attention(x, "space"), over_space, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attention(x, "joint"), joint, rtol=1e-4, atol=1e-6)


def _plain_attention(attention: Attention, x: Tensor) -> Tensor:
    heads = attention.num_heads
    q, k, v = rearrange(attention.qkv(x), "b l (c h d) -> c b h l d", c=3, h=heads)
    weights = F.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
    out: Tensor = attention.proj(rearrange(weights @ v, "b h l d -> b l (h d)"))
    return out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_frames": 15}, "num_frames=15"),
        ({"image_size": 100}, "image_size=100"),
        ({"dim": 100}, "dim=100"),
        ({"num_joint": 13}, "num_joint=13"),
        ({"factorised": "thrice"}, "thrice"),
        ({"target_dim": 0}, "target_dim"),
    ],
)
def test_an_impossible_size_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(STJEPAConfig(), **change)


def test_a_clip_of_another_geometry_is_refused_with_both_grids_named() -> None:
    encoder = STJEPAEncoder(TINY)
    with pytest.raises(ValueError, match=r"2 times x 9 positions.*2 x 16"):
        encoder(torch.zeros(1, 3, 4, 24, 24))
    with pytest.raises(ValueError, match="allowed are a video"):
        encoder(torch.zeros(1, 4, 32, 32))


@pytest.mark.parametrize("num_visible", [1, 4, 15])
def test_the_full_grid_holds_the_predictions_at_their_places_in_the_order_of_the_targets(num_visible: int) -> None:
    torch.manual_seed(0)
    student, video = STJEPA(TINY), video_of(TINY)
    visible, masked = draw_split(2, TINY.num_positions, num_visible)
    with torch.no_grad():
        predicted = student(video, visible, masked)  # [B, T', S_m, D]
        whole = student.full_grid(video, visible, masked)
        seen = student.predictor._mix(student.encoder(video, visible), visible, masked)[:, :, :num_visible]
        at_visible = student.predictor.head(student.predictor.norm(seen))
    assert list(whole.shape) == [2, TINY.num_tokens, TINY.target_dim]
    for b in range(2):
        for t in range(TINY.num_times):
            row = whole[b, t * TINY.num_positions : (t + 1) * TINY.num_positions]  # token i = t * S + s
            torch.testing.assert_close(row[masked[b]], predicted[b, t], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(row[visible[b]], at_visible[b, t], atol=1e-5, rtol=1e-5)


def test_the_full_grid_is_the_same_from_tubes_and_of_any_order_of_positions() -> None:
    torch.manual_seed(0)
    student, video = STJEPA(TINY), video_of(TINY)
    visible, masked = draw_split(2, TINY.num_positions, 4)
    with torch.no_grad():
        whole = student.full_grid(video, visible, masked)
        torch.testing.assert_close(student.full_grid(to_tubes(video, TINY), visible, masked), whole)
        torch.testing.assert_close(student.full_grid(video, visible.flip(1), masked.flip(1)), whole)


def test_the_full_grid_of_the_reference_is_1568_tokens_of_384() -> None:
    student = STJEPA(STJEPAConfig()).to("meta")
    video = torch.empty(2, 3, 16, 224, 224, device="meta")
    positions = torch.empty(2, 196, dtype=torch.int64, device="meta")
    assert list(student.full_grid(video, positions[:, :49], positions[:, 49:]).shape) == [2, 1568, 384]


def test_a_full_grid_of_some_positions_only_is_refused() -> None:
    visible, masked = draw_split(2, TINY.num_positions, 4)
    with pytest.raises(ValueError, match="4 visible and 11 masked positions are not all of the grid's 16"):
        STJEPA(TINY).full_grid(video_of(TINY), visible, masked[:, 1:])
