import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tools.cli import COMMANDS, main, split_overrides, split_system
from tools.demo.command import SYSTEMS

ROOT = Path(__file__).parents[1]


def reelshard(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_help_names_every_command() -> None:
    done = reelshard("--help")
    assert done.returncode == 0
    assert all(f"  {name}  " in done.stdout for name in COMMANDS)


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = "import sys; from tools.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: reelshard {name}" in capsys.readouterr().out


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["fly"], ["show"], ["verify", "--speed", "9", "x"], ["train", "--trian.steps", "3"]]
)
def test_wrong_arguments_are_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("reelshard")
    assert message.count("\n") == 1


def test_an_error_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "nothing")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("reelshard: error: there is no data set at")
    assert message.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "nothing"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert main(["demo", "--out", str(blocker / "out"), "--train-videos", "6"]) == 1
    assert str(blocker) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "meant"),
    [("tran", "train"), ("Verify", "verify"), ("evalute", "evaluate"), ("indx", "index"), ("prefligth", "preflight")],
)
def test_a_mistyped_command_is_answered_with_the_nearest_one(
    given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([given]) == 2
    assert f"there is no command {given!r}, perhaps {meant!r} is meant" in capsys.readouterr().err


def test_a_command_that_is_near_to_none_is_answered_with_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly", "away"]) == 2
    assert f"there are {', '.join(COMMANDS)}" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"reelshard {metadata.version('reelshard')}\n"


def test_recipe_values_are_told_from_the_commands_own_arguments() -> None:
    arguments = ["probe", "--train.steps", "7", "--train", "data", "--view.size=64", "--run", "r"]
    own, overrides = split_overrides(arguments)
    assert own == ["probe", "--train", "data", "--run", "r"]
    assert overrides == ["--train.steps=7", "--view.size=64"]


def test_a_recipe_value_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "d", "--out", "o", "--train.steps"]) == 1
    assert "--train.steps has no value" in capsys.readouterr().err


@pytest.mark.parametrize("written", [["--system", "a"], ["--system=a"], ["--system", "b", "--system=a"]])
def test_a_system_is_told_from_the_arguments_of_its_demo(written: list[str]) -> None:
    assert split_system(["--out", "o", *written, "--json"]) == ("a", ["--out", "o", "--json"])


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_systems_demo_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--system", name, "--help"]) == 0
    assert f"usage: reelshard demo --system {name} " in capsys.readouterr().out


def test_an_unknown_systems_demo_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--system", "nothing"]) == 2
    said = capsys.readouterr().err
    assert "'nothing'" in said
    assert all(f"'{name}'" in said for name in SYSTEMS)
