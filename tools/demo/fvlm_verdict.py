"""What the demo of the foveated VLM has to show, whether it does, and what it measures of the small detail."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evaluation.standard_errors import Z, per_word

LEAST_SAMPLES = 200
LEAST_GAIN, LEAST_ERRORS = 0.05, 4.0
TEXT_SHARE = 0.14
MOST_PADDING = 0.15
GAP_AIM = 0.006
BASELINES = {"other_frames": "another sample's frames", "text_alone": "text alone"}
MODES = ("coarse_only", "coarse_fine", "autoregressive")
DETAIL = "detail"  # the source of the question about the small thing
# Student's t of 95 % by degrees of freedom, for intervals over seeds.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something that has to be so.

    Attributes:
        what: it is.
        passed: whether it is so.
        found: the number.
    """

    what: str
    passed: bool
    found: str


def checks_of(seeds: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    """All that has to hold, of every seed."""
    for one in seeds:
        of, metrics = f"seed {one['seed']}", one["metrics"]
        count = int(metrics["num_samples"])
        yield Check(what=f"{of}: {LEAST_SAMPLES} held-out samples", passed=count >= LEAST_SAMPLES, found=f"{count}")
        for name, words in BASELINES.items():
            gain, errors = (metrics.get(f"gain_{name}{end}", math.nan) for end in ("", "_errors"))
            yield Check(
                what=f"{of}: answers cost {100 * LEAST_GAIN:.0f} % and {LEAST_ERRORS:.0f} standard errors less than "
                f"with {words}",
                passed=gain >= LEAST_GAIN and errors >= LEAST_ERRORS,
                found=f"{100 * gain:.1f} %, {errors:.1f} standard errors",
            )
        missing = [mode for mode in MODES if f"ce_{mode}" not in metrics]
        yield Check(what=f"{of}: all three modes", passed=not missing, found=f"{len(MODES) - len(missing)}")
        for stage, about in one["training"].items():
            yield from _check_training(f"{of}, {stage}", about)


def _check_training(of: str, about: Mapping[str, float]) -> Iterator[Check]:
    steps, text = about["steps"], about["text_batches"]
    exact = abs(text - TEXT_SHARE * steps) < 0.5
    yield Check(what=f"{of}: {100 * TEXT_SHARE:.0f} % text", passed=exact, found=f"{text:.0f} of {steps:.0f} batches")
    for name in ("padding_frames", "padding_tokens"):
        share = about[name]
        what = f"{of}: {name.replace('_', ' of ')} below {100 * MOST_PADDING:.0f} %"
        yield Check(what=what, passed=share < MOST_PADDING, found=f"{100 * share:.1f} %")


def detail_of(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the small detail costs by coarse and fine looks, in nats a word, and by how much the fine one costs less.

    Returns:
        `seeds`: `coarse`, `fine`, `saved` and the paired 95 % `interval` of each seed, over the samples; `saved`: the
        mean over the seeds, and `interval`: its 95 % interval over the seeds (Student's t), where there are several.
    """
    found = [{"seed": one["seed"], **_paired(one["rows"])} for one in seeds]
    saved = [one["saved"] for one in found if one["saved"] is not None]
    if len(saved) < 2:
        return {"seeds": found, "saved": saved[0] if saved else None, "interval": None}
    mean, error = statistics.mean(saved), statistics.stdev(saved) / math.sqrt(len(saved))
    reach = _T.get(len(saved) - 1, Z) * error
    return {"seeds": found, "saved": mean, "interval": [mean - reach, mean + reach]}


def _paired(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Coarse less fine over the samples of the detail, with an interval of 95 %."""
    own = [row for row in rows if row["source"] == DETAIL and row["num_tokens"]]
    if len(own) < 2:
        return {"num_samples": len(own), "coarse": None, "fine": None, "saved": None, "interval": None}
    coarse, fine, words = (
        torch.tensor([row[name] for row in own], dtype=torch.float64)
        for name in ("coarse_only", "coarse_fine", "num_tokens")
    )
    saved, error = per_word(coarse - fine, words)
    costs = {name: float(sums.sum() / words.sum()) for name, sums in (("coarse", coarse), ("fine", fine))}
    return {"num_samples": len(own), **costs, "saved": saved, "interval": [saved - Z * error, saved + Z * error]}
