"""How metrics are called and spelled on pages, and what two of them say beside each other."""

from __future__ import annotations

import re

from tools.pages.elements import Interval, Share, spell_percent

DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
_NAME = re.compile(r"(?:(?P<way>t2v|v2t)_)?(?P<what>.+)")
_COUNTED = re.compile(r"(?P<what>top|r)(?P<number>[0-9]+)")
_TOP = re.compile(r"(?<![a-z0-9])top([0-9]+)(?![a-z0-9])")
NO_SHARES = ("rank", "loss", "seconds", "num", "count", "layer", "lr", "decay", "temperature", "ce", "errors")


def title_of(metric: str) -> str:
    """The title of a metric: `top-1`, `text to video R@5`, `text to video median rank`."""
    parts = _NAME.fullmatch(metric)
    if parts is None:
        return metric
    counted = _COUNTED.fullmatch(parts["what"])
    if counted:
        what = ("top-" if counted["what"] == "top" else "R@") + counted["number"]
    else:
        what = _TOP.sub(r"top-\1", parts["what"]).replace("_", " ")
    return f"{DIRECTIONS[parts['way']]} {what}" if parts["way"] else what


def is_share(metric: str) -> bool:
    """Whether a metric is a share in [0, 1], by its name; ranks, losses, durations and counts are none."""
    return not any(word in NO_SHARES for word in metric.split("_"))


def spell_metric(metric: str, value: float) -> str:
    """A value as it stands in a table: shares in per cent, others as numbers."""
    return spell_percent(value) if is_share(metric) else f"{value:,.4g}"


def spell_metric_interval(metric: str, interval: Interval) -> str:
    """An interval as it stands below its value, such as `73.8 to 84.0`."""
    low, high = (f"{100 * end:.1f}" if is_share(metric) else f"{end:,.4g}" for end in interval)
    return f"{low} to {high}"


def compare(ours: Share, other: Share) -> tuple[bool, str]:
    """Whether a share is better than what it has to beat, and that in a sentence.

    Where the 95 % intervals overlap, it counts as not better: other held-out samples could turn it round.
    """
    numbers = f"{spell_percent(ours.value)} against {spell_percent(other.value)}"
    if ours.value <= other.value:
        return False, f"{ours.name} does not beat {other.name}: {numbers}."
    if ours.interval is None or other.interval is None:
        return True, f"{ours.name} beats {other.name}: {numbers}."
    if ours.interval[0] <= other.interval[1]:
        sentence = f"{ours.name} does not clearly beat {other.name}: {numbers}, and their 95 % intervals overlap."
        return False, sentence + " Other held-out samples could turn it round."
    return True, f"{ours.name} beats {other.name}: {numbers}; their 95 % intervals lie apart."
