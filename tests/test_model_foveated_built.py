"""The foveated VLM is built of two models in every size that is published, or it is said why not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.foveated import FoveatedConfig, FoveatedVLM, load_foveated
from tests.tiny_vlm import save_parts, tiny_dino, tiny_llm, tiny_vlm


@pytest.mark.parametrize("changes", [{"query_dim": 0}, {"query_std": 0.0}, {"visual_scale": -1.0}])
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        FoveatedConfig(**changes)


def test_the_learned_queries_are_drawn_with_their_spread() -> None:  # BUG-001
    wide = tiny_vlm(query_dim=4096)
    assert all(0.95 < float(query.detach().std()) < 1.05 for query in (wide.q_static, wide.q_init))
    assert float(tiny_vlm(query_dim=4096, query_std=0.02).q_static.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert wide.query_proj.bias is None  # BUG-002
    assert tiny_vlm(query_bias=True).query_proj.bias is not None


def test_it_is_loaded_from_two_folders_with_finite_weights(tmp_path: Path) -> None:
    dino, llm = save_parts(tmp_path)
    vlm = load_foveated(FoveatedConfig(dinov2=str(dino), llm=str(llm), query_dim=24, visual_scale="auto"))
    assert all(p.requires_grad and bool(p.isfinite().all()) for p in vlm.parameters())
    for name, expected in tiny_llm().named_parameters():
        assert torch.equal(vlm.llm.get_parameter(name), expected)
    for folder in (str(tmp_path), "/nowhere/at/all"):
        with pytest.raises(ValueError, match="cannot load the language model") as caught:
            load_foveated(FoveatedConfig(dinov2=str(dino), llm=folder))
        assert "\n" not in str(caught.value)


SIZES = {"S": (384, 6, 22_056_576), "B": (768, 12, 86_580_480)}


LANGUAGE = {
    "135M": ({"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}, (9, 3), 134_515_008),
    "360M": ({"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}, (15, 5), 361_821_120),
    "1.7B": ({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24}, (32, 32), 1_711_376_384),
}


@pytest.mark.parametrize("vision", SIZES)
@pytest.mark.parametrize("language", LANGUAGE)
def test_every_size_is_built_with_the_parameters_that_are_published(language: str, vision: str) -> None:
    width, heads, of_dino = SIZES[vision]
    sizes, (query_heads, value_heads), of_llm = LANGUAGE[language]
    with torch.device("meta"):
        dino = tiny_dino(
            hidden_size=width, num_attention_heads=heads, num_hidden_layers=12, image_size=518, mlp_ratio=4
        )
        llm = tiny_llm(**sizes, vocab_size=49152, num_attention_heads=query_heads, num_key_value_heads=value_heads)
        vlm = FoveatedVLM(dino, llm, FoveatedConfig())
        seen_width = sizes["hidden_size"]
        assert vlm.dino_to_llm(torch.empty(1, width)).shape == (1, seen_width)
        assert vlm.query_proj(vlm.llm_to_query(torch.empty(1, seen_width))).shape == (1, width)
    counts = {part: sum(p.numel() for p in vlm.get_submodule(part).parameters()) for part in ("dinov2", "llm")}
    assert counts == {"dinov2": of_dino, "llm": of_llm}
    between = sum(p.numel() for p in vlm.parameters()) - of_dino - of_llm
    assert between == 2 * 384 + 384 * width + (width + 1) * seen_width + (seen_width + 1) * 384
