"""Recipes: one YAML file that says everything about a run, merged with flags and refused where it does not fit.

The sections are the configuration classes of the packages; their names, types and defaults live there and nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from shards.format.publish import publish_bytes
from tools.recipes import RECIPES
from tools.systems import DEFAULT_SYSTEM, SYSTEMS, find_system
from tools.systems.base import Recipe

# Of the section `data`, with what earlier versions wrote there: what is read of a sample follows from the system.
NOT_THE_USERS: Mapping[str, Any] = {"fields": ["clip", "target"], "gather": {}}
# In this order they are written and printed; a system's own sections stand in front of `optim`.
ORDER = ("view", "build", "teacher", "data", "model", "objective", "", "optim", "train", "evaluate")


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), *, recorded: bool = False) -> Any:
    """Read a recipe and put the overrides on top; the result is of the `recipe` class of its system.

    Args:
        name_or_path: one of `tools/recipes/`, or the path of a YAML file.
        overrides: `--SECTION.NAME=VALUE`, later ones win.
        recorded: the file was found in the folder of a run, not named by the user. A system of the user's own stands
            there by its full path; code that came with the folder is not run.

    Raises:
        ValueError: there is no such recipe, it is not YAML, or a key or value is not allowed.
    """
    path = find_recipe(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected sections such as 'view:' and 'train:'")
    system = str(content.pop("system", DEFAULT_SYSTEM))
    if (
        recorded
        and system.endswith(".py")
        and (not Path(system).is_absolute() or Path(system).resolve().is_relative_to(path.parent.resolve()))
    ):
        raise ValueError(
            f"{path} names the system {system!r}, a file in the run's own folder, which is not run unasked: put it "
            "elsewhere, and its full path into recipe.yaml"
        )
    return _resolve(*_kind(system, path), content, overrides, path)


def recipe_of(content: Mapping[str, Any], overrides: Sequence[str] = (), *, found_in: Path) -> Any:
    """The recipe that stands in a file of weights, with the overrides on top.

    Args:
        content: every value, as `as_plain` gave it, with the name of the system.
        overrides: `--SECTION.NAME=VALUE`, later ones win.
        found_in: the file, for messages.

    Raises:
        ValueError: a value is not allowed, or the system is not one that comes with this package: code that a file of
            weights names is not run.
    """
    system = str(content.get("system", DEFAULT_SYSTEM))
    if system not in SYSTEMS:
        raise ValueError(
            f"{found_in} is of the system {system!r}, which does not come with this package: give the run's folder"
        )
    sections = {name: values for name, values in content.items() if name != "system"}
    return _resolve(*_kind(system, found_in), sections, overrides, found_in)


def _kind(system: str, path: Path) -> tuple[type[Recipe], str]:
    """The class of a recipe, and its system as any folder finds it."""
    try:
        found = find_system(system, path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found.recipe, system if found.name == system else str((path.parent / system).resolve())


def sections_of(kind: type[Recipe]) -> dict[str, type]:
    """The sections of a system's recipes: name -> class, in the order in which they are written."""
    defaults = kind()
    found = {field.name: type(getattr(defaults, field.name)) for field in dataclasses.fields(kind)}
    del found["system"]
    place = {name: number for number, name in enumerate(ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda name: place.get(name, place[""]))}


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe.

    Raises:
        ValueError: there is neither a recipe of that name nor such a file.
    """
    named = RECIPES / f"{name_or_path}.yaml"
    for path in (named, Path(name_or_path)):
        if path.is_file():
            return path
    name, names = str(name_or_path), sorted(path.stem for path in RECIPES.glob("*.yaml"))
    raise ValueError(
        f"there is no recipe {name!r}{_nearest(name, names, most=3)}; give a YAML file, or one of {', '.join(names)}"
    )


def as_plain(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe that is the user's, in the types that YAML and JSON know."""
    sections = {name: dataclasses.asdict(getattr(recipe, name)) for name in sections_of(type(recipe))}
    record: dict[str, Any] = _plain({"system": recipe.system, **sections})
    for name in NOT_THE_USERS:
        del record["data"][name]
    return record


