"""The systems that can be trained: each is one file here, or a Python file of the user's that holds a `SYSTEM`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.systems.base import Recipe, System

# Name, as a recipe has it -> module that holds its `SYSTEM`; loaded when asked for.
SYSTEMS = {
    "st_jepa": "tools.systems.st_jepa",
    "salt": "tools.systems.salt",
    "frame_sets": "tools.systems.frame_sets",
    "fvlm": "tools.systems.fvlm",
    "sam3_image": "tools.systems.sam3_image",
    "sam3_video": "tools.systems.sam3_video",
}
DEFAULT_SYSTEM = "st_jepa"  # of a recipe that names none
DEFAULT_RECIPE = "st_jepa_ssv2"  # of a command line that names none


def find_system(name: str, folder: Path | None = None) -> System[Any]:
    """The system that a recipe names.

    Args:
        name: one of `SYSTEMS`, or the path of a Python file that holds a `SYSTEM`; the file is run.
        folder: what a relative path begins at, the recipe's own folder; None is the current one.

    Raises:
        ValueError: there is none, or the file holds none.
    """
    if name in SYSTEMS:
        system: System[Any] = importlib.import_module(SYSTEMS[name]).SYSTEM
        return system
    if not name.endswith(".py"):
        raise ValueError(f"system is {name!r}, allowed are {', '.join(SYSTEMS)}, or the path of a Python file")
    return _of_file((folder or Path()) / name)


def system_of(recipe: Recipe) -> System[Any]:
    """The system of a resolved recipe."""
    return find_system(recipe.system)


def _of_file(path: Path) -> System[Any]:
    """Run a Python file as the module of its name, by which other processes find it too, and take its `SYSTEM`."""
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"system is {str(path)!r}, but there is no such file")
    folder, name = str(path.parent), path.stem
    if folder not in sys.path:  # behind all others: it hides nobody's modules
        sys.path.append(folder)
    module = sys.modules.get(name)
    if module is None:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever is wrong with it
            raise ValueError(f"{path} cannot be run: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if Path(module.__file__ or "").resolve() != path:
        raise ValueError(f"{path} has the name of another module ({module.__file__}); call it something else")
    system = getattr(module, "SYSTEM", None)
    if system is None:
        raise ValueError(f"{path} holds no SYSTEM; docs/extending.md shows what it is")
    found: System[Any] = system
    return found
