"""Curves of a run as a PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from shards.format.publish import publish_bytes
from training.metrics import Row

PANELS = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm before clipping",
    "clips_per_second": "clips per second",
}


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw loss, learning rate, gradient norm and speed over the steps into `path` (PNG, replaced atomically)."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    for panel, (name, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        panel.plot([step for step, _ in points], [value for _, value in points], linewidth=1.2)
        if name == "loss" and (held_out := [(r["step"], r["validation_loss"]) for r in rows if "validation_loss" in r]):
            panel.plot(*zip(*held_out, strict=True), "o-", markersize=3, linewidth=1.2, label="validation")
            panel.legend(fontsize=8)
        if all(value >= 0 for _, value in points):
            panel.set_ylim(bottom=0)  # an axis cut short would make noise look like progress
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step", fontsize=9)
        panel.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    publish_bytes(path, buffer.getvalue())