def save_resolved(recipe: Recipe, path: Path) -> None:
    """Write every value of a recipe as YAML, which `load_recipe` reads back as the same recipe."""
    text = yaml.safe_dump(as_plain(recipe), sort_keys=False)
    publish_bytes(path, b"# The resolved recipe: every value, defaults and flags included.\n" + text.encode())


def make_parser(kind: type[Recipe]) -> ArgumentParser:
    """A parser of all that a system's recipes may say, with the help, types and defaults of its sections' classes."""
    defaults = kind()
    parser = ArgumentParser(prog="recipe", exit_on_error=False)
    for name, section in sections_of(kind).items():
        hidden = set(NOT_THE_USERS) if name == "data" else set()
        parser.add_class_arguments(section, name, skip=hidden)
        values = {key: getattr(getattr(defaults, name), key) for key in _keys_of(name, section)}
        parser.set_defaults({f"{name}.{key}": value for key, value in values.items()})
    return parser


def _keys_of(name: str, section: type) -> list[str]:
    hidden = NOT_THE_USERS if name == "data" else ()
    return [field.name for field in dataclasses.fields(section) if field.name not in hidden]


def _resolve(kind: type[Recipe], system: str, content: dict[str, Any], overrides: Sequence[str], path: Path) -> Recipe:
    sections, parser = sections_of(kind), make_parser(kind)
    for name, section_values in content.items():
        if name not in sections:
            known = ("system", *sections)
            raise ValueError(
                f"{path}: there is no section {str(name)!r}{_nearest(str(name), known)}; allowed are {', '.join(known)}"
            )
        if not isinstance(section_values, dict):
            raise ValueError(f"{path}: section {name!r} is {section_values!r}, expected 'name: value' lines")
    content = {name: dict(values) for name, values in content.items()}
    for name, before in NOT_THE_USERS.items():  # recipes recorded by earlier versions say what was read by default
        if content.get("data", {}).get(name) == before:
            del content["data"][name]
    _refuse_unknown(sections, [f"{name}.{key}" for name in content for key in content[name]], system, f"{path}: ")
    _refuse_unknown(sections, [_key(override) for override in overrides], system)
    try:
        parsed = parser.parse_object(content, defaults=True)
    except Exception as error:
        raise ValueError(f"{path}: {_explain(error)}") from None
    try:
        parsed = parser.parse_args(_last_word_on_length(overrides), namespace=parsed)
    except Exception as error:
        raise ValueError(_explain(error)) from None
    made: dict[str, Any] = {name: section(**parsed[name].as_dict()) for name, section in sections.items()}
    return kind(system=system, **made)


def _refuse_unknown(sections: dict[str, type], keys: Iterable[str], system: str, where: str = "") -> None:
    """Refuse keys that no section has, with the nearest that there is.

    Raises:
        ValueError: Naming the key.
    """
    known = [f"{name}.{key}" for name, section in sections.items() for key in _keys_of(name, section)]
    for key in keys:
        section, _, rest = key.partition(".")
        name = rest.partition(".")[0]  # a mapping may be given entry by entry
        if section == "data" and name in NOT_THE_USERS:
            raise ValueError(f"{where}what is read of a sample follows from the system {system}: leave data.{name} out")
        if f"{section}.{name}" not in known:
            allowed = ", ".join(_keys_of(section, sections[section])) if section in sections else ""
            there = f"{section} has {allowed}" if allowed else f"the sections are {', '.join(sections)}"
            raise ValueError(f"{where}there is no {key}{_nearest(key, known)}; {there}")


def _nearest(name: str, known: Sequence[str], most: int = 1) -> str:
    """A question with the names that `name` may have been meant to be; nothing if none is like it."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.75)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _key(override: str) -> str:
    return override.removeprefix("--").partition("=")[0]


def _last_word_on_length(overrides: Sequence[str]) -> list[str]:
    """A flag for the epochs counts although the file has steps, which otherwise decide."""
    values = {_key(override): override.partition("=")[2] for override in overrides}
    by_epochs = values.get("train.epochs", "null") != "null" and "train.steps" not in values
    return [*overrides, "--train.steps=null"] if by_epochs else list(overrides)


def _explain(error: BaseException) -> str:
    return " ".join(str(error).split())


def _plain(value: Any) -> Any:
    """The same value in the types that YAML knows."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value
