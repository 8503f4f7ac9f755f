"""The students' step as the papers write it: no form of it is chosen for speed. What is fast has to agree with it.

python -m tests.plain_step st_jepa_ssv2 [--clips 2]
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import Attention, Block
from model.salt import SALT, take_tokens
from model.st_jepa import STJEPA, take_positions
from model.tubelets import TubeletEmbedding
from shards.format.pixels import IMAGENET
from tools.recipe import load_recipe
from tools.systems import system_of

FLAT = {"time": "(b s) h t d", "space": "(b t) h s d", "joint": "b h (t s) d"}


def plain_attention(attention: Attention, x: Tensor, *axes: str) -> Tensor:
    sizes = {"b": x.shape[0], "t": x.shape[1], "s": x.shape[2]}
    q, k, v = rearrange(attention.qkv(x), "b t s (c h d) -> c b h t s d", c=3, h=attention.num_heads)
    for axis in axes:
        whole = (rearrange(y, f"b h t s d -> {FLAT[axis]}") for y in (q, k, v))
        v = rearrange(F.scaled_dot_product_attention(*whole), f"{FLAT[axis]} -> b h t s d", **sizes)
    return attention.proj(rearrange(v, "b h t s d -> b t s (h d)"))  # type: ignore[no-any-return]


def plain_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def plain_block(block: Block, x: Tensor) -> Tensor:
    """A residual stream in f32; autocast takes norms to f32."""
    if block.factorised is None:
        x = x + plain_attention(block.attn, plain_norm(block.norm1, x), "joint")
    elif block.factorised == "single":
        x = x + plain_attention(block.attn, plain_norm(block.norm1, x), "time", "space")
    else:
        first, norm = (block.attn, block.norm1) if block.factorised == "twice" else (block.attn_time, block.norm_time)
        x = x + plain_attention(first, plain_norm(norm, x), "time")
        x = x + plain_attention(block.attn, plain_norm(block.norm1, x), "space")
    return x + block.mlp(plain_norm(block.norm2, x))  # type: ignore[no-any-return]


def plain_embedding(embedding: TubeletEmbedding, clip: Tensor) -> Tensor:
    """Normalised floats through the plain product."""
    mean, std = (torch.tensor(values, device=clip.device) for values in IMAGENET)
    pixels = (clip.float() / 255 - mean) / std  # channels are last in tubes
    return embedding(pixels)  # type: ignore[no-any-return]


def plain_st_jepa(student: STJEPA, clip: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
    encoder, predictor = student.encoder, student.predictor
    x = plain_embedding(encoder.patch_embed, clip)
    x = (take_positions(x, visible) if x.shape[2] != visible.shape[1] else x) + encoder.positions[:, visible].transpose(
        0, 1
    )
    for block in encoder.blocks:
        assert isinstance(block, Block)
        x = plain_block(block, x)
    seen = predictor.embed(plain_norm(encoder.norm, x)) + predictor.positions[:, visible].transpose(0, 1)
    hidden = predictor.mask_token + predictor.positions[:, masked].transpose(0, 1)
    x = torch.cat([seen, hidden.to(seen.dtype)], dim=2)
    for block in predictor.blocks:
        assert isinstance(block, Block)
        x = plain_block(block, x)
    return predictor.head(plain_norm(predictor.norm, x[:, :, visible.shape[1] :]))  # type: ignore[no-any-return]


def plain_salt(student: SALT, clip: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
    encoder = student.encoder
    x = plain_embedding(encoder.patch_embed, clip).flatten(1, 2)
    x = (take_tokens(x, visible) if x.shape[1] != visible.shape[1] else x) + encoder.positions_of(visible)
    if student.config.mode == "jepa":
        predictor = student.predictor
        x = plain_norm(encoder.norm, _joint(encoder.blocks, x))
        seen = predictor.embed(x) + predictor.positions[visible]
        hidden, blocks, norm = predictor.mask_token + predictor.positions[masked], predictor.blocks, predictor.norm
    else:
        seen, hidden = x, student.mask_token + encoder.positions_of(masked)
        blocks, norm = encoder.blocks, encoder.norm
    x = _joint(blocks, torch.cat([seen, hidden.to(seen.dtype)], dim=1))
    return student.head(plain_norm(norm, x[:, visible.shape[1] :]))  # type: ignore[no-any-return]


def _joint(blocks: nn.Sequential, x: Tensor) -> Tensor:
    x = x[:, None]
    for block in blocks:
        assert isinstance(block, Block)
        x = plain_block(block, x)
    return x[:, 0]


PLAIN: Mapping[type, Callable[..., Tensor]] = {STJEPA: plain_st_jepa, SALT: plain_salt}


@contextlib.contextmanager
def written_plainly(student: nn.Module) -> Iterator[None]:
    """The student computes its plain form meanwhile."""
    form = PLAIN[type(student)]
    student.forward = lambda *arguments: form(student, *arguments)
    try:
        yield
    finally:
        del student.forward


def step(objective: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype | None) -> tuple[float, Tensor]:
    """Loss and all gradients in one line, of one pass forward and backward."""
    objective.zero_grad()
    with torch.autocast(batch["clip"].device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        loss: Tensor = objective(batch)["loss"].mean()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten() for p in objective.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def agreement(objective: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype | None) -> tuple[float, float]:
    """How the fast step compares with the plain one: relative difference of the loss, cosine of the gradients."""
    loss, gradients = step(objective, batch, dtype)
    with written_plainly(objective.student):  # type: ignore[arg-type]
        plain_loss, plain_gradients = step(objective, batch, dtype)
    return abs(loss / plain_loss - 1), float(F.cosine_similarity(gradients.double(), plain_gradients.double(), dim=0))


def clips(batch: int, positions: int, grid: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Tubes u8 whose pixels are alike within a token, as those of videos are."""
    level = torch.rand(batch, positions, grid[0], 1, 1, 1, 3, generator=generator)
    noise = torch.randn(batch, positions, *grid, 3, generator=generator)
    return (255 * level + 24 * noise).clamp(0, 255).to(torch.uint8)


