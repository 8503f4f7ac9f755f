"""The kind `chat`: a video or images as JPEG frames, and what is said of them as tokens; or text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.builder.config import TeacherFacts
from shards.builder.decode.decoders import VideoDecoder, decoder_facts
from shards.builder.decode.stream_facts import SourceFile
from shards.builder.decode.view import ViewSpec, check_quality
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared
from shards.builder.samples.chat_media import read_frames
from shards.builder.samples.chat_tokens import LITERAL, OWN, ChatTokenizer, ChatTokens, Message
from shards.builder.samples.frames import check_single_view
from shards.builder.samples.pictures import JpegWriter
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.writer import Value

ROLES = ("system", "user", "assistant")
STAGE_1_PROMPT = "What would be the WebVid caption for this video?"
# One frame a second by its time stamp, 64 at most, all of the picture in 224 px.
CHAT_VIEW = ViewSpec(sampling="fps", fps=1.0, max_frames=64, geometry="squash", size=224)


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How chats become tokens, and their pictures frames.

    Attributes:
        tokenizer: of the language model: an id on the Hub, or a folder.
        template: "tokenizer" is the tokenizer's own chat template; "literal" is turns as they are, each on a line, and
            a token that ends each answer; anything else is a Jinja template.
        prompt: what the user is taken to ask where there is a caption alone.
        max_tokens: a longer chat is cut there, which its JSON says; an answer that is cut away is a failure.
        frames: whether samples have frames; false for sets of text alone.
        quality: of the JPEGs, from 1 to 95.

    Raises:
        ValueError: a value is out of range.
    """

    tokenizer: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    template: str = OWN
    prompt: str = STAGE_1_PROMPT
    max_tokens: int = 1024
    frames: bool = True
    quality: int = 90

    def __post_init__(self) -> None:
        check_quality(self.quality, "chat.quality")
        if self.max_tokens < 1:
            raise ValueError(f"chat.max_tokens is {self.max_tokens}; it must be at least 1")
        if not self.tokenizer:
            raise ValueError("chat.tokenizer is empty; give an id on the Hub, or a folder")
        if self.template not in (OWN, LITERAL) and "{" not in self.template:
            raise ValueError(
                f"chat.template is {self.template!r}; choose {OWN!r}, {LITERAL!r}, or give a Jinja template"
            )
        if not self.prompt.strip():
            raise ValueError("chat.prompt is empty; give what the user asks where there is a caption alone")

    @property
    def name(self) -> str:
        """The tokenizer's id; of a folder its last part, which is the same on every machine."""
        folder = Path(self.tokenizer)
        return folder.resolve().name if folder.is_absolute() or folder.is_dir() else self.tokenizer


