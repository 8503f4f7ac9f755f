"""However a loop over a loader is left: by a break, an error, a signal or a fork."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import LoaderConfig, Reader
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.test_pipeline_failures import reader_threads, readers


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def leave_by_break(loader: ShardLoader) -> None:
    for _ in loader:
        break


def leave_by_exception(loader: ShardLoader) -> None:
    def fail_in_the_loop() -> None:
        for _ in loader:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_loop()


def leave_by_close(loader: ShardLoader) -> None:
    iterator = iter(loader)
    next(iterator)
    loader.close()
    with pytest.raises(RuntimeError, match=r"close\(\)"):
        next(iterator)


def leave_by_collection(loader: ShardLoader) -> None:
    iterator = iter(loader)
    next(iterator)
    del iterator
    gc.collect()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_exception, leave_by_close, leave_by_collection])
@readers
def test_however_a_loop_is_left_no_thread_and_no_file_stays(
    tmp_path: Path, reader: Reader, leave: Callable[[ShardLoader], None]
) -> None:
    dataset = make_dataset(tmp_path)
    before = open_files()
    for _ in range(3):
        loader = ShardLoader(dataset, LoaderConfig(global_batch_size=2, reader=reader))
        leave(loader)
        assert not reader_threads()
        del loader
    gc.collect()
    assert open_files() <= before


def test_leaving_a_loop_keeps_the_position(tmp_path: Path) -> None:
    loader = ShardLoader(make_dataset(tmp_path), LoaderConfig(global_batch_size=2))
    for batch in loader:
        first = batch["index"].tolist()
        break
    rest = [number for batch in loader for number in batch["index"].tolist()]
    assert sorted(first + rest) == list(range(20))


def test_a_newer_iteration_ends_an_older_one(tmp_path: Path) -> None:
    loader = ShardLoader(make_dataset(tmp_path), LoaderConfig(global_batch_size=2))
    old = iter(loader)
    next(old)
    assert len(list(loader)) == 9
    with pytest.raises(RuntimeError, match="newer one"):
        next(old)


PROLOGUE = """
import os, signal, sys, threading
from pathlib import Path
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset
loader = ShardLoader(ShardDataset.open(sys.argv[1]), LoaderConfig(global_batch_size=2))
"""


def run_python(code: str, dataset: ShardDataset) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROLOGUE + code, str(dataset.directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_ctrl_c_in_the_middle_of_an_epoch_ends_the_process_at_once(tmp_path: Path) -> None:
    code = """
for batch in loader:
    os.kill(os.getpid(), signal.SIGINT)
"""
    result = run_python(code, make_dataset(tmp_path))
    assert result.returncode in (-signal.SIGINT, 130, 1)
    assert "KeyboardInterrupt" in result.stderr


def test_a_fork_in_the_middle_of_an_epoch_can_iterate_in_the_child(tmp_path: Path) -> None:
    code = """
iterator = iter(loader)
first = next(iterator)["index"].tolist()
child = os.fork()
if child == 0:
    rest = [batch["index"].tolist() for batch in loader]
    os._exit(0 if len(rest) == 9 else 1)
_, status = os.waitpid(child, 0)
rest = [batch["index"].tolist() for batch in iterator]
print(os.waitstatus_to_exitcode(status), len(rest), sorted(sum([first, *rest], [])) == list(range(20)))
"""
    result = run_python(code, make_dataset(tmp_path))
    assert result.stdout.strip() == "0 9 True", result.stderr


def test_a_loader_that_is_collected_where_threads_end_holds_up_nobody(tmp_path: Path) -> None:
    """As the collector may find it: in a thread that holds the lock of `threading` that ending threads ask for."""
    dataset = make_dataset(tmp_path)
    script = f"""
import faulthandler, gc, threading
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset
faulthandler.dump_traceback_later(60, exit=True)
loader = ShardLoader(ShardDataset.open({str(dataset.directory)!r}), LoaderConfig(global_batch_size=2, threads=2))
batches = iter(loader)
next(batches)
circle = [loader, batches]
circle.append(circle)
del loader, batches, circle
gc.disable()
with threading._shutdown_locks_lock:
    gc.collect()
print("done")
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr
