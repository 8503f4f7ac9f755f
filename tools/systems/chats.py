"""What the systems share whose samples are chats: about a video, about images, or text alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pipeline.read.decoders import JpegFrames
from pipeline.reads import Reads
from shards.builder.decode.view import ViewSpec
from shards.builder.samples.chat import CHAT_VIEW, ChatConfig, ChatKind
from shards.builder.samples.chat_tokens import ChatTokenizer
from tools.systems.base import Feed, Recipe, System

if TYPE_CHECKING:
    from shards.builder import SampleKind, Source
    from shards.dataset import ShardDataset

ALIKE = {"answer": "tokens"}  # one for each token


@dataclass(frozen=True, kw_only=True)
class ChatRecipe(Recipe):
    """A resolved recipe of a student of chats.

    Attributes:
        view: which frames are taken of a video, and how each is cut out.
        chat: how chats become tokens.
    """

    view: ViewSpec = field(default_factory=lambda: CHAT_VIEW)
    chat: ChatConfig = field(default_factory=ChatConfig)


C_contra = TypeVar("C_contra", bound=ChatRecipe, contravariant=True)


class ChatSystem(System[C_contra], Protocol[C_contra]):
    """A student of chats: what is left to say is its model, its objective and how it is scored."""

    def open_source(self, recipe: C_contra, videos: Path, annotations: Path | None, split: str) -> Source:
        """Chats in JSONL, JSON or parquet, or a table of captions."""
        from shards.builder.sources.chat_open import open_chats

        return open_chats(videos, annotations, split)

    def open_tars(self, recipe: C_contra, tars: str, scratch: Path) -> Source:
        """Chats in tars of others."""
        from tools.chat_tars import open_tars

        return open_tars(tars, scratch)

    def sample_kind(self, recipe: C_contra) -> SampleKind:
        """Frames and tokens of the recipe's tokenizer."""
        return ChatKind.of(recipe.view, recipe.chat, recipe.build.decoder)

    def feed(self, recipe: C_contra, dataset: ShardDataset, source: str = "") -> Feed:
        """Frames u8 `[B, T, 3, H, W]` where the set has them, and tokens, all of them, with zeros behind.

        Raises:
            ValueError: the set holds no chats, or those of another tokenizer or view.
        """
        refuse_other_chats(dataset, recipe)
        shapes: dict[str, tuple[int | None, ...]] = {"tokens": (None,), "answer": (None,)}
        if "frames" not in dataset.schema:
            return Feed(reads=Reads(fields=("tokens", "answer"), alike=ALIKE), shapes=shapes)
        side = recipe.view.size
        decoder = JpegFrames(side, side, channels_first=True)
        reads = Reads(fields=("frames", "tokens", "answer"), decoders={"frames": decoder}, alike=ALIKE)
        return Feed(reads=reads, shapes={"frames": (None, 3, side, side), **shapes})

    def as_kept(self, recipe: C_contra) -> ChatRecipe:
        """A tokenizer's folder by its last part."""
        return replace(recipe, chat=replace(recipe.chat, tokenizer=recipe.chat.name))

    def describe(self, recipe: C_contra, dataset: ShardDataset) -> Mapping[str, str]:
        """Whose tokens the data set holds."""
        about = dataset.manifest.provenance["sample"]
        tokenizer = about["tokenizer"]
        return {"tokens": f"{tokenizer['id']}, {tokenizer['vocab_size']:,} ids, template {about['template'][:40]!r}"}


def refuse_other_chats(dataset: ShardDataset, recipe: ChatRecipe) -> None:
    """Compare a data set with what the recipe's model reads. One set serves stages of other prompts and templates.

    Raises:
        ValueError: it holds no chats, other tokens, or pictures of another size.
    """
    about = dataset.manifest.provenance.get("sample")
    if not isinstance(about, Mapping) or about.get("kind") != "chat":
        raise ValueError(f"{dataset.place} holds no chats: build it by this recipe")
    tokenizer = ChatTokenizer.load(recipe.chat.tokenizer, "")
    if about["tokenizer"]["sha256"] != tokenizer.sha256:
        raise ValueError(
            f"{dataset.place} holds the tokens of {about['tokenizer']['id']}, the recipe's model reads those of "
            f"{recipe.chat.name}: build it by this recipe, or give its tokenizer as chat.tokenizer"
        )
    view = dataset.manifest.provenance.get("view")
    if "frames" in dataset.schema and (not isinstance(view, Mapping) or view.get("size") != recipe.view.size):
        size = view.get("size") if isinstance(view, Mapping) else None
        raise ValueError(
            f"{dataset.place} holds pictures of {size} px, the recipe's view is of {recipe.view.size} px: build it "
            "by this recipe, or change view.size"
        )
