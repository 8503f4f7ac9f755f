"""Multiple choice by likelihood: which answer a model finds likeliest, and how often that is the right one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from evaluation.result import Result
from evaluation.scores import bootstrap_interval
from evaluation.speaker import Likelihood

Rule = Literal["letter", "text"]
RULES: Mapping[Rule, str] = {
    "letter": "the option whose letter is likeliest as the answer, of all options' letters; of equals the first",
    "text": "the option whose text is likeliest as the answer, per byte of it in UTF-8; of equals the first",
}
assert set(RULES) == set(get_args(Rule))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question that was answered.

    Attributes:
        name: of the question.
        video: that it is about; intervals are over videos.
        kinds: under which names it is counted, such as task -> order.
        answer: place of the right option; None where none of them is right, so that nobody can be.
        likelihoods: of the options, in their order.
        texts: what the options say.
    """

    name: str
    video: str
    kinds: Mapping[str, str]
    answer: int | None
    likelihoods: Sequence[Likelihood]
    texts: Sequence[str]

    def guess(self, rule: Rule) -> int:
        """Place of the option that the model is taken to choose."""
        logs = [each.log for each in self.likelihoods]
        if rule == "text":
            logs = [log / max(1, len(text.encode())) for log, text in zip(logs, self.texts, strict=True)]
        return logs.index(max(logs))


def measure_choices(choices: Sequence[Choice], rule: Rule, mean_over: str | None = None) -> Result:
    """Score answers.

    Args:
        choices: one at least.
        rule: by which an option is chosen.
        mean_over: a kind of which the mean of accuracies is wanted beside the share of right answers: as `m_avg`.

    Returns:
        Metrics: `accuracy`, the share of right answers, `chance`, `m_avg`; a table a kind; intervals over videos.

    Raises:
        ValueError: there is no answer.
    """
    if not choices:
        raise ValueError("there is no answer to score")
    guesses = [choice.guess(rule) for choice in choices]
    right = np.array([guess == choice.answer for guess, choice in zip(guesses, choices, strict=True)], np.float64)
    groups = {kind: _groups(choices, kind) for kind in dict.fromkeys(kind for each in choices for kind in each.kinds)}
    metrics = {"accuracy": float(right.mean())}
    statistics: dict[str, Callable[[Tensor], float]] = {}
    names = {video: number for number, video in enumerate(dict.fromkeys(choice.video for choice in choices))}
    videos = np.array([names[choice.video] for choice in choices])
    statistics["accuracy"] = lambda counts: _share(right, counts.numpy()[videos])
    if mean_over is not None:
        parts = list(groups[mean_over].values())
        metrics["m_avg"] = float(np.mean([right[part].mean() for part in parts]))
        statistics["m_avg"] = lambda counts: float(
            np.nanmean([_share(right[part], counts.numpy()[videos[part]]) for part in parts])
        )
    metrics["chance"] = float(np.mean([1 / len(choice.texts) for choice in choices]))
    tables = {kind: [_row(name, right[part]) for name, part in sorted(found.items())] for kind, found in groups.items()}
    return Result(
        metrics=metrics,
        rows=[_spelled(*each) for each in zip(choices, guesses, strict=True)],
        protocol={"evaluator": "choice", "rule": RULES[rule]},
        intervals={name: bootstrap_interval(each, len(names)) for name, each in statistics.items()},
        tables=tables,
    )


def _groups(choices: Sequence[Choice], kind: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, choice in enumerate(choices):
        if kind in choice.kinds:
            found.setdefault(choice.kinds[kind], []).append(place)
    return found


def _share(right: Any, weights: Any) -> float:
    """Of right answers, each counted so often; not a number where none is."""
    return float((right * weights).sum() / weights.sum()) if weights.sum() else float("nan")


def _row(name: str, right: Any) -> dict[str, Any]:
    return {"name": name, "count": len(right), "accuracy": float(right.mean())}


def _spelled(choice: Choice, guess: int) -> dict[str, Any]:
    return {
        "id": choice.name,
        "video": choice.video,
        **choice.kinds,
        "answer": None if choice.answer is None else LETTERS[choice.answer],
        "guess": LETTERS[guess],
        "log_likelihoods": [each.log for each in choice.likelihoods],
        "num_tokens": [each.num_tokens for each in choice.likelihoods],
    }
