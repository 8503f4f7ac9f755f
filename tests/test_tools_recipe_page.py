"""`reelshard recipe NAME`, and what commands do with values that they take no notice of."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from tools.cli import TAKES_OVERRIDES, main
from tools.recipe import as_plain, load_recipe, make_parser
from tools.recipes import RECIPES

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["recipe", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_the_recipe_again(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "printed.yaml").write_text(printed(capsys, name))
    assert load_recipe(tmp_path / "printed.yaml") == load_recipe(name)


@pytest.mark.parametrize("name", ["demo", "demo_salt"])
def test_every_value_stands_under_its_meaning_type_and_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A key of a section never follows anything but a comment that ends in type and default."""
    found, comment, section = set(), "", ""
    for line in printed(capsys, name).splitlines():
        if line.strip().startswith("#"):
            comment += f" {line.strip('# ')}"
        elif key := re.match(r"( *)(\w+):", line):
            if not key[1]:
                section = key[2]
            elif len(key[1]) == 2:
                assert re.fullmatch(r" .{4,}\(type: .+, default: .*\)", comment), line
                found.add(f"{section}.{key[2]}")
            comment = ""
    values = as_plain(load_recipe(name))
    assert found == {f"{section}.{key}" for section, keys in values.items() if section != "system" for key in keys}


def test_the_defaults_that_are_printed_are_the_systems_own(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "salt_ti_ssv2")
    assert "default: MCG-NJU/videomae-huge)" in text
    assert "default: MCG-NJU/videomae-huge-finetuned-kinetics)" not in text


def test_values_of_the_command_line_are_printed_as_they_will_be(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "demo", "--train.steps", "7", "--data.mix", "{video: 3, text: 1}")
    values = yaml.safe_load(text)
    assert values["train"]["steps"] == 7
    assert values["data"]["mix"] == {"video": 3.0, "text": 1.0}


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--list").split() == NAMES


@pytest.mark.parametrize("name", ["build", "preflight", "train", "evaluate", "show", "bench"])
def test_the_help_of_a_command_that_takes_values_points_to_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert "`reelshard recipe NAME` prints all of them" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name, ignored in TAKES_OVERRIDES.items() if ignored])
def test_a_value_without_effect_is_refused_and_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for section in TAKES_OVERRIDES[name]:
        key = next(field.name for field in dataclasses.fields(type(getattr(load_recipe("demo"), section))))
        assert main([name, f"--{section}.{key}=1"]) == 2
        error = capsys.readouterr().err
        assert f"--{section}.{key} has no effect here" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--trian.steps=3", "no trian.steps (did you mean train.steps?); the sections are view, build"),
        ("--memory.size=3", "no memory.size; the sections are view, build"),
        ("--data.mix={video: -1}", "mix is {'video': -1.0}"),
        ("--data.mix={video: 0, text: 0}", "one more than 0"),
    ],
)
def test_a_wrong_value_is_one_line(flag: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "demo", flag]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_recipe_is_explained_by_its_class(name: str) -> None:
    parser = make_parser(type(load_recipe(name)))
    unexplained = [action.dest for action in parser._actions if "." in action.dest and not action.help]
    assert unexplained == []