def main() -> None:
    """Print how the step of a recipe agrees with its plain form, in its precision and in f32."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--clips", type=int, default=2)
    args, overrides = parser.parse_known_args()
    recipe = load_recipe(args.recipe, overrides)
    torch.manual_seed(0)
    objective = system_of(recipe).make_objective(recipe)
    model, generator = recipe.model, torch.Generator().manual_seed(1)
    by_token = getattr(recipe.objective, "mask", "tube") == "random"
    places = model.num_tokens if by_token else model.num_positions
    order = torch.rand(args.clips, places, generator=generator).argsort(1)
    num_visible = places - round(recipe.objective.mask_ratio * places)
    whole = by_token  # a random mask leaves nothing unread
    positions = (model.num_positions, model.num_positions) if whole else (num_visible, places - num_visible)
    grid = (model.num_times, model.tubelet, model.patch, model.patch)
    batch = {
        "clip": clips(args.clips, positions[0], grid, generator),
        "target": torch.randn(args.clips, positions[1], model.num_times, model.target_dim, generator=generator).half(),
        "visible": order[:, :num_visible],
        "masked": order[:, num_visible:],
    }
    with written_plainly(objective.student):  # type: ignore[arg-type]
        _, exact = step(objective, batch, None)
        _, rounded = step(objective, batch, torch.bfloat16)
    for dtype in (None, torch.bfloat16):
        loss, cosine = agreement(objective, batch, dtype)
        print(f"{args.recipe}, {dtype or 'float32'}: loss {loss:.1e} apart, gradients' cosine {cosine:.6f}")
    _, fast = step(objective, batch, torch.bfloat16)
    for name, gradients in (("plain", rounded), ("fast", fast)):
        cosine = float(F.cosine_similarity(gradients.double(), exact.double(), dim=0))
        print(f"{args.recipe}: gradients of the {name} step in bfloat16 to those in float32: cosine {cosine:.6f}")


if __name__ == "__main__":
    main()
