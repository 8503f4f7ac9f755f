"""Whatever ends a command is one line and an exit status: errors of every kind, readers that leave, full disks."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builds import ROOT
from tests.datasets import make_dataset
from tools.cli import main


def fail_with(error: BaseException) -> Callable[..., None]:
    """What a part of the program does that meets an error."""

    def fail(*_: object) -> None:
        raise error

    return fail


def said(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str]:
    """Status and stderr of `reelshard show SET`, of which the reading of the manifest ends in `error`."""
    monkeypatch.setattr("shards.dataset.Manifest.read", fail_with(error))
    return main(["show", "SET", *more]), capsys.readouterr().err


def test_an_error_that_nobody_expected_is_one_line_with_its_name_the_file_and_where_to_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = said(ZeroDivisionError("division\nby zero"), monkeypatch, capsys)
    assert status == 70
    assert message == (
        "reelshard: unexpected error: ZeroDivisionError: division by zero (at work on SET); "
        "--debug shows where it came from\n"
    )


def test_the_traceback_of_an_unexpected_error_is_shown_for_debug_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = said(KeyError("split"), monkeypatch, capsys, "--debug")
    assert status == 70
    assert "Traceback" in message
    assert message.splitlines()[-1].startswith("reelshard: unexpected error: KeyError: 'split'")


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), AssertionError(), StopIteration()])
def test_an_error_of_any_kind_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = said(error, monkeypatch, capsys)
    assert (status, message.count("\n")) == (70, 1)
    assert f"unexpected error: {type(error).__name__}" in message


def test_an_error_of_the_system_names_its_file_and_without_one_what_was_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = said(OSError(errno.ENOSPC, "No space left on device"), monkeypatch, capsys)
    assert (status, message) == (1, "reelshard: error: No space left on device (at work on SET)\n")
    _, message = said(PermissionError(errno.EACCES, "Permission denied", "a/b"), monkeypatch, capsys)
    assert message == "reelshard: error: a/b: Permission denied\n"


def test_what_an_error_quotes_cannot_steer_the_terminal_or_fill_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, message = said(ValueError("label \x1b[31mred\u202e " + "x" * 10_000), monkeypatch, capsys)
    assert message.startswith(r"reelshard: error: label \x1b[31mred\u202e xxx")
    assert len(message) < 1100


def test_notes_of_an_error_belong_to_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ValueError("not a number")
    error.add_note("in line 7")
    assert said(error, monkeypatch, capsys)[1] == "reelshard: error: not a number in line 7\n"


def test_a_pipe_that_is_not_our_output_breaks_with_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = said(BrokenPipeError(errno.EPIPE, "Broken pipe"), monkeypatch, capsys)
    assert (status, message) == (1, "reelshard: error: Broken pipe (at work on SET)\n")


@pytest.fixture(params=[False, True], ids=["buffered", "unbuffered"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return kept | ({"PYTHONUNBUFFERED": "1"} if request.param else {})


@pytest.mark.parametrize("command", ["show", "verify"])
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_reader_that_leaves_ends_the_command_silently(
    tmp_path: Path, environment: dict[str, str], command: str, both: bool
) -> None:
    make_dataset(tmp_path / "set")
    read, write = os.pipe()
    os.close(read)
    with (tmp_path / "stderr").open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "tools", command, tmp_path / "set"],
            cwd=ROOT,
            env=environment,
            stdout=write,
            stderr=write if both else file,
            check=False,
            timeout=120,
        )
    os.close(write)
    assert done.returncode == 141
    if command == "show":
        assert (tmp_path / "stderr").read_bytes() == b""


def test_output_that_finds_no_room_is_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    make_dataset(tmp_path / "set")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tools", "show", tmp_path / "set"],
            cwd=ROOT,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
@pytest.mark.parametrize("encoding", [None, "ascii", "latin-1"])
def test_a_name_that_the_terminal_cannot_spell_is_no_error(tmp_path: Path, locale: str, encoding: str | None) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9 \xe2\x86\x92"  # not UTF-8, then an arrow in UTF-8
    make_dataset(Path(os.fsdecode(folder)))
    environment = {**os.environ, "LC_ALL": locale} | ({"PYTHONIOENCODING": encoding} if encoding else {})
    command: list[str | bytes] = [sys.executable, "-m", "tools", "show", folder]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"20 samples in 4 shards" in done.stdout
