"""Image-text-to-text models of transformers, in the few words that asking them about pictures needs.

Image processor and tokenizer are loaded apart, and the processor that joins them is not: it wants torchvision for
videos. What it would do with the text, to put as many tokens in as a picture has features, is done here, for the
families in `FAMILIES`. Frames of a video go in as images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor, nn

from model.likelihood import log_likelihoods, shared_beginning
from model.pretrained import load_pretrained, one_line, quiet

ALLOWED = (
    "Give the folder of a run, or an image-text-to-text model: its id on the Hub, or a folder made by its "
    "save_pretrained"
)
WHAT = "image-text model"


@dataclass(frozen=True)
class _Prepared:
    """Pictures for a model, and for each the text that stands for it, given how many tokens a tile of it has."""

    inputs: Mapping[str, Tensor]
    spell: Callable[[int], list[str]]


def _tiles(processor: Any, pictures: Sequence[Image], whole: bool, image_token: str) -> _Prepared:
    """Of Idefics 3 and SmolVLM, which cut an image into tiles; frames of a video stay whole."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    options = {"do_image_splitting": False, "size": dict(processor.max_image_size)} if whole else {}
    found = processor(images=[list(pictures)], return_tensors="pt", return_row_col_info=True, **options)
    places = list(zip(found.pop("rows")[0], found.pop("cols")[0], strict=True))

    def spell(count: int) -> list[str]:
        around, all_of_it = "<fake_token_around_image>", "<global-img>"
        return [get_image_prompt_string(rows, cols, count, around, image_token, all_of_it) for rows, cols in places]

    return _Prepared(dict(found), spell)


def _one_each(processor: Any, pictures: Sequence[Image], whole: bool, image_token: str) -> _Prepared:
    """Of LLaVA: each picture as it is cut out by its processor."""
    del whole
    found = processor(images=list(pictures), return_tensors="pt")
    return _Prepared({"pixel_values": found["pixel_values"]}, lambda count: [image_token * count] * len(pictures))


FAMILIES: Mapping[str, Callable[[Any, Sequence[Image], bool, str], _Prepared]] = {
    "smolvlm": _tiles,
    "idefics3": _tiles,
    "llava": _one_each,
}


