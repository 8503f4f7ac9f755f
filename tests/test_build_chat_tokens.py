"""Chats to tokens: by the template that transformers would use, prompt and answer apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from shards.builder import BuildFailure, ChatKind, load_chats
from shards.builder.samples.chat_tokens import ChatTokenizer
from tests.chats import VIEW, chat_config, write_chats, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes")


def text_of(tokenizer: Path, ids: Any) -> str:
    return str(AutoTokenizer.from_pretrained(tokenizer).decode(ids, skip_special_tokens=False))


def tokens_of(tokenizer: Path, messages: list[dict[str, str]], template: str = "tokenizer") -> tuple[list[int], str]:
    """The ids of a chat, and what of its text counts as an answer."""
    found = ChatTokenizer.load(str(tokenizer), template).tokens(messages)
    return found.ids.tolist(), text_of(tokenizer, found.ids[found.answer == 1])


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A square. "},
    {"role": "user", "content": "Where — left?"},
    {"role": "assistant", "content": "Ünten\n\nlinks 🟥"},
]


def test_a_chat_of_several_turns_is_what_transformers_makes_of_it(tokenizer: Path) -> None:
    reference = AutoTokenizer.from_pretrained(tokenizer)
    ids, answers = tokens_of(tokenizer, TALK)
    assert ids == reference.apply_chat_template(TALK, tokenize=True, return_dict=True)["input_ids"]
    assert answers == "A square. <|im_end|>Ünten\n\nlinks 🟥<|im_end|>"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}",
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m['content'] | tojson }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        "{%- for m in messages -%}\n    {%- if loop.first and m.role != 'system' -%}\n        {{- 'You help.' -}}\n"
        "    {%- endif -%}\n    {{- m.content + '\\n' -}}\n{%- endfor -%}",
    ],
)
def test_any_jinja_template_renders_as_transformers_renders_it(tokenizer: Path, template: str) -> None:
    reference = AutoTokenizer.from_pretrained(tokenizer)
    reference.chat_template = template
    for count in (2, 3, 5):
        messages = TALK[1:count] if count < 5 else TALK
        if messages[-1]["role"] != "assistant":
            continue
        ids, answers = tokens_of(tokenizer, messages, template)
        assert text_of(tokenizer, ids) == reference.apply_chat_template(messages, tokenize=False)
        assert "What is it?" not in answers


def test_the_literal_template_is_prompt_line_and_answer(tokenizer: Path) -> None:
    ids, answers = tokens_of(tokenizer, TALK[1:3], "literal")
    assert text_of(tokenizer, ids) == "What is it?\nA square. <|im_end|>\n"
    assert answers == "A square. <|im_end|>"


def test_no_token_straddles_prompt_and_answer(tmp_path: Path) -> None:
    """Of the whole text the tokenizer would make one token of the line's end and the first letter behind it."""
    merged = write_tokenizer(tmp_path / "merged", merges=[("Ċ", "A"), ("t", "Ċ")])
    chat = [{"role": "user", "content": "What"}, {"role": "assistant", "content": "A"}]
    whole = ChatTokenizer.load(str(merged)).encode("What\nA")
    assert len(whole) < len("What\nA")
    ids, answers = tokens_of(merged, chat)
    assert answers == "A<|im_end|>"
    asked = ChatTokenizer.load(str(merged)).render(chat[:1], ask=True)
    prompt = ChatTokenizer.load(str(merged)).encode(asked)
    assert ids[: len(prompt)] == prompt  # whatever is answered
    assert asked.endswith("\n")


@pytest.mark.parametrize(
    ("tokenizer", "template", "said"),
    [
        ("./nowhere", "tokenizer", "there is no folder './nowhere'"),
        ("empty", "tokenizer", "has no tokenizer.json"),
        ("broken", "tokenizer", "cannot read the tokenizer"),
        ("plain", "tokenizer", "has no chat template: choose chat.template 'literal'"),
        ("plain", "literal", "names no eos_token"),
        ("plain", "{% for %}", "is no Jinja template"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, tokenizer: str, template: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = write_tokenizer(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    (plain / "tokenizer_config.json").write_text("{}")
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match=said) as refused:
        ChatTokenizer.load(tokenizer, template)
    assert "\n" not in str(refused.value)


def test_a_template_that_runs_code_or_refuses_a_chat_costs_that_chat(tokenizer: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [0, 0])
    for template, said in (
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "SecurityError|unsafe|access to attribute"),
        ("{{ raise_exception('no systems here') }}", "no systems here"),
        ("{% for m in messages %}{{ messages | length }}{{ m.content }}\n{% endfor %}", "otherwise when others follow"),
    ):
        kind = ChatKind.of(VIEW, chat_config(tokenizer, frames=False, template=template))
        for item in load_chats(chats).items:
            with pytest.raises(BuildFailure, match=said) as failure:
                kind.prepare(chats.parent, item)
            assert failure.value.reason == "bad_annotation"
