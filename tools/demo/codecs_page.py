"""What the demo's page and terminal say of students that learned from coded shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from shards.words import spell_bytes
from tools.demo.codecs import UNLIKELY
from tools.pages.elements import heading, paragraph, table
from tools.pages.html import Html

_NAMES = {"loss": "held-out loss", "top1": "probe, top-1"}
_WHAT = """Every student, with {seeds} seeds, on the training shards as they are and on the same stored by codecs
({codecs}): {raw} and {coded}. The two of a pair begin as the same weights and see the same clips behind the same masks;
the held-out clips and targets are raw for both. Behind the mean difference of the pairs stands its deviation, and that
over the seeds of one kind. “By chance” is how likely two groups of as many seeds on one set lie so far apart; from
{unlikely:.0f} % on the difference is taken for noise."""


def codec_lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line for each student and measure: its name, and what was found."""
    lines = []
    for one in found["students"].values():
        for measure, name in _NAMES.items():
            about = one[measure]
            means = ", ".join(f"{which} {fmean(about[which]):.4g}" for which in ("raw", "coded"))
            lines.append((f"codecs, {one['title']}", f"{name} {means}: {_difference(about)}, {_verdict(about)}"))
    return lines


def codecs(report: Mapping[str, Any]) -> Iterator[Html]:
    """The comparison, where there is one."""
    if "codecs" not in report:
        return
    found = report["codecs"]
    yield heading("Fewer bytes")
    raw, coded = (spell_bytes(found["bytes"][which]) for which in ("raw", "coded"))
    names = ", ".join(f"{field} {codec}" for field, codec in found["codecs"].items())
    seeds = len(next(iter(found["students"].values()))["loss"]["raw"])
    text = _WHAT.format(seeds=seeds, codecs=names, raw=raw, coded=coded, unlikely=100 * UNLIKELY)
    yield paragraph(text, class_="small")
    rows = []
    for one in found["students"].values():
        for measure, name in _NAMES.items():
            about = one[measure]
            values = [f"{fmean(about[which]):.4g}" for which in ("raw", "coded")]
            rows.append([f"{one['title']}, {name}", *values, _difference(about), _verdict(about)])
    yield table(rows, head=["", "raw", "coded", "difference in pairs", ""], numbers=(1, 2, 3))


def _difference(about: Mapping[str, Any]) -> str:
    return f"{about['difference']:+.2g} ± {about['of_pairs']:.1g} (seeds ± {about['of_seeds']:.1g})"


def _verdict(about: Mapping[str, Any]) -> str:
    said = "within noise" if about["within_noise"] else "more than noise"
    return f"{said} ({100 * about['chance']:.0f} % by chance)"
