"""DINOv2 read by queries: one pass keeps what every query needs, and is the pass that transformers makes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.dinov2 import (
    SeenPictures,
    attention_deep,
    attention_last,
    load_dinov2,
    look,
    read_deep,
    read_last,
    width_of,
)
from tests.tiny_vlm import SIZE, save_parts, tiny_dino

NUM = 3


def pixels(seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.randn(NUM, 3, size, size, generator=torch.Generator().manual_seed(seed))


def queries(width: int = 24, seed: int = 5) -> Tensor:
    return torch.randn(NUM, width, generator=torch.Generator().manual_seed(seed))


def appended(dino: Any, images: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """The definition: the query as one more token, which sees the others and is seen by nobody, itself included."""
    hidden = torch.cat([dino.embeddings(images), query[:, None]], dim=1)
    mask = torch.zeros(1, 1, hidden.shape[1], hidden.shape[1])
    mask[..., -1] = -torch.inf
    for layer in dino.encoder.layer:
        hidden = layer(hidden, mask)
    hidden = dino.layernorm(hidden)
    return hidden[:, :-1], hidden[:, -1]


@pytest.mark.parametrize("swiglu", [False, True])
def test_a_look_is_the_pass_of_transformers(swiglu: bool) -> None:
    dino = tiny_dino(use_swiglu_ffn=swiglu)
    seen, whole = look(dino, pixels()), dino(pixel_values=pixels())
    assert torch.equal(seen.tokens, whole.last_hidden_state)
    assert len(seen.keys) == len(seen.values) == 3
    assert seen.keys[0].shape == (NUM, 5, 24)


def test_a_look_leaves_no_hooks_behind_even_if_it_fails() -> None:
    dino = tiny_dino()
    look(dino, pixels())
    with pytest.raises(ValueError, match="channel"):
        look(dino, torch.zeros(1, 4, SIZE, SIZE))
    assert not any(module._forward_hooks for module in dino.modules())


def test_reading_kept_keys_and_values_is_appending_a_token_that_nobody_attends_to() -> None:
    dino = tiny_dino()
    seen = look(dino, pixels())
    patches, read = appended(dino, pixels(), queries())
    torch.testing.assert_close(seen.tokens, patches, rtol=0, atol=2e-6)
    torch.testing.assert_close(read_deep(dino, seen, queries()), read, rtol=0, atol=2e-6)


def test_its_gradients_are_those_of_the_appended_token() -> None:
    found = []
    for way in (
        lambda dino, q: read_deep(dino, look(dino, pixels()), q),
        lambda dino, q: appended(dino, pixels(), q)[1],
    ):
        dino, query = tiny_dino(), queries().requires_grad_()
        way(dino, query).square().sum().backward()  # type: ignore[no-untyped-call]
        found.append([query.grad, *(p.grad for name, p in dino.named_parameters() if "mask_token" not in name)])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_pictures_of_another_size_than_that_of_training_are_read_with_interpolated_positions() -> None:
    dino = tiny_dino(image_size=56)
    read = appended(dino, pixels(), queries())[1]
    torch.testing.assert_close(read_deep(dino, look(dino, pixels()), queries()), read, rtol=0, atol=2e-6)


def test_the_patches_do_not_depend_on_the_query() -> None:
    dino, query = tiny_dino(), queries().requires_grad_()
    seen = look(dino, pixels())
    read_deep(dino, seen, query).sum().backward()  # type: ignore[no-untyped-call]
    assert not any(kept.requires_grad and _depends(kept, query) for kept in (seen.tokens, *seen.keys, *seen.values))
    first, second = (appended(dino, pixels(), queries(seed=seed))[0] for seed in (5, 6))
    assert torch.equal(first, second)


def _depends(value: Tensor, on: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(value.sum(), on, retain_graph=True, allow_unused=True)
    return gradient is not None


@pytest.mark.parametrize("deep", [True, False])
def test_the_weights_of_attention_are_those_that_reading_uses(deep: bool) -> None:
    dino = tiny_dino()
    seen = look(dino, pixels())
    weights = attention_deep(dino, seen, queries()) if deep else attention_last(seen, queries())
    assert weights.shape == ((3, NUM, 3, 5) if deep else (1, NUM, 1, 5))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    if deep:  # a layer whose values say where they stand gives the weights back
        one = SeenPictures([seen.keys[0]], [torch.eye(5, 24).expand(NUM, -1, -1)], seen.tokens)
        layer: Any = dino.get_submodule("encoder.layer.0")
        layer.attention.o_proj.register_forward_pre_hook(lambda module, args: found.append(args[0]))
        found: list[Tensor] = []
        whole: Any = dino
        whole.encoder.layer = nn.ModuleList([layer])
        read_deep(dino, one, queries())
        torch.testing.assert_close(found[0][:, 0, :5], weights[0, :, 0])
    else:
        torch.testing.assert_close(read_last(seen, queries()), (weights[0, :, 0, :, None] * seen.tokens).sum(dim=1))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """DINOv2-S with random weights, for pictures of the size that it reads here."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=224)
    model: nn.Module = Dinov2Model(config).eval()
    return model


