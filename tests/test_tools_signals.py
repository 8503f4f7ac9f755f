"""Ctrl-C and SIGTERM at any moment: one line, status 130 or 143, and never a traceback."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builds import ROOT
from tests.workplaces import Workplace, make_workplace

TOLD = {signal.SIGINT: (130, "reelshard: interrupted\n"), signal.SIGTERM: (143, "reelshard: terminated\n")}

# argv: the signal, the import at which it comes, then the command line. The audit hook sends it from within.
AT_AN_IMPORT = """
import os, sys
number, moment = int(sys.argv.pop(1)), int(sys.argv.pop(1))
imports = 0
def audit(event, arguments):
    global imports
    if event == "import":
        imports += 1
        if imports == moment:
            os.kill(os.getpid(), number)
sys.addaudithook(audit)
from tools.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


def start(*command: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status, and all of stderr."""
    try:
        _, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # what hangs is not to go on beside other tests
        process.kill()
        process.communicate()
        raise
    return process.returncode, errors


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, 3), *((number, moment) for number in TOLD for moment in (25, 60, 150))]
)
def test_a_signal_while_a_command_is_loaded_is_one_line(number: signal.Signals, moment: int) -> None:
    assert end(start("-c", AT_AN_IMPORT, number, moment, "verify", "tests/golden/format1")) == TOLD[number]


@pytest.mark.slow
@pytest.mark.parametrize("moment", [200, 700, 1200, 1600])
def test_a_signal_while_torch_and_transformers_are_loaded_is_one_line(
    place: Workplace, tmp_path: Path, moment: int
) -> None:
    command = ("train", "--recipe", place.recipe, "--data", place.train, "--out", tmp_path / "run")
    assert end(start("-c", AT_AN_IMPORT, signal.SIGINT, moment, *command)) == TOLD[signal.SIGINT]
    assert not (tmp_path / "run").exists()


def wait_for_library(process: subprocess.Popen[str], name: str) -> None:
    """Wait until the process has mapped a library."""
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and name not in maps.read_text():
        os.sched_yield()


@pytest.mark.parametrize("number", TOLD)
def test_a_signal_from_outside_while_torch_is_loaded_is_one_line(
    place: Workplace, tmp_path: Path, number: signal.Signals
) -> None:
    with start("-m", "tools", "train", "--data", place.train, "--out", tmp_path / "run") as process:
        wait_for_library(process, "libtorch_cpu")
        process.send_signal(number)
        assert end(process) == TOLD[number]


# A destructor that a signal falls into cannot raise. The work goes on until somebody stops it.
IN_A_DESTRUCTOR = """
import os, signal, sys
from tools.__main__ import main
import shards.dataset
class Dying:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv.pop()))
def work(*_):
    Dying()
    while True:
        pass
shards.dataset.ShardDataset.open = work
sys.exit(main(["show", "x"]))
"""


@pytest.mark.parametrize("number", TOLD)
def test_a_signal_that_falls_into_a_destructor_is_not_lost(number: signal.Signals) -> None:
    assert end(start("-c", IN_A_DESTRUCTOR, number)) == TOLD[number]


def test_what_a_program_was_told_to_ignore_stays_ignored() -> None:
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);" + AT_AN_IMPORT
    status, errors = end(start("-c", code, signal.SIGINT, 30, "verify", "tests/golden/format1"))
    assert status == 0, errors


def wait_until_gone(group: int) -> None:
    """Wait until no process of a group is left."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            os.sched_yield()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_while_its_processes_are_at_work_leaves_none_of_them(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start("-m", "tools", "demo", "--out", tmp_path, "--train-videos", "9000")
    while not list(tmp_path.glob("videos/*.webm")):
        assert process.poll() is None
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)  # as a terminal does: the workers get it too
    status, errors = end(process)
    assert "Traceback" not in errors
    if number in TOLD:
        assert (status, errors.splitlines(keepends=True)[-1]) == TOLD[number]
    wait_until_gone(process.pid)
