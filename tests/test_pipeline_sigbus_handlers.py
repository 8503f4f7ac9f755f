"""Handlers of SIGBUS: the faults of others stay theirs, whoever comes first, and ours never reach them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.read.gather import COMPILED, NO_LIBRARY

CC = shlex.split(os.environ.get("CC", "cc"))
COMPILER = shutil.which(CC[0])
pytestmark = pytest.mark.skipif(not COMPILED, reason=NO_LIBRARY)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
ROOT = Path(__file__).parent.parent


# What follows happens to a process of its own. `lose()` is a fault of ours; `touch()` one of somebody else.
PROLOGUE = """
import ctypes, faulthandler, mmap, os, signal, sys, threading, warnings
from pathlib import Path
from tests.test_pipeline_sigbus import Mapped

folder = Path(sys.argv[1])

def lose():
    _, lost = Mapped(folder / "ours", num_rows=4, num_kept=2).gather()
    assert lost.tolist() == [False, False, True, True], lost

def touch():
    path = folder / "theirs"
    path.write_bytes(bytes(8192))
    with path.open("rb") as file:
        theirs = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate(path, 0)
    return theirs[0]

library = ctypes.CDLL(sys.argv[2]) if len(sys.argv) > 2 else None
"""
FAULTHANDLER = "faulthandler.enable()"


def run(code: str, folder: Path, library: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROLOGUE + code, str(folder), *([str(library)] if library else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handlers as other libraries have them, with SA_SIGINFO: one ends the process, one calls who was there before."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "theirs.c").write_text(
        """
        #define _GNU_SOURCE
        #include <signal.h>
        #include <string.h>
        #include <unistd.h>
        static struct sigaction before;
        static void say(const char *text) { if (write(1, text, strlen(text)) < 0) _exit(1); }
        static void ends(int number, siginfo_t *info, void *context) {
            say(info->si_code == BUS_ADRERR && info->si_addr ? "theirs, with its address\\n" : "theirs\\n");
            _exit(42);
        }
        static void chains(int number, siginfo_t *info, void *context) {
            say("theirs\\n");
            if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(number, info, context);
            else { sigaction(number, &before, NULL); raise(number); }
        }
        static void install(void (*handler)(int, siginfo_t *, void *), int flags) {
            struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
            sigaction(SIGBUS, &action, &before);
        }
        void install_ends(void) { install(ends, 0); }
        void install_once(void) { install(chains, SA_RESETHAND); }
        void install_chains(void) { install(chains, 0); }
        void restore(void) { sigaction(SIGBUS, &before, NULL); }
        """
    )
    target = folder / "theirs.so"
    subprocess.run([*CC, "-shared", "-fPIC", "-o", str(target), str(folder / "theirs.c")], check=True)
    return target


def around(install: str, order: str) -> str:
    """Somebody installs a handler before our first fault, after it, or where there is none of ours."""
    code = {"before": f"{install}; lose(); lose()", "after": f"lose(); {install}; lose()", "only": install}
    return code[order] + "\n"


orders = pytest.mark.parametrize("order", ["before", "after", "only"])


def test_without_any_handler_a_fault_of_others_ends_the_process_as_always(tmp_path: Path) -> None:
    result = run("lose(); print('recovered', flush=True); touch()", tmp_path)
    assert (result.returncode, result.stdout) == (-signal.SIGBUS, "recovered\n")


@orders
def test_faulthandler_reports_faults_of_others_and_none_of_ours(tmp_path: Path, order: str) -> None:
    quiet = run(around(FAULTHANDLER, order), tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    result = run(around(FAULTHANDLER, order) + "touch()", tmp_path)
    assert result.returncode == -signal.SIGBUS
    assert result.stderr.count("Fatal Python error: Bus error") == 1
    assert "in touch" in result.stderr


@orders
def test_faulthandler_can_be_switched_off_and_on_around_our_faults(tmp_path: Path, order: str) -> None:
    toggle = "faulthandler.disable(); lose(); faulthandler.enable(); lose()"
    toggled = around(FAULTHANDLER, order) + f"for _ in range(50): {toggle}\n"
    result = run(toggled + "touch()", tmp_path)
    assert result.returncode == -signal.SIGBUS
    assert result.stderr.count("Fatal Python error: Bus error") == 1
    result = run(toggled + "faulthandler.disable(); touch()", tmp_path)
    assert (result.returncode, result.stderr) == (-signal.SIGBUS, "")


@needs_compiler
@orders
def test_a_users_handler_with_siginfo_gets_faults_of_others_with_their_address(
    tmp_path: Path, library: Path, order: str
) -> None:
    result = run(around("library.install_ends()", order) + "print('recovered', flush=True); touch()", tmp_path, library)
    assert (result.returncode, result.stdout) == (42, "recovered\ntheirs, with its address\n")


@needs_compiler
@orders
@pytest.mark.parametrize("install", ["install_chains", "install_once"])
def test_a_users_handler_that_calls_the_one_before_it_does_not_run_in_a_circle(
    tmp_path: Path, library: Path, order: str, install: str
) -> None:
    result = run(around(f"library.{install}()", order) + "touch()", tmp_path, library)
    assert (result.returncode, result.stdout) == (-signal.SIGBUS, "theirs\n")


@needs_compiler
def test_handlers_of_several_libraries_are_called_in_the_order_they_agreed_on(tmp_path: Path, library: Path) -> None:
    code = "lose(); library.install_chains(); lose(); faulthandler.enable(); lose()\n"
    result = run(code + "touch()", tmp_path, library)
    assert (result.returncode, result.stdout) == (-signal.SIGBUS, "theirs\n")
    assert result.stderr.count("Fatal Python error: Bus error") == 1
    result = run(code + "faulthandler.disable(); library.restore(); touch()", tmp_path, library)
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGBUS, "", "")


@orders
def test_a_handler_of_pythons_signal_module_gets_signals_of_others(tmp_path: Path, order: str) -> None:
    install = "calls = []; signal.signal(signal.SIGBUS, lambda *_: calls.append(1))"
    result = run(around(install, order) + "os.kill(os.getpid(), signal.SIGBUS); lose(); print(calls)", tmp_path)
    assert (result.returncode, result.stdout) == (0, "[1]\n"), result.stderr


@orders
def test_a_handler_of_pythons_signal_module_gets_faults_of_others(tmp_path: Path, order: str) -> None:
    """Python only takes note of them and lets the fault come again, for ever, with us or without."""
    install = "signal.signal(signal.SIGBUS, print); signal.set_wakeup_fd(1, warn_on_full_buffer=False)"
    code = "os.set_blocking(1, False)\n" + around(install, order) + "os.write(1, b'recovered'); touch()"
    command = [sys.executable, "-c", PROLOGUE + code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        noted = process.stdout.read(10)
        process.kill()
    assert noted == b"recovered" + bytes([signal.SIGBUS])


@orders
@pytest.mark.parametrize(("handler", "status"), [("SIG_IGN", 0), ("SIG_DFL", -signal.SIGBUS)])
def test_a_signal_that_was_sent_is_ignored_or_ends_the_process_as_set(
    tmp_path: Path, order: str, handler: str, status: int
) -> None:
    install = f"signal.signal(signal.SIGBUS, signal.{handler})"
    result = run(around(install, order) + "os.kill(os.getpid(), signal.SIGBUS); lose(); print('recovered')", tmp_path)
    assert (result.returncode, result.stdout) == (status, "" if status else "recovered\n")


def test_more_handlers_than_can_be_kept_apart_are_a_clear_error(tmp_path: Path) -> None:
    code = """