class ImageTextModel:
    """A model with its tokenizer and image processor."""

    def __init__(self, model: nn.Module, tokenizer: Any, processor: Any, template: str) -> None:
        self.model: Any = model
        self._tokenizer, self._processor, self.template = tokenizer, processor, template
        config: Any = model.config
        self._most = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._prepare = FAMILIES[config.model_type]
        self._image_token: str = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self._features = lru_cache(maxsize=8)(self._count_features)

    @classmethod
    def load(cls, name: str, *, device: torch.device, dtype: torch.dtype) -> ImageTextModel:
        """Load the parts from a folder, or by an id on the Hub; nothing is printed.

        Raises:
            ValueError: they cannot be loaded, the model is of another family, or needs torchvision.
        """
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        with quiet(), one_line(name, ALLOWED, WHAT):
            family = AutoConfig.from_pretrained(name).model_type
        if family not in FAMILIES:
            raise ValueError(
                f"the {WHAT} {name!r} is a {family!r}; those that can be asked here are {', '.join(FAMILIES)}, others "
                "are asked through processors that need torchvision"
            )
        try:
            with quiet(), one_line(name, ALLOWED, WHAT):
                tokenizer = AutoTokenizer.from_pretrained(name)
                processor = AutoImageProcessor.from_pretrained(name, backend="pil")
                template = tokenizer.chat_template or _legacy_template(name)
        except ImportError as error:
            what = " ".join(str(error).split())[:120]
            raise ValueError(f"the {WHAT} {name!r} needs a package that is not here: {what}") from None
        model = load_pretrained(AutoModelForImageTextToText, name, dtype=dtype, allowed=ALLOWED, what=WHAT)
        return cls(model.to(device), tokenizer, processor, template)

    def most_frames(self, words: int) -> int:
        """How many frames of a video the model can read, with so many tokens of words beside them; one at least."""
        if self._most is None:
            return sys.maxsize
        blank = [new_image("RGB", (64, 64))]
        prepared = self._prepare(self._processor, blank, True, self._image_token)
        size = tuple(prepared.inputs["pixel_values"].shape[-2:])
        (text,) = prepared.spell(self._features(size))
        return max(1, (int(self._most) - words) // len(self._tokenizer(text, add_special_tokens=False).input_ids))

    @torch.inference_mode()
    def write(self, pictures: Sequence[Image], whole: bool, turns: Sequence[Mapping[str, str]], most: int) -> str:
        """Answer with the likeliest token each time.

        Args:
            pictures: RGB, in their order.
            whole: whether they stay whole, as frames of a video do.
            turns: `role` and `content` each; pictures stand at the beginning of the first of the user.
            most: tokens that are written.

        Raises:
            ValueError: the template does not take these turns, or all of it is longer than the model reads.
        """
        from transformers import GenerationConfig

        inputs, asked = self._asked(pictures, whole, turns)
        tokens = self._tensor([self._encode(asked)])
        self._refuse_long(tokens.shape[1] + most, len(pictures))
        ends = self.model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        greedy = GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=ends, pad_token_id=0)
        with quiet():
            found = self.model.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=greedy, **inputs
            )
        text: str = self._tokenizer.decode(found[0, tokens.shape[1] :], skip_special_tokens=True)
        return text.strip()

    @torch.inference_mode()
    def weigh(
        self,
        pictures: Sequence[Image],
        whole: bool,
        turns: Sequence[Mapping[str, str]],
        begun: str,
        options: Sequence[str],
    ) -> list[tuple[float, int]]:
        """Log-likelihood in nats and number of tokens of several ways in which a begun answer goes on.

        A blank stands before the answer, or before the option, where the text before it does not end in one or in a
        bracket.

        Raises:
            ValueError: as of `write`.
        """
        inputs, asked = self._asked(pictures, whole, turns)
        start = _joined(asked, begun)
        prompt, texts = self._encode(start), [self._encode(_joined(start, option)) for option in options]
        count = shared_beginning(prompt, texts)
        rest = [each[count:] for each in texts]
        self._refuse_long(max(map(len, texts)), len(pictures))
        found = self.model(input_ids=self._tensor([prompt[:count]]), use_cache=True, logits_to_keep=1, **inputs)
        cache = found.past_key_values

        def go_on(more: Tensor) -> Tensor:
            cache.batch_repeat_interleave(len(more))
            scores: Tensor = self.model(input_ids=more, past_key_values=cache, use_cache=True).logits
            return scores

        logs = log_likelihoods(found.logits[0, -1], rest, go_on)
        return [(log, len(tokens)) for log, tokens in zip(logs, rest, strict=True)]

    def _asked(
        self, pictures: Sequence[Image], whole: bool, turns: Sequence[Mapping[str, str]]
    ) -> tuple[dict[str, Tensor], str]:
        """What a model is given of the pictures, and the text up to where it is to answer."""
        prepared = self._prepare(self._processor, pictures, whole, self._image_token)
        dtype, device = self.model.dtype, self.model.device
        inputs = {
            key: value.to(device, dtype if value.is_floating_point() else None)
            for key, value in prepared.inputs.items()
        }
        spelled = prepared.spell(self._features(tuple(inputs["pixel_values"].shape[-2:])))
        pieces = self._render(len(pictures), turns).split(self._image_token)
        if len(pieces) != len(spelled) + 1:
            raise ValueError(
                f"the chat template has {len(pieces) - 1} places for pictures where {len(spelled)} are shown"
            )
        return inputs, pieces[0] + "".join(one + piece for one, piece in zip(spelled, pieces[1:], strict=True))

    def _render(self, num_pictures: int, turns: Sequence[Mapping[str, str]]) -> str:
        first = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), 0)
        chat = [
            {
                "role": turn["role"],
                "content": [
                    *([{"type": "image"}] * num_pictures if place == first else []),
                    {"type": "text", "text": turn["content"].replace(self._image_token, "")},
                ],
            }
            for place, turn in enumerate(turns)
        ]
        try:
            text: str = self._tokenizer.apply_chat_template(
                chat, chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise ValueError(f"the chat template does not take pictures: {' '.join(str(error).split())}") from None
        return text

    def _encode(self, text: str) -> list[int]:
        """Tokens of a text, begun as the tokenizer begins texts unless the template has done so."""
        begin = self._tokenizer.bos_token
        ids: list[int] = self._tokenizer(text, add_special_tokens=not (begin and text.startswith(begin))).input_ids
        return ids

    def _tensor(self, tokens: list[list[int]]) -> Tensor:
        return torch.tensor(tokens, device=self.model.device)

    @torch.inference_mode()
    def _count_features(self, size: tuple[int, int]) -> int:
        """How many tokens a tile of a height and width has; tried with one, so that it is what the model will want."""
        shape = (1, 1, 3, *size) if self._prepare is _tiles else (1, 3, *size)
        found = self.model.get_image_features(
            pixel_values=torch.ones(shape, dtype=self.model.dtype).to(self.model.device)
        )
        return len(found.pooler_output[0])

    def _refuse_long(self, num_tokens: int, num_pictures: int) -> None:
        if self._most is not None and num_tokens > self._most:
            raise ValueError(
                f"{num_pictures} pictures and what is asked are {num_tokens:,} tokens; the model reads {self._most:,}: "
                "give fewer --max-frames"
            )


def _joined(text: str, more: str) -> str:
    return f"{text} {more}" if more and text and not (text[-1].isspace() or text[-1] in "([{") else text + more


def _legacy_template(name: str) -> str:
    """The template of a processor, where earlier versions of transformers kept it.

    Raises:
        ValueError: there is none.
    """
    import json
    from pathlib import Path

    from transformers.utils import cached_file

    try:
        found: str = json.loads(Path(str(cached_file(name, "chat_template.json"))).read_text())["chat_template"]
    except (OSError, ValueError, KeyError):
        raise ValueError("it has no chat template.") from None
    return found
