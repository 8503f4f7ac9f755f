"""Recipes: one YAML file that says everything about a run, merged with flags and refused where it does not fit.

The sections are the configuration classes of the packages; their names, types and defaults live there and nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from evaluation.probe import ProbeConfig
from model.salt import SALTConfig
from model.st_jepa import STJEPAConfig
from model.teacher import TeacherConfig
from pipeline.config import LoaderConfig
from shards.builder.config import BuildConfig
from shards.builder.decode.view import ViewSpec
from shards.format.publish import publish_bytes
from training.config import TrainConfig
from training.objectives.salt import SALTObjectiveConfig
from training.objectives.st_jepa import STJEPAObjectiveConfig
from training.optim import OptimConfig

RECIPES = Path(__file__).parent / "recipes"
NOT_THE_USERS = ("fields", "gather")  # of the section `data`: what is read of a sample follows from the system


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A resolved recipe.

    Attributes:
        system: which of the systems it trains; it decides the classes of `model` and `objective`.
        view: how a clip is cut out of a video.
        build: how shards are made.
        teacher: who makes the targets.
        data: how they are read for training; which fields, and what of them, the system decides.
        model: the student.
        objective: what it is trained to do.
        optim: the optimiser.
        train: the loop.
        evaluate: the probe.
    """

    system: str = "st_jepa"
    view: ViewSpec = dataclasses.field(default_factory=ViewSpec)
    build: BuildConfig = dataclasses.field(default_factory=BuildConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    data: LoaderConfig = dataclasses.field(default_factory=LoaderConfig)
    model: STJEPAConfig | SALTConfig = dataclasses.field(default_factory=STJEPAConfig)
    objective: STJEPAObjectiveConfig | SALTObjectiveConfig = dataclasses.field(default_factory=STJEPAObjectiveConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: ProbeConfig = dataclasses.field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        for name in NOT_THE_USERS:
            value = getattr(self.data, name)
            if value != getattr(LoaderConfig(), name):
                raise ValueError(
                    f"data.{name} is {value}; what is read of a sample follows from the system {self.system}: leave "
                    f"data.{name} out"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SALTRecipe(Recipe):
    """A resolved recipe of the system `salt`."""

    system: str = "salt"
    teacher: TeacherConfig = dataclasses.field(
        default_factory=lambda: TeacherConfig(id="MCG-NJU/videomae-huge", projection_dim=None)
    )
    model: STJEPAConfig | SALTConfig = dataclasses.field(default_factory=SALTConfig)
    objective: STJEPAObjectiveConfig | SALTObjectiveConfig = dataclasses.field(default_factory=SALTObjectiveConfig)


SYSTEMS: dict[str, type[Recipe]] = {"st_jepa": Recipe, "salt": SALTRecipe}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and put the overrides on top.

    Args:
        name_or_path: one of `tools/recipes/`, or the path of a YAML file.
        overrides: `--SECTION.NAME=VALUE`, later ones win.

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
    system = content.pop("system", "st_jepa")
    if system not in SYSTEMS:
        raise ValueError(f"{path}: system is {system!r}, allowed are {', '.join(SYSTEMS)}")
    return _resolve(SYSTEMS[system], system, content, overrides, path)


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
    record: dict[str, Any] = _plain(dataclasses.asdict(recipe))
    for name in NOT_THE_USERS:
        del record["data"][name]
    return record


def save_resolved(recipe: Recipe, path: Path) -> None:
    """Write every value of a recipe as YAML, which `load_recipe` reads back as the same recipe."""
    text = yaml.safe_dump(as_plain(recipe), sort_keys=False)
    publish_bytes(path, b"# The resolved recipe: every value, defaults and flags included.\n" + text.encode())


def _resolve(kind: type[Recipe], system: str, content: dict[str, Any], overrides: Sequence[str], path: Path) -> Recipe:
    defaults = kind()
    parser = ArgumentParser(prog="recipe", exit_on_error=False)
    sections = {field.name: type(getattr(defaults, field.name)) for field in dataclasses.fields(kind)}
    del sections["system"]
    for name, section in sections.items():
        parser.add_class_arguments(section, name)
    parser.set_defaults({f"teacher.{name}": value for name, value in vars(defaults.teacher).items()})
    for name, section_values in content.items():
        if name not in sections:
            known = ("system", *sections)
            raise ValueError(
                f"{path}: there is no section {str(name)!r}{_nearest(str(name), known)}; allowed are {', '.join(known)}"
            )
        if not isinstance(section_values, dict):
            raise ValueError(f"{path}: section {name!r} is {section_values!r}, expected 'name: value' lines")
        _refuse_unknown(sections, [f"{name}.{key}" for key in section_values], f"{path}: ")
    _refuse_unknown(sections, [_key(override) for override in overrides])
    try:
        values = parser.parse_object(content, defaults=True)
    except Exception as error:
        raise ValueError(f"{path}: {_explain(error)}") from None
    try:
        values = parser.parse_args(_last_word_on_length(overrides), namespace=values)
    except Exception as error:
        raise ValueError(_explain(error)) from None
    return kind(system=system, **{name: section(**values[name].as_dict()) for name, section in sections.items()})


def _refuse_unknown(sections: dict[str, type], keys: Iterable[str], where: str = "") -> None:
    """Refuse keys that no section has, with the nearest that there is.

    Raises:
        ValueError: Naming the key.
    """
    known = [f"{name}.{field.name}" for name, kind in sections.items() for field in dataclasses.fields(kind)]
    offered = [name for name in known if name not in {f"data.{other}" for other in NOT_THE_USERS}]
    for key in keys:
        section, _, rest = key.partition(".")
        if f"{section}.{rest.partition('.')[0]}" not in known:  # a mapping may be given entry by entry
            allowed = ", ".join(name.partition(".")[2] for name in offered if name.startswith(f"{section}."))
            raise ValueError(f"{where}there is no {key}{_nearest(key, offered)}; {section} has {allowed}")


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
