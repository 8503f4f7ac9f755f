"""BLEU-4 and CIDEr-D of captions, as COCO's official tools compute them (Papineni 2002, Vedantam 2015).

Both work on words (`evaluation.caption_words`), one caption a picture or video against several references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Words = Sequence[str]
Ngram = tuple[str, ...]
LONGEST = 4  # words of an n-gram
SIGMA = 6.0  # of CIDEr-D's penalty for another length
TINY, SMALL = 1e-15, 1e-9  # the official guards against division by nothing


@dataclass(frozen=True)
class CaptionScores:
    """Scores of a set of captions.

    Attributes:
        bleu4: of the whole set, 0 to 1.
        cider: CIDEr-D, the mean of `cider_each`; 0 to 10. It depends on the set: words are weighed by its references.
        bleu4_each: of each caption.
        cider_each: of each caption.
    """

    bleu4: float
    cider: float
    bleu4_each: tuple[float, ...]
    cider_each: tuple[float, ...]


def score_captions(captions: Mapping[str, Words], references: Mapping[str, Sequence[Words]]) -> CaptionScores:
    """Score captions against the references of the same names.

    Raises:
        ValueError: there is none, or one has no reference.
    """
    if not captions:
        raise ValueError("there is no caption to score")
    for name in captions:
        if not references.get(name):
            raise ValueError(f"{name} has no reference caption")
    pairs = [(captions[name], references[name]) for name in captions]
    counts = [_bleu_counts(caption, given) for caption, given in pairs]
    cider = cider_d(pairs)
    return CaptionScores(
        bleu4=_bleu(np.sum(counts, axis=0)),
        cider=float(np.mean(cider)),
        bleu4_each=tuple(_bleu(count) for count in counts),
        cider_each=tuple(cider),
    )


def _ngrams(words: Words) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + size]) for size in range(1, LONGEST + 1) for start in range(len(words) - size + 1)
    )


def _bleu_counts(caption: Words, references: Sequence[Words]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Matches of each length, n-grams of each length, words, and words of the reference nearest in length."""
    found, most = _ngrams(caption), Counter[Ngram]()
    for reference in references:
        most |= _ngrams(reference)
    matches, totals = np.zeros(LONGEST), np.zeros(LONGEST)
    for ngram, count in found.items():
        matches[len(ngram) - 1] += min(count, most[ngram])
        totals[len(ngram) - 1] += count
    nearest = min((abs(len(reference) - len(caption)), len(reference)) for reference in references)[1]
    return np.array([*matches, *totals, len(caption), nearest])


def _bleu(counts: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    matches, totals = counts[:LONGEST], counts[LONGEST : 2 * LONGEST]
    precision = math.prod((matches + TINY) / (totals + SMALL)) ** (1 / LONGEST)
    ratio = (counts[-2] + TINY) / (counts[-1] + SMALL)
    return float(precision * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0))


def cider_d(pairs: Sequence[tuple[Words, Sequence[Words]]]) -> list[float]:
    """CIDEr-D of each caption against its references; how rare an n-gram is, the references of all of them say."""
    grams = [(_ngrams(caption), [_ngrams(reference) for reference in given]) for caption, given in pairs]
    documents = Counter(ngram for _, given in grams for ngram in set().union(*given))
    log_size = math.log(len(pairs))

    def weigh(found: Counter[Ngram]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        vectors: list[dict[Ngram, float]] = [{} for _ in range(LONGEST)]
        for ngram, count in found.items():
            vectors[len(ngram) - 1][ngram] = count * (log_size - math.log(max(1, documents[ngram])))
        norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for ngram, count in found.items() if len(ngram) == 2)

    scores = []
    for caption, given in grams:
        vectors, norms, length = weigh(caption)
        total = 0.0
        for reference in given:
            others, other_norms, other_length = weigh(reference)
            penalty = math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))
            for vector, other, norm, other_norm in zip(vectors, others, norms, other_norms, strict=True):
                dot = sum(min(value, other[ngram]) * other[ngram] for ngram, value in vector.items() if ngram in other)
                if norm and other_norm:
                    total += dot / (norm * other_norm) * penalty
        scores.append(10 * total / LONGEST / len(given))
    return scores