@dataclass(frozen=True, kw_only=True)
class ChatKind:
    """`frames` packed JPEGs, `times` f32 [n] in seconds, `tokens` i32 [m], `answer` u8 [m], and `json`.

    `answer` says what the assistant says, so that one set serves every stage of training. Sets of text alone have
    neither frames nor times.

    Attributes:
        view: which frames are taken of a video, and how each picture is cut out.
        chat: how chats become tokens.
        tokenizer: the tokenizer that `chat` names, with its template.
        decoder: who reads videos.
    """

    view: ViewSpec
    chat: ChatConfig
    tokenizer: ChatTokenizer
    decoder: VideoDecoder = "pyav"

    @classmethod
    def of(cls, view: ViewSpec, chat: ChatConfig, decoder: VideoDecoder = "pyav") -> ChatKind:
        """Return the kind that a recipe's sections `view`, `chat` and `build` describe; reads the tokenizer.

        Raises:
            ValueError: there is no such tokenizer or template.
        """
        return cls(view=view, chat=chat, tokenizer=ChatTokenizer.load(chat.tokenizer, chat.template), decoder=decoder)

    @property
    def name(self) -> str:
        """What it is called in plans and recipes."""
        return "chat"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return frames and times, unless there is text alone, tokens, answer and json.

        Raises:
            ValueError: there is a teacher, the view's pictures differ in size, or there are several views.
        """
        if teacher is not None:
            raise ValueError("chats have no targets: build them without a teacher")
        if self.view.geometry == "whole":
            raise ValueError(
                "view.geometry 'whole' keeps the shape of each picture, and a batch has one: choose 'squash'"
            )
        check_single_view(self.view)
        fields = [
            Field(name="tokens", dtype="<i4", shape=(None,)),
            Field(name="answer", dtype="|u1", shape=(None,)),
            Field(name="json"),
        ]
        if self.chat.frames:
            fields = [Field(name="frames", layout="packed"), Field(name="times", dtype="<f4", shape=(None,)), *fields]
        return Schema(tuple(fields))

    def fingerprint(self) -> Mapping[str, Any]:
        """Return tokenizer, template and prompt, and of sets with frames view, decoder and quality.

        Raises:
            ValueError: the decoder is not installed.
        """
        chat = self.chat
        about = {"kind": self.name, "template": chat.template, "prompt": chat.prompt, "max_tokens": chat.max_tokens}
        about |= {**self.tokenizer.facts(), "frames": chat.frames}
        if not chat.frames:
            return {"sample": about}
        return {
            "sample": {**about, "quality": chat.quality},
            "view": self.view.to_json() | {"hash": self.view.hash},
            "decoder": decoder_facts(self.decoder),
        }

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Tokenise a chat and decode what it is about.

        Raises:
            BuildFailure: with the reason, when it cannot become a sample.
        """
        messages = chat_messages(item, self.chat.prompt)
        tokens, num_tokens = self._tokens(messages)
        facts: dict[str, Any] = {"messages": messages, "num_tokens": num_tokens}
        arrays: dict[str, Array] = {"tokens": tokens.ids, "answer": tokens.answer}
        blobs: dict[str, Sequence[bytes]] = {}
        frames, source = read_frames(root, item, JpegWriter(view=self.view, quality=self.chat.quality), self.decoder)
        if not self.chat.frames:
            if frames is not None:
                raise BuildFailure("bad_annotation", "it has pictures, and the set is of text alone (chat.frames)")
            return Prepared(arrays=arrays, facts=facts)
        facts["num_frames"] = 0
        arrays["times"], blobs["frames"] = np.empty(0, "<f4"), ()
        if frames is not None:
            facts |= {
                "num_frames": len(frames.jpegs),
                "frame_indices": frames.indices,
                "num_source_frames": frames.num_source_frames,
                "decoder": frames.decoder,
            }
            arrays["times"], blobs["frames"] = np.array(frames.seconds, "<f4"), frames.jpegs
        return Prepared(arrays=arrays, blobs=blobs, facts=facts, source=source)

    def _tokens(self, messages: Sequence[Message]) -> tuple[ChatTokens, int]:
        """The tokens that are kept of a chat, and how many it has."""
        try:
            tokens = self.tokenizer.tokens(messages)
        except ValueError as error:
            raise BuildFailure("bad_annotation", str(error)) from None
        most, num_tokens = self.chat.max_tokens, len(tokens.ids)
        kept = ChatTokens(tokens.ids[:most], tokens.answer[:most])
        if not kept.answer.any():
            found = f"its answer begins behind the {most} tokens (chat.max_tokens) that are kept of {num_tokens}"
            raise BuildFailure("answer_cut", found)
        return kept, num_tokens

    def teacher_rows(self, prepared: Prepared) -> None:
        """Return None: there is no teacher."""

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return frames and tokens, and what the sample says and exactly where it came from."""
        arrays, facts = prepared.arrays, dict(prepared.facts)
        about: dict[str, Any] = {
            "id": item.id,
            "source": item.extra.get("source"),
            "messages": facts.pop("messages"),
            "tokenizer_sha256": self.tokenizer.sha256,
            "template": self.chat.template,
            "truncated": facts["num_tokens"] > len(arrays["tokens"]),
            **facts,
        }
        sample: dict[str, Value] = {"tokens": arrays["tokens"], "answer": arrays["answer"]}
        if self.chat.frames:
            sample |= {"frames": prepared.blobs["frames"], "times": arrays["times"]}
            about |= {"path": item.path, "view_hash": self.view.hash} if item.path else {}
            about |= _origin(prepared.source)
        return sample | {"json": canonical_json(about)}


def _origin(source: SourceFile | None) -> dict[str, Any]:
    return {} if source is None else {"source_bytes": source.num_bytes, "source_xxh3_128": source.xxh3_128}


def chat_messages(item: Item, prompt: str) -> list[dict[str, str]]:
    """The turns of a chat: those of the item, or its caption as the answer to a prompt.

    Raises:
        BuildFailure: `bad_annotation`: there is nothing that an assistant says.
    """
    messages = item.extra.get("messages")
    if messages is None:
        caption = (item.text or "").strip()
        if not caption:
            raise BuildFailure("bad_annotation", "it has neither messages nor a caption")
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": caption}]
    turns = []
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            found = f"turn {number} has the role {role!r} and content of type {type(content).__name__}"
            raise BuildFailure("bad_annotation", f"{found}; roles are {', '.join(ROLES)}, content is text")
        turns.append({"role": role, "content": content})
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
        raise BuildFailure("bad_annotation", "nobody answers in it: there is no turn of the assistant with text")
    return turns
