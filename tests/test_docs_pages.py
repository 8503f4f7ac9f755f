"""All pages: links lead somewhere, commands and their options are there, and nothing is left to be filled in."""

import argparse
import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from tests.builds import ROOT
from tools.cli import COMMANDS, split_system

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|`|\$ |[A-Z_]=\S* )reelshard ([a-z][^`\n]*)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]*)(?![\w.-])")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in slugs(found), target


@pages
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert not re.findall(r"@[A-Z_]+@|\b(?:TODO|TBD|FIXME|XXX)\b", page.read_text())


@lru_cache
def options(*words: str) -> frozenset[str]:
    """The options of a command, of that which its first argument or its system names."""
    module = importlib.import_module(COMMANDS[words[0]])
    chosen, _ = split_system(words[1:])
    for named, word in (("EVALUATIONS", words[1] if len(words) > 1 else ""), ("SYSTEMS", chosen)):
        if word in getattr(module, named, {}):
            module = importlib.import_module(getattr(module, named)[word])
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return frozenset([*parser._option_string_actions, "--debug", *(["--system"] if chosen else [])])


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page; what a comment says of it is not its own."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    for found in COMMAND.findall(text):
        yield re.split(r"\s#|\s&&|;|\|", found)[0].split()


@pages
def test_commands_and_their_options_are_there(page: Path) -> None:
    for words in commands(page):
        assert words[0] in COMMANDS, words
        named = set(OPTION.findall(" ".join(words)))
        assert named <= options(*words), (named - options(*words), words)
