"""Plots as SVG inside a page: its own inks and letters, so that they turn dark with it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tools.pages.elements import figure
from tools.pages.html import Html

# Colours that matplotlib is given, and what stands in the page for each.
_INKS = {
    "#010101": "var(--ink)",
    "#020202": "var(--faint)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--second)",
    "#060606": "var(--third)",
    "#070707": "var(--mute)",
}
INK, FAINT, LINE, *SERIES = _INKS
TIGHT: dict[str, Any] = {"columnspacing": 1.2, "handlelength": 1.6, "borderpad": 0.1}
WIDTH, HEIGHT = 4.6, 2.7  # inches; at 420 pixels the letters are still 11 pixels high


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve, or a level that curves are to be seen against.

    Attributes:
        name: in the legend.
        points: (x, y) of a curve.
        level: y of a level, dashed over all of the plot.
    """

    name: str
    points: Sequence[tuple[float, float]] = ()
    level: float | None = None


def plot(title: str, lines: Sequence[Line], *, x: str, y: str, caption: str = "") -> Html:
    """Curves on axes that begin at zero, so that a change looks as large as it is.

    Args:
        title: above the plot; no two plots of a page have the same.
        lines: the curves.
        x: what the horizontal axis is.
        y: what the vertical axis is, with its unit.
        caption: below.
    """
    made = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = made.subplots()
    for color, line in zip(SERIES, lines, strict=False):
        style: dict[str, Any] = {"color": color, "label": line.name, "linewidth": 1.8}
        if line.level is not None:
            axes.axhline(line.level, linestyle="--", **style)
        if line.points:
            marker = "o" if len(line.points) == 1 else ""
            axes.plot(*zip(*line.points, strict=True), marker=marker, **style)
    lowest = min((value for line in lines for _, value in line.points), default=0.0)
    axes.set_ylim(bottom=min(0.0, lowest))
    axes.set_xlim(left=0)
    axes.set_title(title, fontsize=11, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(x, fontsize=10, color=FAINT)
    axes.set_ylabel(y, fontsize=10, color=FAINT)
    axes.tick_params(labelsize=10, labelcolor=FAINT, color=LINE)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    if len(lines) > 1:
        made.legend(loc="outside lower left", ncols=len(lines), fontsize=9, labelcolor=INK, frameon=False, **TIGHT)
    return figure(_svg(made, title), caption=caption)


def _svg(made: Figure, title: str) -> Html:
    """A figure as an SVG element with the page's colours and letters, and no name that another one has too."""
    buffer = io.StringIO()
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        made.savefig(buffer, format="svg", transparent=True, metadata=unsaid)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    for color, ink in _INKS.items():
        svg = svg.replace(color, ink)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r' id="\w+_[0-9]+"| id="matplotlib[^"]*"', "", svg)
    return Html(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
