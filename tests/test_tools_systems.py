"""A system is one file: nobody else knows what it is called, and a file of the user's own is as good as ours."""

import re
from pathlib import Path

import pytest

from tools.systems import SYSTEMS, find_system

ROOT = Path(__file__).parents[1]
PLACES = [path for folder in ("training", "pipeline", "shards", "tools") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("name", sorted(SYSTEMS.keys() - {"frames"}))  # which is a word of video
def test_no_name_of_a_system_stands_outside_its_file(name: str) -> None:
    own = {ROOT / f"tools/systems/{name}.py", ROOT / "tools/systems/__init__.py"}  # the latter is the list of them
    words = {re.escape(word) for word in (name, name.replace("_", ""), find_system(name).title)}
    pattern = re.compile("|".join(rf"(?<![a-z]){word}" for word in words), re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in PLACES
        if path not in own
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_found_by_the_name_that_it_has(name: str) -> None:
    assert find_system(name).name == name
    assert find_system(name).recipe().system == name
