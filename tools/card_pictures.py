"""The pictures of a dataset card."""

from __future__ import annotations

import io
from collections.abc import Mapping

from shards.dataset import ShardDataset
from tools.png import encode_png, png_of
from tools.terminal import clean

MOST_BARS = 40
GAP = 8


def draw_samples(dataset: ShardDataset, count: int) -> bytes | None:
    """The strips of some samples, drawn by their keys, one below the other; None where nothing is to be seen.

    Raises:
        ShardError: a sample is damaged.
    """
    from PIL import Image

    from shards.exchange.selection import Selection
    from tools.figures import draw_strip, load_sample

    strips = []
    for number in Selection(sample=min(count, len(dataset))).numbers(dataset):
        try:
            strips.append(Image.open(io.BytesIO(draw_strip(load_sample(dataset, number)))).convert("RGB"))
        except ValueError:  # there are no frames in it
            continue
    if not strips:
        return None
    height = sum(strip.height + GAP for strip in strips) - GAP
    page = Image.new("RGB", (max(strip.width for strip in strips), height), "white")
    top = 0
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height + GAP
    return encode_png(page)


def draw_classes(classes: Mapping[str, int]) -> bytes:
    """How many samples each class has, the largest first; a PNG."""
    from matplotlib.figure import Figure

    ranked = sorted(classes.items(), key=lambda one: -one[1])
    names, counts = zip(*ranked[:MOST_BARS], strict=True)
    figure = Figure(figsize=(6, 0.9 + 0.18 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.barh(range(len(names)), counts, color="#4477aa")
    axis.set_yticks(range(len(names)), [clean(name)[:40] for name in names], fontsize=7, parse_math=False)
    axis.invert_yaxis()
    more = f", the largest {MOST_BARS} of {len(ranked)} classes" if len(ranked) > MOST_BARS else ""
    axis.set_xlabel(f"samples{more}", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    return png_of(figure)
