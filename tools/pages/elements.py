"""What pages are made of: tiles, tables, shares with their intervals, confusion matrices, pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tools.pages.html import Attribute, Html, join, tag

Interval = tuple[float, float]
PERCENT = "\u00a0%"  # with the space at which no line breaks


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of something, such as an accuracy.

    Attributes:
        name: of what.
        value: in [0, 1].
        interval: where it lies with 95 % confidence, or None where that is not known.
        note: a few words below its value.
        plain: whether it stands for what is compared with, and is painted so.
    """

    name: str
    value: float
    interval: Interval | None = None
    note: str = ""
    plain: bool = False


def spell_percent(value: float) -> str:
    """A share such as `79.4 %`, never broken between number and sign."""
    return f"{100 * value:.1f}{PERCENT}"


def spell_interval(interval: Interval | None) -> str:
    """An interval of shares such as `73.8 to 84.0 %`; "" for None."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{PERCENT}" if interval else ""


def spell_number(value: float, digits: int = 2) -> str:
    """A number with so many digits after the point; what rounds to zero has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def heading(text: str, level: int = 2) -> Html:
    """A heading that can be linked to by its words."""
    name = "-".join("".join(sign if sign.isalnum() else " " for sign in text.lower()).split())
    return tag(f"h{level}", text, id=name)


def paragraph(*parts: str, class_: str | None = None) -> Html:
    """A paragraph."""
    return tag("p", *parts, class_=class_)


def callout(*parts: str, kind: str = "") -> Html:
    """Something not to be overlooked; of the kind `good`, `warn`, or neither."""
    return tag("div", *parts, class_=f"callout {kind}".strip(), role="note")


def tiles(entries: Iterable[tuple[str, str, Sequence[str]]]) -> Html:
    """Name, value and a few notes each: what a reader sees first."""
    made = []
    for name, value, notes in entries:
        lines = (tag("div", note, class_="note") for note in notes)
        made.append(
            tag("div", tag("div", name, class_="name"), tag("div", value, class_="value"), *lines, class_="tile")
        )
    return tag("div", *made, class_="tiles")


def table(
    rows: Iterable[Sequence[str]],
    *,
    head: Sequence[str] = (),
    numbers: Sequence[int] = (),
    row_classes: Mapping[int, str] | None = None,
) -> Html:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        rows: cells; the first of each names its row.
        head: of the columns.
        numbers: columns that hold numbers.
        row_classes: classes of some rows, by number.
    """

    def line(cells: Sequence[str], row: int | None) -> Html:
        made = []
        for column, cell in enumerate(cells):
            number = "number" if column in numbers else None
            if row is None:
                made.append(tag("th", cell, class_=number, scope="col"))
            elif column == 0:
                made.append(tag("th", cell, class_=number, scope="row"))
            else:
                made.append(tag("td", cell, class_=number))
        return tag("tr", *made, class_=(row_classes or {}).get(row) if row is not None else None)

    body = tag("tbody", *(line(cells, row) for row, cells in enumerate(rows)))
    return scroll(tag("table", tag("thead", line(head, None)) if head else "", body))


def scroll(*parts: str) -> Html:
    """What may be wider than the page, and then scrolls by itself."""
    return tag("div", *parts, class_="scroll", tabindex="0")


def facts(entries: Iterable[tuple[str, str]]) -> Html:
    """Names and what belongs to them, below each other where the page is narrow."""
    return tag("dl", *(part for name, value in entries for part in (tag("dt", name), tag("dd", value))))


def shares(entries: Sequence[Share], *, chance: float | None = None) -> Html:
    """Bars from 0 to 100 %, with their intervals as whiskers and chance as a dashed line."""
    parts = []
    for entry in entries:
        spelled = spell_percent(entry.value)
        notes = [note for note in (spell_interval(entry.interval), entry.note) if note]
        inside = [tag("span", class_="fill plain" if entry.plain else "fill", style=f"width: {_css(entry.value)}")]
        if chance is not None:
            inside.append(tag("span", class_="mark", style=f"left: {_css(chance)}"))
        if entry.interval:
            low, high = entry.interval
            inside.append(tag("span", class_="whisker", style=f"left: {_css(low)}; width: {_css(high - low)}"))
        label = f"{entry.name}: {', '.join([spelled, *notes])}"
        parts.append(
            tag(
                "div",
                tag("span", entry.name, class_="name"),
                tag("span", *inside, class_="track", role="img", aria_label=label),
                tag("span", tag("b", spelled), *(tag("small", " ", note) for note in notes), class_="amount"),
                class_="share",
            )
        )
    return tag("div", *parts, class_="shares")


def _css(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def confusion(classes: Sequence[str], counts: Sequence[Sequence[float]]) -> Html:
    """A confusion matrix: a row a true class, a column a predicted one, in per cent of the row.

    Args:
        classes: their names; columns bear their numbers.
        counts: by true class, then predicted class.
    """
    numbers = [str(number) for number in range(1, len(classes) + 1)]
    corner = tag("th", "class, and what it was taken for", scope="col", style="text-align: left")
    head = tag("tr", corner, *(tag("th", number, scope="col") for number in numbers))
    lines = []
    for row, (name, line) in enumerate(zip(classes, counts, strict=True)):
        total = sum(line)
        cells: list[Html] = []
        for column, count in enumerate(line):
            share = count / total if total else 0.0
            cells.append(
                tag(
                    "td",
                    f"{100 * share:.0f}",
                    class_="right" if row == column else None,
                    style=f"--share: {share:.3f}",
                    title=f"{name}: {spell_percent(share)} taken for {classes[column]}",
                )
            )
        lines.append(tag("tr", tag("th", f"{row + 1}  {name}", scope="row"), *cells))
    return scroll(tag("table", tag("thead", head), tag("tbody", *lines), class_="confusion"))


def picture(png: bytes, description: str, *, caption: str = "", cells: bool = False, wide: bool = False) -> Html:
    """A PNG inside the page.

    Args:
        png: its bytes.
        description: for who cannot see it.
        caption: below it.
        cells: whether it is made of cells, whose edges stay sharp when it is enlarged.
        wide: whether it is enlarged to the width there is.
    """
    data = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = tag("img", src=data, alt=description, class_="cells" if cells else None)
    return figure(image, caption=caption, wide=wide)


def strips(rows: Iterable[tuple[str, Html]]) -> Html:
    """Pictures below each other, each with its name beside it."""
    cells = (part for name, row in rows for part in (tag("span", name, class_="name"), row))
    return tag("div", *cells, class_="strips")


def figure(*parts: str, caption: str | Html = "", wide: bool = False) -> Html:
    """A figure with a caption below it."""
    below = tag("figcaption", caption) if caption else ""
    return tag("figure", *parts, below, class_="wide" if wide else None)


def figures(*parts: Html, narrow: bool = False) -> Html:
    """Figures beside each other where there is room."""
    return tag("div", *parts, class_="figures narrow" if narrow else "figures")


def more(title: str, *parts: str, opened: bool = False) -> Html:
    """Something that a reader opens to see."""
    flag: Attribute = True if opened else None
    return tag("details", tag("summary", title), join(*parts), open=flag)
