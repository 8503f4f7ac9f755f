"""A system is one file: nobody else knows what it is called, and a file of the user's own is as good as ours."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.two_kinds import write_set
from tools.cli import main
from tools.recipe import load_recipe, save_resolved
from tools.systems import SYSTEMS, find_system

ROOT = Path(__file__).parents[1]
PLACES = [
    path
    for folder in ("training", "pipeline", "shards", "tools")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(ROOT / "tools" / "demo")  # a demo is of systems, and says of which
]


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_name_of_a_system_stands_outside_its_file(name: str) -> None:
    family = name.partition("_")[0]  # systems of one model share files, and know of each other
    own = {*(ROOT / "tools/systems").glob(f"{family}*.py"), ROOT / "tools/systems/__init__.py"}  # with the list of all
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


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A recipe beside the file of its system, in a folder of the user's own."""
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(ROOT / "tests/two_kinds.py", folder / f"{tmp_path.name}.py")
    recipe = {"system": f"{tmp_path.name}.py", "data": {"global_batch_size": 2}, "train": {"steps": 1, "device": "cpu"}}
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe | {"optim": {"warmup": 0}}))
    return folder


def test_a_path_begins_at_the_recipe_and_is_recorded_so_that_any_folder_finds_it(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("own/own.yaml")
    (tmp_path / "elsewhere").mkdir()
    assert recipe.system == str(own / f"{tmp_path.name}.py")
    save_resolved(recipe, tmp_path / "elsewhere/recipe.yaml")
    assert load_recipe(tmp_path / "elsewhere/recipe.yaml") == recipe


def test_a_system_of_the_users_own_trains_and_says_that_it_cannot_be_evaluated(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "text", 8, video=False)
    data = ["--data", f"text={tmp_path / 'text'}", "--out", str(tmp_path / "run")]
    assert main(["train", "--recipe", str(own / "own.yaml"), *data]) == 0
    capsys.readouterr()
    assert main(["evaluate", "probe", "--run", str(tmp_path / "run"), "--val", str(tmp_path / "text")]) == 1
    assert "there is no evaluation 'probe' of video and text; there are none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere.py", None, "there is no such file"),
        ("empty_system.py", "", "holds no SYSTEM"),
        ("json.py", "SYSTEM = 1", "has the name of another module"),
        ("broken_system.py", "def (", "cannot be run: SyntaxError"),
        ("failing_system.py", "1 / 0", "cannot be run: ZeroDivisionError"),
        ("no_such_name", None, "or the path of a Python file"),
    ],
)
def test_a_file_that_holds_no_system_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    (tmp_path / "r.yaml").write_text(f"system: {name}\n")
    assert main(["recipe", str(tmp_path / "r.yaml")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("absolute", [False, True])
def test_code_that_came_with_a_run_folder_is_not_run_by_evaluating_it(
    tmp_path: Path, absolute: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    (run / "recipe.yaml").write_text(f"system: {run / 'trap.py' if absolute else 'trap.py'}\n")
    (run / "run.json").write_text("{}")
    assert main(["evaluate", "probe", "--run", str(run), "--val", str(run)]) == 1
    assert "is not run unasked" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()


def test_an_evaluation_names_the_data_sets_that_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    golden = ROOT / "tests/golden/before_rooms"
    arguments = ["evaluate", "probe", "--run", str(golden / "run_salt"), "--val", str(golden / "set")]
    assert main(arguments) == 1
    assert "`evaluate probe` needs --train SET and --val SET, given is val" in capsys.readouterr().err