class SigAction(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("rest", ctypes.c_long * 2)]
kept = []
for number in range(40):
    kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: None))
    action = SigAction(ctypes.cast(kept[-1], ctypes.c_void_p).value)
    assert ctypes.CDLL(None).sigaction(signal.SIGBUS, ctypes.byref(action), None) == 0
    lose()
"""
    result = run(code, tmp_path)
    assert "RuntimeError: more than 16 different handlers of SIGBUS" in result.stderr


def test_a_fork_in_the_middle_of_copies_leaves_a_child_that_is_guarded_too(tmp_path: Path) -> None:
    code = """
warnings.simplefilter("ignore")
lose()
stop = threading.Event()
def copy_on():
    mapped = Mapped(folder / threading.current_thread().name, num_rows=64, num_kept=60)
    while not stop.is_set():
        mapped.gather()
threads = [threading.Thread(target=copy_on) for _ in range(4)]
for thread in threads: thread.start()
statuses = set()
for _ in range(100):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        lose()
        os._exit(0)
    statuses.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
print(statuses)
"""
    result = run(code, tmp_path)
    assert result.stdout == "{0}\n", result.stderr


@needs_compiler
def test_the_kernel_does_nothing_that_c_leaves_undefined(tmp_path: Path) -> None:
    """Compiled again so that undefined behaviour traps, it passes the tests of this file and of the copy."""
    target = tmp_path / "_gather.so"
    flags = ["-std=c11", "-O1", "-pthread", "-shared", "-fPIC"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    sources = [str(ROOT / "pipeline/read" / name) for name in ("gather.c", "guard.c")]
    subprocess.run([*CC, *flags, "-o", str(target), *sources], check=True)
    choice = tmp_path / "_choose.so"
    subprocess.run([*CC, *flags, "-o", str(choice), str(ROOT / "pipeline/order/choose.c")], check=True)
    plugin = tmp_path / "sanitized.py"
    plugin.write_text(
        "from pipeline.order import choose\nfrom pipeline.read import gather\n"
        f"choose._library = choose._holding = choose._load({str(choice)!r})\n"
        f"gather._library = gather._load({str(target)!r})\n"
    )
    tests = [f"tests/test_pipeline_{name}.py" for name in ("gather", "sigbus", "masks")]
    chosen = "equals_numpy or position or pages_are_gone or all_there or many_threads or blocked"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "sanitized", "-k", chosen, *tests]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
