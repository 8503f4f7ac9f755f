"""Published weights in a student's encoder: the students compute what the models they come from compute."""

import pytest
import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEModel, ViTConfig, ViTModel

from model.salt import SALTConfig, ViTEncoder
from model.st_jepa import STJEPAConfig, STJEPAEncoder
from model.weights import load_encoder

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
SALT = SALTConfig(num_frames=4, image_size=32, patch=8, dim=32, depth=2, heads=2, predictor_heads=2)
ST_JEPA = STJEPAConfig(num_frames=4, image_size=32, patch=8, dim=32, depth=2, num_joint=2, heads=2, predictor_dim=32)
Tensors = dict[str, Tensor]


def vit() -> ViTModel:
    """A ViT with random weights, none of them zero or one."""
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(image_size=32, patch_size=8, layer_norm_eps=1e-6, **SMALL), add_pooling_layer=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def videomae(**more: object) -> VideoMAEModel:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, layer_norm_eps=1e-6, **SMALL, **more
    )
    model = VideoMAEModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def as_timm(tensors: Tensors) -> Tensors:
    """The names of timm, for the weights of transformers."""
    encoder = ViTEncoder(SALT)
    load_encoder(encoder, tensors)
    named = {name: value for name, value in encoder.state_dict().items() if name.startswith(("blocks.", "norm."))}
    return named | {
        "cls_token": tensors["embeddings.cls_token"],
        "pos_embed": tensors["embeddings.position_embeddings"],
        "patch_embed.proj.weight": tensors["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors["embeddings.patch_embeddings.projection.bias"],
        "head.weight": torch.zeros(5, 32),
    }


def older(tensors: Tensors) -> Tensors:
    """The names that transformers used before version 5, as most files on the Hub have them."""
    renames = {
        "layers.": "vit.encoder.layer.",
        "embeddings.": "vit.embeddings.",
        "layernorm.": "vit.layernorm.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    named = {}
    for name, value in tensors.items():
        start = next(old for old in renames if name.startswith(old))
        name = renames[start] + name.removeprefix(start)  # noqa: PLW2901
        for old, new in renames.items():
            name = name.replace(f".{old}.", f".{new}.")  # noqa: PLW2901
        named[name] = value
    return named


def test_a_vits_blocks_compute_in_the_encoder_what_they_compute_in_transformers() -> None:
    model, encoder = vit(), ViTEncoder(SALT).eval()
    unused = load_encoder(encoder, model.state_dict())
    assert unused == ["embeddings.cls_token"]
    x = torch.randn(2, 7, 32)
    with torch.no_grad():
        expected = x
        for layer in model.layers:
            expected = layer(expected)
        torch.testing.assert_close(encoder.encode(x), model.layernorm(expected), rtol=1e-4, atol=1e-4)


def test_a_still_clip_has_at_every_time_the_tokens_and_positions_that_the_image_has() -> None:
    model, encoder = vit(), ViTEncoder(SALT)
    load_encoder(encoder, model.state_dict())
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.embeddings(image)[:, 1:]  # [B, S, D], less the CLS token
        tokens = encoder.embed(image[:, :, None].expand(-1, -1, 4, -1, -1))
    for t in range(2):
        torch.testing.assert_close(tokens[:, t * 16 : (t + 1) * 16], expected)
    original = model.embeddings.position_embeddings[0]
    for i in range(32):
        assert torch.equal(encoder.pos_embed[0, i], original[1 + i % 16])


@pytest.mark.parametrize("spell", [as_timm, older])
def test_every_spelling_of_the_names_gives_the_same_encoder(spell: object) -> None:
    tensors = vit().state_dict()
    plain, spelled = ViTEncoder(SALT), ViTEncoder(SALT)
    load_encoder(plain, tensors)
    load_encoder(spelled, spell(tensors))  # type: ignore[operator]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, spelled.state_dict()[name]), name


@pytest.mark.parametrize("use_mean_pooling", [False, True])
def test_st_jepa_with_the_weights_of_a_videomae_computes_what_the_videomae_computes(use_mean_pooling: bool) -> None:
    model, encoder = videomae(use_mean_pooling=use_mean_pooling), STJEPAEncoder(ST_JEPA).eval()
    load_encoder(encoder, {f"videomae.{name}": value for name, value in model.state_dict().items()})
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = model(clip.transpose(1, 2)).last_hidden_state
        if use_mean_pooling:  # such a model has no last norm; the encoder has its own
            expected = torch.nn.functional.layer_norm(expected, (32,), eps=1e-6)
        torch.testing.assert_close(encoder(clip).flatten(1, 2), expected, rtol=1e-3, atol=1e-3)


def test_factorised_blocks_take_the_same_weights() -> None:
    encoder = STJEPAEncoder(STJEPAConfig(**{**vars(ST_JEPA), "num_joint": 0}))
    assert load_encoder(encoder, videomae(use_mean_pooling=False).state_dict()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("layers.1.mlp.fc1.bias"), r"blocks\.1\.mlp\.fc1\.bias is missing"),
        (
            lambda tensors: tensors.update({"layernorm.weight": torch.zeros(9)}),
            r"norm\.weight has shape \[9\], not \[32\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change: object, said: str) -> None:
    tensors = dict(vit().state_dict())
    change(tensors)  # type: ignore[operator]
    with pytest.raises(ValueError, match=said):
        load_encoder(ViTEncoder(SALT), tensors)
