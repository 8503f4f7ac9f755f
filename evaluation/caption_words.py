"""Captions as words, in the way of the Penn Treebank that the official caption metrics count in."""

from __future__ import annotations

import re

# Dropped where they are a word by themselves.
PUNCTUATION = frozenset(["''", '"', "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_IN_TWO = re.compile(r"\b(can)(not)\b|\b(gim|lem)(me)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b")
_WORDS = re.compile(
    r"(?:[a-z]\.){2,}|(?:mrs?|ms|dr|prof|st|vs|jr|sr|etc)\."  # u.s.a., dr.
    r"|[a-z]+(?=n't(?![a-z]))|n't(?![a-z])|'(?:s|m|d|ll|re|ve)(?![a-z])"  # do n't, man 's
    r"|o'clock|'n'|y'(?=all)|'t(?=is|was)"
    r"|\d+(?:[.,:]\d+)+"  # 3.5, 1,000, 10:30
    r"|https?://\S+|[^\W_]+(?:[-_/&][^\W_]+)*@\w+(?:\.\w+)+"
    r"|[^\W_]+(?:[-_/&][^\W_]+)*"  # t-shirt, m/s, r&b
    r"|\.{3}|[?!]{2,}|--|``|\'\'|\S"
)


def caption_words(caption: str) -> list[str]:
    """Words of a caption: lower case, clitics apart ("man 's", "do n't"), punctuation dropped, brackets spelt out.

    The rules of Stanford's PTBTokenizer as far as captions meet them; where Java is, `reelshard evaluate captions` runs
    that one itself.
    """
    text = _IN_TWO.sub(lambda found: " ".join(part for part in found.groups() if part), caption.lower())
    brackets = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    words = (brackets.get(word, word) for word in _WORDS.findall(text))
    return [word for word in words if word not in PUNCTUATION]
