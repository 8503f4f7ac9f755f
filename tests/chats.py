"""Chats for tests: videos of different lengths with captions that tell what they show, text alone, and a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shards.builder import BuildConfig, BuildSummary, ChatConfig, ChatKind, ViewSpec, build_dataset, load_chats
from shards.dataset import ShardDataset
from tests.videos import write_video

SIDE = 28  # pixels of a frame, two patches of 14
VIEW = ViewSpec(sampling="fps", fps=1.0, max_frames=64, geometry="squash", size=SIDE)
CONFIG = BuildConfig(samples_per_shard=8, workers=2, time_limit_seconds=None)
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 70, 220), "white": (240, 240, 240)}
PLACES = {"left": 0, "right": 1}
# ChatML, as SmolLM2's own template has it.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_tokenizer(folder: Path, merges: Sequence[tuple[str, str]] = ()) -> Path:
    """A tokenizer of bytes, and of the pairs that are merged, saved by transformers: 259 ids without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def scene(seconds: int, colour: str, place: str) -> NDArray[np.uint8]:
    """A square of a colour on one side of a grey picture, one frame a second: u8 [T, 32, 32, 3]."""
    frames = np.full((seconds, 32, 32, 3), 110, np.uint8)
    for second in range(seconds):
        top, left = 4 + second * 7 % 16, 4 + 14 * PLACES[place]
        frames[second, top : top + 10, left : left + 10] = COLOURS[colour]
    return frames


def write_chats(folder: Path, lengths: Sequence[int], *, seed: int = 0) -> Path:
    """A JSONL file of chats, one for each length in seconds, and their videos; a length of 0 is text alone.

    Every third has messages, with a question about the colour or the place; the others have a caption.
    """
    random, lines = np.random.default_rng(seed), []
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    for number, seconds in enumerate(lengths):
        colour, place = str(random.choice(list(COLOURS))), str(random.choice(list(PLACES)))
        record: dict[str, Any] = {"id": f"chat-{number:04d}", "source": "scenes"}
        if seconds:
            name = f"videos/{number:04d}.mp4"
            write_video(folder / name, scene(seconds, colour, place), codec="libx264", rate=1)
            record["video"] = name
        if number % 3 == 2 or not seconds:
            asked, answer = ("What colour is it?", colour) if number % 2 else ("On which side is it?", place)
            asked = asked if seconds else f"A square is {colour} and on the {place}. {asked}"
            record["messages"] = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{answer}."}]
        else:
            record["caption"] = f"A {colour} square on the {place}" + " hops" * (seconds % 5) + "."
        lines.append(json.dumps(record))
    path = folder / "chats.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def chat_config(tokenizer: Path, **changes: Any) -> ChatConfig:
    """How chats become tokens: by the tokenizer of a folder, at most 256."""
    return replace(ChatConfig(tokenizer=str(tokenizer), max_tokens=256), **changes)


def build_chats(chats: Path, out: Path, chat: ChatConfig, **arguments: Any) -> BuildSummary:
    """Build the data set of a JSONL file; sets of text alone with `frames=False` in `chat`."""
    kind = ChatKind.of(arguments.pop("view", VIEW), chat)
    return build_dataset(load_chats(chats), out, kind=kind, **{"config": CONFIG, **arguments})


def make_chat_sets(folder: Path, *, num_videos: int = 24, num_texts: int = 12) -> dict[str, ShardDataset]:
    """A set of videos of 1 to 9 seconds and a set of text alone, as the sources `video` and `text` of a mix."""
    tokenizer = write_tokenizer(folder / "tokenizer")
    lengths = [1 + number * 5 % 9 for number in range(num_videos)]
    build_chats(write_chats(folder / "raw_video", lengths), folder / "video", chat_config(tokenizer))
    text = write_chats(folder / "raw_text", [0] * num_texts, seed=1)
    build_chats(text, folder / "text", chat_config(tokenizer, frames=False))
    return {name: ShardDataset.open(folder / name) for name in ("video", "text")}
