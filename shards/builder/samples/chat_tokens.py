"""Chats to tokens: the tokenizer of a language model and its chat template, without torch and without transformers.

Prompt and answer are tokenised apart and joined, so that no token straddles the two: what is asked of the model is the
same, whatever it answers.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shards.format.publish import canonical_json

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
OWN, LITERAL = "tokenizer", "literal"
# Each turn on a line of its own, as it is; an answer ends with the token that ends a text.
LITERAL_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message.content }}{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}"
    "{% endfor %}"
)
_ALLOWED = "give an id on the Hub, or a folder that `save_pretrained` of a fast tokenizer made"


class ChatTokens(NamedTuple):
    """A chat as a language model sees it.

    Attributes:
        ids: i32 [m].
        answer: u8 [m], 1 on what the assistant says and on the token that ends it.
    """

    ids: NDArray[np.int32]
    answer: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ChatTokenizer:
    """A tokenizer with a template, by their contents, so that it goes to other processes and machines.

    Attributes:
        name: an id on the Hub, or a folder's last part.
        description: what tokenizer.json holds.
        template: a Jinja template of chats.
        special: the names of special tokens (`eos_token`, `bos_token`, ...) and the tokens.
    """

    name: str
    description: str
    template: str
    special: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def load(cls, id_or_folder: str, template: str = OWN) -> ChatTokenizer:
        """Read the tokenizer's files.

        Args:
            id_or_folder: an id on the Hub, or a folder.
            template: "tokenizer" for its own chat template, "literal" for turns as they are, or a Jinja template.

        Raises:
            ValueError: there is no such tokenizer, it is no fast one, or has no such template.
        """
        files = _read_files(id_or_folder)
        try:
            config: Any = json.loads(files.get(CONFIG_FILE, "{}"))
            Tokenizer.from_str(files[TOKENIZER_FILE])
        except Exception as error:  # tokenizers raises plain ones
            what = " ".join(str(error).split())[:200]
            raise ValueError(f"cannot read the tokenizer {id_or_folder!r}: {what}; {_ALLOWED}") from None
        special = {name: _spell_token(value) for name, value in config.items() if name.endswith("_token") and value}
        if template == OWN:
            template = files.get(TEMPLATE_FILE) or _template_of(config, id_or_folder)
        elif template == LITERAL:
            template = LITERAL_TEMPLATE
            if "eos_token" not in special:
                raise ValueError(f"the tokenizer {id_or_folder!r} names no eos_token, which ends answers; {_ALLOWED}")
        folder = Path(id_or_folder)
        name = folder.resolve().name if folder.is_dir() else id_or_folder
        found = cls(name=name, description=files[TOKENIZER_FILE], template=template, special=special)
        _compiled(template)
        return found

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return _vocab_size(self.description)

    @property
    def sha256(self) -> str:
        """Digest (hex) of all that decides which tokens a text has."""
        return _sha256(self.description)

    def facts(self) -> dict[str, Any]:
        """What a data set keeps of it."""
        digest = hashlib.sha256(canonical_json([self.template, dict(self.special)])).hexdigest()
        about = {"id": self.name, "sha256": self.sha256, "vocab_size": self.vocab_size}
        return {"tokenizer": about, "template_sha256": digest}

    def render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        """The text of a chat; with `ask`, up to where the assistant is to begin.

        Raises:
            ValueError: the template does not take these messages.
        """
        try:
            plain = [dict(message) for message in messages]
            return _compiled(self.template).render(messages=plain, add_generation_prompt=ask, **self.special)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template does not take this chat: {' '.join(str(error).split())}") from None

    def parts(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The text of a chat in pieces, each with whether the assistant says it. Joined, they are the whole text.

        Raises:
            ValueError: the template does not take these messages, or rewrites earlier turns where others follow.
        """
        found: list[tuple[str, bool]] = []
        done = ""
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked, said = self.render(messages[:number], ask=True), self.render(messages[: number + 1])
            if not asked.startswith(done) or not said.startswith(asked):
                raise ValueError(f"the chat template writes turn {number} otherwise when others follow it")
            answer = said[len(asked) :].rstrip()  # the line's end behind an answer is not said by anybody
            found += [(asked[len(done) :], False), (answer, True)]
            done = asked + answer
        whole = self.render(messages)
        if not whole.startswith(done):
            raise ValueError("the chat template writes earlier turns otherwise when others follow them")
        return [part for part in (*found, (whole[len(done) :], False)) if part[0]]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; special ones only where the text names them."""
        ids: list[int] = _backend(self.description).encode(text, add_special_tokens=False).ids
        return ids

    def tokens(self, messages: Sequence[Message]) -> ChatTokens:
        """The tokens of a chat.

        Raises:
            ValueError: as of `parts`.
        """
        ids: list[int] = []
        answer: list[int] = []
        for text, is_answer in self.parts(messages):
            piece = self.encode(text)
            ids += piece
            answer += [int(is_answer)] * len(piece)
        return ChatTokens(np.array(ids, "<i4"), np.array(answer, "|u1"))


@functools.lru_cache(maxsize=4)
def _backend(description: str) -> Tokenizer:
    return Tokenizer.from_str(description)


@functools.lru_cache(maxsize=4)
def _vocab_size(description: str) -> int:
    return max(_backend(description).get_vocab(with_added_tokens=True).values(), default=-1) + 1


@functools.lru_cache(maxsize=4)
def _sha256(description: str) -> str:
    return hashlib.sha256(description.encode()).hexdigest()


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says, for trainers that mask by it; the text is the same."""

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    """Compile a template as transformers does: it is not to be trusted, and so runs in a sandbox.

    Raises:
        ValueError: it is no template.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template is no Jinja template: {' '.join(str(error).split())}") from None


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _read_files(id_or_folder: str) -> dict[str, str]:
    """The tokenizer's files by name; tokenizer.json is there."""
    names = (TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE)
    folder = Path(id_or_folder)
    if folder.is_dir():
        paths = {name: folder / name for name in names if (folder / name).is_file()}
    elif not id_or_folder or id_or_folder.startswith((".", "/", "~")):  # no id on the Hub begins like this
        raise ValueError(f"there is no folder {id_or_folder!r} of a tokenizer; {_ALLOWED}")
    else:
        paths = _fetch(id_or_folder, names)
    if TOKENIZER_FILE not in paths:
        raise ValueError(f"the tokenizer {id_or_folder!r} has no {TOKENIZER_FILE}; {_ALLOWED}")
    try:
        return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the tokenizer {id_or_folder!r}: {error}; {_ALLOWED}") from None


def _fetch(name: str, files: Sequence[str]) -> dict[str, Path]:
    """Files of a repository on the Hub, by its own cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    paths = {}
    for file in files:
        try:
            paths[file] = Path(hf_hub_download(name, file))
        except EntryNotFoundError:
            continue
        except Exception as error:  # no network, no such repository, not a name: the Hub raises many
            what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"cannot load the tokenizer {name!r}: {what}; {_ALLOWED}") from None
    return paths


def _template_of(config: Mapping[str, Any], name: str) -> str:
    """The template in tokenizer_config.json, where older versions keep it: one, or several by name."""
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
    if not isinstance(found, str):
        raise ValueError(
            f"the tokenizer {name!r} has no chat template: choose chat.template 'literal', give one, or take the "
            "tokenizer of a model that was made for chats"
        )
    return found


def _spell_token(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)
