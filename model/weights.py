"""Weights of published ViTs and VideoMAEs, renamed and inflated to start a student's encoder from.

Read are the names of timm (`blocks.0.attn.qkv.weight`), of VideoMAE's own code (the same, with `q_bias` and `v_bias`)
and of transformers, older and newer: ViT and VideoMAE (`encoder.layer.0.attention.attention.query.weight`,
`layers.0.attention.q_proj.weight`). Whatever precedes these names (`vit.`, `videomae.`, `encoder.`) is left off.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Left: a name as it is found, without what precedes it. Right: the same in timm's words.
_RENAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.attention\.(q|v)_bias$", r".attn.\1_bias"),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1_proj."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.attn\.(q_proj|query)\.", ".attn.q."),
    (r"\.attn\.(k_proj|key)\.", ".attn.k."),
    (r"\.attn\.(v_proj|value)\.", ".attn.v."),
    (r"\.attn\.([qv])_bias$", r".attn.\1.bias"),
    (r"^layernorm\.", "norm."),
)
_PREFIX = re.compile(
    r"^(?:module\.|model\.|vit\.|videomae\.|backbone\.|encoder\.(?=blocks\.|patch_embed\.|norm\.|pos_embed))+"
)


def load_encoder(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copy published weights into an encoder with timm's names and a Conv3d stem.

    An image model is inflated: its patch kernel is shared out over the frames of a tubelet, so that a still clip gives
    the image's tokens; its positions, without that of the CLS token, are repeated at every time.

    Returns:
        The names of the tensors that found no use (CLS token, classifier, decoder).

    Raises:
        ValueError: If a parameter of the encoder is not given, or has another shape; they are named.
    """
    renamed = {_rename(name): (name, tensor) for name, tensor in tensors.items()}
    found = {name: tensor for name, (_, tensor) in renamed.items()}
    used = {name: {source} for name, (source, _) in renamed.items()}
    for name in [name for name in found if name.endswith(".attn.q.weight")]:
        _join(name.removesuffix(".q.weight"), found, used)
    own = encoder.state_dict()
    given = {name: inflate(name, tensor, own[name].shape) for name, tensor in found.items() if name in own}
    if not any(name.startswith("norm.") for name in given):  # fine-tuned VideoMAEs have lost it: theirs is the fc_norm
        given |= {name: value for name, value in own.items() if name.startswith("norm.")}
    if "pos_embed" in own and "pos_embed" not in given:  # VideoMAE's positions are fixed and not in its file
        given["pos_embed"] = own["pos_embed"]
    wrong = [f"{name} is missing" for name in own if name not in given]
    wrong += [
        f"{n} has shape {list(t.shape)}, not {list(own[n].shape)}" for n, t in given.items() if t.shape != own[n].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"these weights do not fit the encoder: {'; '.join(wrong[:4])}{more}")
    encoder.load_state_dict(given)
    taken = {source for name in given for source in used.get(name, ())}
    return sorted(set(tensors) - taken)


def inflate(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """An image model's patch kernel or positions for video; everything else as it is."""
    if name == "patch_embed.proj.weight" and tensor.ndim == 4 and len(shape) == 5:
        return tensor[:, :, None].expand(-1, -1, shape[2], -1, -1) / shape[2]
    if name == "pos_embed" and tensor.shape != shape and tensor.ndim == 3:
        num_positions = (
            tensor.shape[1] if shape[1] % tensor.shape[1] == 0 else tensor.shape[1] - 1
        )  # less the CLS token
        if num_positions > 0 and shape[1] % num_positions == 0:
            return tensor[:, -num_positions:].repeat(1, shape[1] // num_positions, 1)
    return tensor


def _rename(name: str) -> str:
    name = _PREFIX.sub("", name)
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _join(block: str, found: dict[str, Tensor], used: dict[str, set[str]]) -> None:
    """Make one `qkv` of three; VideoMAE's keys have no bias, which is one of zeros."""
    for kind in ("weight", "bias"):
        names = [f"{block}.{part}.{kind}" for part in "qkv"]
        if kind == "bias" and names[1] not in found and names[0] in found:
            found[names[1]], used[names[1]] = torch.zeros_like(found[names[0]]), set()
        if all(name in found for name in names):
            found[f"{block}.qkv.{kind}"] = torch.cat([found.pop(name) for name in names])
            used[f"{block}.qkv.{kind}"] = set().union(*(used[name] for name in names))
