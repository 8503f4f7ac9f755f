"""Where a foveated VLM looks, and what it says: pictures of some samples for the pages that show its scores."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.foveated import FoveatedVLM, Mode
from model.generate import generate
from tools.pages.elements import figures, heading, paragraph, picture, strips
from tools.pages.html import Html, tag
from tools.pages.strips import strip
from tools.systems.asking import Words

if TYPE_CHECKING:
    from shards.dataset import ShardDataset
    from tools.systems.fvlm import FoveatedRecipe

MOST_SAMPLES, MOST_OF_A_SOURCE, MOST_LOOKED_AT = 6, 2, 256
MOST_FRAMES = 6  # in a picture
MAX_NEW_TOKENS = 32
DARK = 0.15  # brightness of a patch that is not looked at
_LOOKS: dict[str, Mode] = {"coarse": "coarse_only", "fine": "coarse_fine"}
_ABOUT = """The first samples of each source, not the best ones. The brighter a patch, the more the query of that frame
attends to it: mean over layers and heads, beside the brightest patch of the frame. Coarse: the one learned query. Fine:
what the language model wrote at the frame before; the first is the same in every video. Of more than {most} frames so
many are shown, at equal distances. What the model says it says frame by frame, as it is used."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One sample, where the queries look in it, and what is said of it.

    Attributes:
        source: of the chat.
        question: what is asked, as text.
        answer: the right one.
        said: what the model writes.
        frames: u8 [T, H, W, 3].
        attention: f32 [T, h, w] by look, "coarse" and "fine": weights of the patches, which add up to less than 1, as
            the CLS token has a part in it.
    """

    source: str
    question: str
    answer: str
    said: str
    frames: NDArray[np.uint8]
    attention: Mapping[str, NDArray[np.float32]]


def show_looks(recipe: FoveatedRecipe, model: torch.nn.Module, datasets: Mapping[str, ShardDataset]) -> Iterator[Html]:
    """A section of some held-out samples; nothing where none has a frame."""
    dataset = datasets["val"]
    found = [look_at(recipe, model, dataset, number) for number in chosen(dataset)]
    if not found:
        return
    yield heading("Where it looks, and what it says")
    yield paragraph(_ABOUT.format(most=MOST_FRAMES), class_="small")
    yield figures(*(_figure(look) for look in found))


def chosen(dataset: ShardDataset) -> list[int]:
    """The first samples with frames of each source, among the first of the set."""
    if "frames" not in dataset.schema:
        return []
    by_source: dict[str, list[int]] = {}
    for number in range(min(len(dataset), MOST_LOOKED_AT)):
        about = dataset.metadata(number)
        of_source = by_source.setdefault(str(about.get("source", "")), [])
        if about["num_frames"] and len(of_source) < MOST_OF_A_SOURCE:
            of_source.append(number)
    return [number for numbers in by_source.values() for number in numbers][:MOST_SAMPLES]


@torch.inference_mode()
def look_at(recipe: FoveatedRecipe, model: torch.nn.Module, dataset: ShardDataset, number: int) -> Look:
    """Look at one sample, and answer its first question.

    Args:
        recipe: the run's.
        model: in evaluation mode.
        dataset: of chats with frames.
        number: of the sample.
    """
    assert isinstance(model, FoveatedVLM)
    device, words = model.q_static.device, Words(recipe)
    sample = dataset[number]
    pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in cast(list[bytes], sample["frames"])]
    frames = np.stack([np.asarray(each) for each in pictures])
    tokens, answer = (np.asarray(sample[name]).reshape(-1) for name in ("tokens", "answer"))
    start = int(answer.argmax())
    stop = start + int(np.append(answer[start:], 0).argmin())
    asked = torch.from_numpy(tokens[:start].astype(np.int64)).to(device)
    pixels = torch.from_numpy(frames).movedim(-1, 1).to(device)
    coarse_only = recipe.objective.mode == "coarse_only"
    dtype = recipe.train.autocast_dtype(device)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        mode: Mode = "coarse_only" if coarse_only else "autoregressive"
        said = [*generate(model, pixels, asked, max_new_tokens=MAX_NEW_TOKENS, mode=mode)]
        looks = dict(list(_LOOKS.items())[:1]) if coarse_only else _LOOKS
        attention = {name: _attention(model, pixels, mode) for name, mode in looks.items()}
    about, ends = dataset.metadata(number), words.ends
    return Look(
        source=str(about.get("source", "")),
        question=" ".join(turn["content"] for turn in itertools.takewhile(_is_asked, about["messages"])),
        answer=words.text(tokens[start:stop].tolist()),
        said=words.text([token for token in said if token not in ends]),
        frames=frames,
        attention=attention,
    )


def _is_asked(turn: Mapping[str, str]) -> bool:
    return turn["role"] != "assistant"


def _attention(model: FoveatedVLM, pixels: Tensor, mode: Mode) -> NDArray[np.float32]:
    """Of the queries of each frame of one video, f32 [T, h, w]."""
    seen = model.see(pixels[None], torch.tensor([len(pixels)], device=pixels.device))
    assert seen is not None
    weights = model.attention(seen.pictures, model.queries(seen, mode)).mean(dim=(0, 2))  # [T, P]
    height, width = pixels.shape[-2:]
    num_patches = weights.shape[1] - 1  # less the CLS token
    rows = round((num_patches * height / width) ** 0.5)
    found: NDArray[np.float32] = weights[:, 1:].reshape(len(pixels), rows, -1).cpu().numpy()
    return found


def _figure(look: Look) -> Html:
    shown = np.unique(np.linspace(0, len(look.frames) - 1, MOST_FRAMES).round().astype(int))
    frames = look.frames[shown]
    rows = {"frames": frames} | {name: _lit(frames, weights[shown]) for name, weights in look.attention.items()}
    about = f"{len(look.frames)} frames, asked: {look.question}"
    made = [(name, picture(strip(row), f"{name}: {about}")) for name, row in rows.items()]
    lines = (("asked", look.question), ("right", look.answer), ("said", look.said))
    said = [tag("div", tag("b", f"{name} "), text) for name, text in lines]
    return tag("figure", tag("figcaption", look.source), strips(made), tag("figcaption", *said))


def _lit(frames: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Frames as bright as they are looked at, patch by patch."""
    light = DARK + (1 - DARK) * weights / weights.max(axis=(1, 2), keepdims=True)
    side = (frames.shape[1] // weights.shape[1], frames.shape[2] // weights.shape[2])
    return np.rint(frames * np.kron(light, np.ones(side))[..., None]).astype(np.uint8)
