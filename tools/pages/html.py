"""HTML put together so that what is not said to be HTML is escaped, and written as a page that loads nothing."""

from __future__ import annotations

from html import escape
from pathlib import Path

from shards.format.publish import publish_bytes

STYLE = Path(__file__).with_name("style.css")
VOID = ("br", "col", "hr", "img", "meta")
# The page asks nobody for anything, whatever a name in it may hold; a browser holds it to that.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Attribute = str | float | bool | None


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(*parts: str, between: str = "") -> Html:
    """Parts one after the other; those that are not `Html` are escaped."""
    return Html(escape(between).join(part if isinstance(part, Html) else escape(part) for part in parts))


def tag(name: str, /, *parts: str, **attributes: Attribute) -> Html:
    """An element.

    Args:
        name: such as `p`.
        parts: what is in it; those that are not `Html` are escaped.
        attributes: escaped; `class_` is class, `aria_label` is aria-label. True stands alone; False and None are left
            out.
    """
    spelled = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{spelled}>")
    return Html(f"<{name}{spelled}>{join(*parts)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def write_page(path: Path, title: str, *body: str) -> None:
    """Write one HTML file that needs nothing else.

    Args:
        path: of the file; it appears whole or not at all.
        title: of the browser's window.
        body: what is not `Html` is escaped.
    """
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        Html(f"<style>{STYLE.read_text()}</style>"),
        between="\n",
    )
    page = tag("html", Html("\n"), head, Html("\n"), tag("body", tag("main", join(*body, between="\n"))), lang="en")
    publish_bytes(path, f"<!doctype html>\n{page}\n".encode(errors="replace"))
