"""Published image-text models are asked as transformers would ask them, without torchvision."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, Idefics3Processor, LlavaProcessor

from model.image_text import ImageTextModel
from model.likelihood import shared_beginning
from tests.tiny_image_text import LLAVA_TEMPLATE, PATCH, SMOLVLM_TEMPLATE, save_idefics3, save_llava, save_smolvlm
from tools.speakers import ImageTextSpeaker

TURNS = [{"role": "user", "content": "What is <image> there?"}]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("image_text")
    saved = {"smolvlm": save_smolvlm, "idefics3": save_idefics3, "llava": save_llava}
    return {family: save(root / family) for family, save in saved.items()}


def loaded(folder: Path) -> ImageTextModel:
    return ImageTextModel.load(str(folder), device=CPU, dtype=torch.float32)


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(count)]


def official(family: str, folder: Path) -> Any:
    """The processor of transformers; Idefics 3's writes the same as SmolVLM's, and needs no video processor."""
    parts = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    if family == "llava":
        strategy = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return LlavaProcessor(*parts, patch_size=PATCH, chat_template=LLAVA_TEMPLATE, **strategy)
    return Idefics3Processor(*parts, image_seq_len=4, chat_template=SMOLVLM_TEMPLATE)


def official_inputs(family: str, folder: Path, images: Sequence[Image.Image], whole: bool) -> Any:
    processor = official(family, folder)
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": "What is  there?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    more = {"do_image_splitting": False, "size": {"longest_edge": 32}} if whole and family != "llava" else {}
    given: Any = images if family == "llava" else [images]
    return processor(text=[text], images=given, return_tensors="pt", **more)


@pytest.mark.parametrize("family", ["smolvlm", "idefics3", "llava"])
@pytest.mark.parametrize(("count", "whole"), [(3, True), (1, False)])
def test_greedy_answers_and_likelihoods_are_those_of_the_official_processor(
    folders: dict[str, Path], family: str, count: int, whole: bool
) -> None:
    asked, images = loaded(folders[family]), pictures(count)
    inputs = official_inputs(family, folders[family], images, whole)
    inputs.pop("token_type_ids", None)
    tokens = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        expected = asked.model.generate(**inputs, do_sample=False, max_new_tokens=6, pad_token_id=0)[0, tokens:]
    tokenizer = AutoTokenizer.from_pretrained(folders[family])
    assert asked.write(images, whole, TURNS, 6) == tokenizer.decode(expected, skip_special_tokens=True).strip()

    options = ["A", "Be red", "C"]
    for (log, length), option in zip(asked.weigh(images, whole, TURNS, "", options), options, strict=True):
        more = torch.tensor([tokenizer.encode(f" {option}", add_special_tokens=False)])
        whole_inputs = {**inputs, "input_ids": torch.cat([inputs["input_ids"], more], dim=1)}
        whole_inputs["attention_mask"] = torch.ones_like(whole_inputs["input_ids"])
        with torch.inference_mode():
            scores = asked.model(**whole_inputs).logits[0, tokens - 1 : -1].log_softmax(dim=-1)
        assert length == more.shape[1]
        assert log == pytest.approx(float(scores.gather(1, more.T).sum()), abs=1e-4)


@pytest.mark.parametrize("family", ["smolvlm", "llava"])
def test_an_answer_depends_on_the_pictures_and_on_their_order(folders: dict[str, Path], family: str) -> None:
    asked, images = loaded(folders[family]), pictures(2)
    found = [
        asked.weigh(some, True, TURNS, "", ["A", "B"]) for some in (images, images[::-1], pictures(2, seed=1), images)
    ]
    assert found[0] == found[3]
    assert len({str(each) for each in found[:3]}) == 3


def test_a_begun_answer_is_part_of_what_is_given(folders: dict[str, Path]) -> None:
    asked, images = loaded(folders["smolvlm"]), pictures(1)
    begun = asked.weigh(images, True, TURNS, "Best Option: (", ["A", "B"])
    assert [count for _, count in begun] == [1, 1]  # no blank behind the bracket
    whole = asked.weigh(images, True, TURNS, "", ["Best Option: (A", "Best Option: (B"])
    assert whole[0][0] - whole[1][0] == pytest.approx(begun[0][0] - begun[1][0], abs=1e-4)


def test_pictures_beyond_what_the_model_reads_are_refused(tmp_path: Path) -> None:
    asked = loaded(save_smolvlm(tmp_path / "short", max_position_embeddings=40))
    with pytest.raises(ValueError, match=r"3 pictures and what is asked are .* the model reads 40: give fewer"):
        asked.write(pictures(3), True, TURNS, 1)
    assert asked.most_frames(19) == 3  # 7 tokens each
    assert asked.most_frames(100) == 1
    with pytest.raises(ValueError, match=r"--max-frames is 2, and .*short reads 1 with 512 tokens of words"):
        ImageTextSpeaker(str(tmp_path / "short"), "cpu", 2)
    assert ImageTextSpeaker(str(tmp_path / "short"), "cpu").facts()["frames"]["max_frames"] == 1


def test_models_that_cannot_be_asked_are_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    from tests.tiny_vlm import save_parts

    with pytest.raises(ValueError, match="is a 'llama'; those that can be asked here are smolvlm, idefics3, llava"):
        loaded(save_parts(tmp_path)[1])
    with pytest.raises(ValueError, match="cannot load the image-text model '/nowhere/at/all': there is no such folder"):
        loaded(Path("/nowhere/at/all"))
    bare = tmp_path / "bare"
    shutil.copytree(folders["llava"], bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="it has no chat template"):
        loaded(bare)
    (bare / "chat_template.json").write_text('{"chat_template": "{{ messages[0].content[0].type }}"}')
    with pytest.raises(ValueError, match="0 places for pictures where 1 are shown"):
        loaded(bare).write(pictures(1), True, TURNS, 1)
    (bare / "chat_template.json").write_text('{"chat_template": "{{ raise_exception(\'text alone\') }}"}')
    with pytest.raises(ValueError, match="the chat template does not take pictures: text alone"):
        loaded(bare).write(pictures(1), True, TURNS, 1)


def test_continuations_share_what_a_tokenizer_leaves_of_the_prompt() -> None:
    assert shared_beginning([1, 2, 3], [[1, 2, 3, 4], [1, 2, 3, 5, 6]]) == 3
    assert shared_beginning([1, 2, 3], [[1, 2, 34], [1, 2, 3, 5]]) == 2  # the last token was joined with what follows
    assert shared_beginning([1, 2, 3], [[1, 2, 3], [1, 2, 3, 4]]) == 2  # an option has a token at least
