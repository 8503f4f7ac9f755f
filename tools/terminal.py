"""What goes to a terminal: text of others shows what it holds, and does nothing."""

from __future__ import annotations


def clean(text: object) -> str:
    """One line without control characters, escape sequences, marks of direction and half characters.

    Each of them is spelled out, such as `\\x1b`, `\\n` or `\\u202e`; all other text stays as it is.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in str(text)
    )