def _correlation(first: Tensor, second: Tensor) -> float:
    pairs = zip(first, second, strict=True)
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean())


def _project(bias: bool) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(384, 384, bias=bias)


@torch.no_grad()
def test_two_queries_of_unit_spread_stay_apart_behind_their_projection(small: nn.Module) -> None:  # BUG-001
    project = _project(bias=False)
    first, second = torch.randn(2, 64, 384, generator=torch.Generator().manual_seed(2))
    assert 0.8 < float(first.std()) < 1.2
    assert float((project(first) - project(second)).abs().mean()) > 0.5
    assert float((project(first * 0.02) - project(second * 0.02)).abs().mean()) < 0.05


@torch.no_grad()
def test_a_bias_would_make_small_queries_alike(small: nn.Module) -> None:  # BUG-002
    seen = look(small, pixels(size=224))
    first, second = torch.randn(2, NUM, 384, generator=torch.Generator().manual_seed(2))
    alike = {}
    for bias in (False, True):
        project = _project(bias)
        scale = 0.02 if bias else 1.0
        read = [read_deep(small, seen, project(query * scale)) for query in (first, second)]
        alike[bias] = _correlation(*read)
    assert alike[True] > 0.8
    assert alike[False] < 0.3


@torch.no_grad()
def test_a_deep_query_decides_what_is_read_and_a_single_attention_hardly(small: nn.Module) -> None:  # BUG-004
    seen, project = look(small, pixels(size=224)), _project(bias=False)
    first, second = (project(query) for query in torch.randn(2, NUM, 384, generator=torch.Generator().manual_seed(2)))
    assert _correlation(read_deep(small, seen, first), read_deep(small, seen, second)) < 0.3
    assert _correlation(read_last(seen, first), read_last(seen, second)) > 0.95


def test_a_folder_of_weights_is_loaded_to_be_trained(tmp_path: Path) -> None:
    folder, _ = save_parts(tmp_path)
    dino = load_dinov2(str(folder))
    assert width_of(dino) == 24
    assert dino.training
    assert all(p.requires_grad and bool(p.isfinite().all()) for p in dino.parameters())
    torch.testing.assert_close(dict(dino.named_parameters()), dict(tiny_dino().named_parameters()), rtol=0, atol=0)


def test_what_is_no_dinov2_is_refused_in_one_line(tmp_path: Path) -> None:
    _, llm = save_parts(tmp_path)
    for folder in (str(llm), "/nowhere/at/all"):
        with pytest.raises(ValueError, match="the encoder") as caught:
            load_dinov2(folder)
        assert "\n" not in str(caught.value)
