"""Figures and pictures as PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


def png_of(figure: Figure) -> bytes:
    """A figure as PNG, which does not name the version of matplotlib that drew it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def encode_png(image: Image, *, compress_level: int = 9) -> bytes:
    """A picture as PNG, as small as it gets unless the level is lower."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()
