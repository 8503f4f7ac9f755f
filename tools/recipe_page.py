"""`reelshard recipe NAME`: a recipe with every value, what it means, its type and its default.

reelshard recipe demo > mine.yaml        # edit it, then: reelshard train --recipe mine.yaml ...
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from tools.recipes import RECIPES
from tools.systems import DEFAULT_RECIPE

if TYPE_CHECKING:
    from tools.systems.base import Recipe

HELP = "print a recipe with every value, its meaning, type and default"
WIDTH = 110

_DESCRIPTION = """Print a recipe as YAML, every value of it, each under what it means, its type and its default; what is
printed is a recipe again. Values can be set on the command line, as in all commands that take a recipe."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard recipe`."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "recipe", nargs="?", default=DEFAULT_RECIPE, metavar="NAME", help="name of a recipe, or path of a YAML file"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the recipes there are")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from tools.recipe import load_recipe

    if args.list:
        sys.stdout.writelines(f"{path.stem}\n" for path in sorted(RECIPES.glob("*.yaml")))
    else:
        sys.stdout.write(explain(load_recipe(args.recipe, args.overrides)))
    return 0


def explain(recipe: Recipe) -> str:
    """A recipe as YAML, each key under a comment with its meaning, type and default."""
    from tools.recipe import as_plain, make_parser
    from tools.systems import system_of

    values = as_plain(recipe)
    head = f"# {system_of(recipe).title}: every value of a recipe, with what it means. This is a recipe again.\n"
    head += f"system: {values.pop('system')}\n"
    parser = make_parser(type(recipe))
    text = parser.dump(parser.parse_object(values), with_comments=True, skip_unset=False)
    return head + "\n".join(_wrapped(line) for line in text.splitlines()) + "\n"


def _wrapped(line: str) -> str:
    """A long comment as several lines of the same indent, type and default on their own."""
    indent, mark, comment = line.partition("# ")
    if indent.strip() or not mark or len(line) <= WIDTH:
        return line
    meaning, bracket, kind = comment.partition("(type: ")
    lines = [line for part in (meaning, bracket + kind) for line in textwrap.wrap(part, WIDTH - len(indent + mark))]
    return "\n".join(indent + mark + line for line in lines)
