"""`reelshard COMMAND ...`: finds the command, and turns what goes wrong into one line and an exit status.

A command is a module with `HELP` (one line), `add_arguments(parser)` and `run(args) -> int`. It is imported only when
it is asked for, and imports what is heavy (torch, transformers) inside `run`, so that `--help` answers at once. One
with `EVALUATIONS` gives way to the module that its first argument names there, one with `SYSTEMS` to that which
`--system NAME` names.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

from tools.endings import leave_cleanly
from tools.revision import package_versions

COMMANDS = {
    "demo": "tools.demo.command",
    "build": "tools.build",
    "add-field": "tools.add_field",
    "drop-field": "tools.drop_field",
    "index": "tools.index",
    "import": "tools.import_tars",
    "reshard": "tools.reshard",
    "merge": "tools.merge",
    "card": "tools.card",
    "verify": "tools.verify",
    "copy": "tools.copy",
    "cache": "tools.cache",
    "show": "tools.show",
    "view": "tools.view",
    "preflight": "tools.preflight",
    "train": "tools.train",
    "evaluate": "tools.evaluate",
    "caption": "tools.caption",
    "segment": "tools.segment",
    "export": "tools.export",
    "recipe": "tools.recipe_page",
    "zarr": "tools.zarr_cache",
    "bench": "tools.bench",
}
# Commands that take values of a recipe, each with the sections that it takes no notice of.
TAKES_OVERRIDES: Mapping[str, Sequence[str]] = {
    "build": ("data", "objective", "optim", "train", "evaluate"),
    "preflight": ("view", "build", "evaluate"),
    "train": ("view", "build"),  # `evaluate` is kept with the run, for the command of that name
    "evaluate": ("view", "build", "teacher", "optim"),
    "caption": ("build", "data", "optim", "evaluate"),
    "segment": ("data", "optim", "evaluate"),
    "export": ("view", "build", "data", "optim", "evaluate"),
    "demo": (),
    "recipe": (),
    "show": ("view", "build", "optim", "train", "evaluate"),
    "view": ("view", "build", "optim", "train", "evaluate"),
    "bench": ("view", "build", "evaluate"),
}
_OVERRIDE = re.compile(r"--(\w+)\.[\w.]+(=.*)?", re.DOTALL)

_DESCRIPTION = """Video clips and the frozen-teacher targets that go with them, packed once into WebDataset shards and
streamed to training at the speed of the hardware."""
_EPILOG = """Start with `reelshard demo --out demo_output`: videos, shards, a trained student, a probe and a report.
`reelshard COMMAND --help` explains a command."""
_OVERRIDES_EPILOG = """Any value of the recipe can be set on the command line as --SECTION.NAME VALUE, for example
`--data.threads 8`. `reelshard recipe NAME` prints all of them, with what they mean, their types and defaults."""


class Command(Protocol):
    """What `tools/cli.py` needs of a command's module."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work; the result is the exit status."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; `{self.prog} --help` explains\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; None takes those of the process.

    Returns:
        The exit status, see `tools.endings`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    return leave_cleanly(lambda: _dispatch(arguments), debug=debug)


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS:
        if not name.startswith("-"):
            nearest = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f"perhaps {nearest[0]!r} is meant" if nearest else f"there are {', '.join(COMMANDS)}"
            _Parser(prog="reelshard").error(f"there is no command {name!r}, {meant}")
        _overview().parse_args([name])
    module, path, rest = _load(name), name, arguments[1:]
    if rest and rest[0] in (named := getattr(module, "EVALUATIONS", {})):
        module, path, rest = _import(named[rest[0]]), f"{name} {rest[0]}", rest[1:]
    chosen, others = split_system(rest)
    if chosen in (named := getattr(module, "SYSTEMS", {})):
        module, path, rest = _import(named[chosen]), f"{name} --system {chosen}", others
    parser = _Parser(
        prog=f"reelshard {path}",
        description=module.HELP,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    overrides: list[str] = []
    if name in TAKES_OVERRIDES:
        parser.epilog = _OVERRIDES_EPILOG
        rest, overrides = split_overrides(rest, own_options=parser.get_default("own_options") or ())
        _refuse_without_effect(parser, name, overrides)
    args = parser.parse_args(rest)
    args.overrides = overrides
    return module.run(args)


def split_system(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Take `--system NAME` (or `--system=NAME`) out of arguments: the last NAME, "" if there is none, and the rest."""
    chosen, others = "", []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--system":
            chosen = next(remaining, "")
        elif argument.startswith("--system="):
            chosen = argument.removeprefix("--system=")
        else:
            others.append(argument)
    return chosen, others


def _refuse_without_effect(parser: argparse.ArgumentParser, command: str, overrides: Sequence[str]) -> None:
    """End with an error where a value is given that the command takes no notice of."""
    for override in overrides:
        key = override.removeprefix("--").partition("=")[0]
        if key.partition(".")[0] in TAKES_OVERRIDES[command]:
            unused = ", ".join(TAKES_OVERRIDES[command])
            parser.error(f"--{key} has no effect here: this command takes no notice of the recipe's {unused}")


def split_overrides(arguments: Sequence[str], *, own_options: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Split recipe values (`--train.steps 200`, `--train.steps=200`) from the command's own arguments.

    Args:
        arguments: of the command line.
        own_options: the command's own that look like values of a recipe.

    Returns:
        The command's own arguments, and the overrides, each as one `--SECTION.NAME=VALUE`.
    """
    own: list[str] = []
    overrides: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not _OVERRIDE.fullmatch(argument) or argument.partition("=")[0] in own_options:
            own.append(argument)
        elif "=" in argument:
            overrides.append(argument)
        else:
            value = next(remaining, None)
            if value is None:
                raise ValueError(f"{argument} has no value; give it as {argument} VALUE")
            overrides.append(f"{argument}={value}")
    return own, overrides


def _load(name: str) -> Command:
    return _import(COMMANDS[name])


def _import(name: str) -> Command:
    module: object = importlib.import_module(name)
    return module  # type: ignore[return-value]


def _overview() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="reelshard",
        usage="reelshard [-h] [--debug] [--version] COMMAND ...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"reelshard {package_versions()['reelshard']}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND [ARGS]", required=True)
    for name in COMMANDS:
        commands.add_parser(name, help=_load(name).HELP, add_help=False)
    return parser
