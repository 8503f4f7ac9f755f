"""Answers to questions about pictures, scored as the official VQA tool scores them (Antol 2015, Goyal 2017)."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER_WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"zero": "0"}
ARTICLES = frozenset(["a", "an", "the"])
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# Words that get their apostrophe back when one of theirs is missing.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas
wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
you'd've you'll you're you've
""".split()  # noqa: SIM905
# As in the official table, where this one entry goes the other way.
RESTORED = {"somebody'd": "somebodyd"} | {
    word[:place] + word[place + 1 :]: word for word in CONTRACTIONS for place in range(len(word)) if word[place] == "'"
}
_NUMBER_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


def strip(answer: str) -> str:
    """What is done to every answer: line ends and tabs are blanks, and there are none at the ends."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise(answer: str) -> str:
    """An answer as it is compared where people disagree: no punctuation, articles or number words, lower case."""
    return _words(_punctuation(strip(answer)))


def _punctuation(answer: str) -> str:
    """Drop signs next to a blank, and all of them beside a number with commas; others become blanks."""
    with_numbers = _NUMBER_COMMA.search(answer) is not None
    cleaned = answer
    for sign in PUNCTUATION:
        drop = with_numbers or f"{sign} " in answer or f" {sign}" in answer
        cleaned = cleaned.replace(sign, "" if drop else " ")
    return _FULL_STOP.sub("", cleaned)


def _words(answer: str) -> str:
    words = (NUMBERS.get(word, word) for word in answer.lower().split())
    return " ".join(RESTORED.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """Share of right answers, 0 to 1, of one answer against those that people gave, usually ten.

    Each person in turn is left out, and an answer that three of the others gave counts in full. Where all people agree,
    the answer has to be theirs to the letter, as in the official tool.

    Raises:
        ValueError: nobody gave an answer, or only one did.
    """
    if len(given) < 2:
        raise ValueError(f"{len(given)} answers were given; a score leaves one out and needs another")
    answer, people = strip(answer), [strip(one) for one in given]
    if len(set(people)) > 1:
        answer, people = normalise(answer), [normalise(one) for one in people]
    same = sum(one == answer for one in people)
    scores = [min(1.0, (same - (one == answer)) / 3) for one in people]
    return sum(scores) / len(scores)
