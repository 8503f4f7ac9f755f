"""Settings of every test process."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from shards.builder import Source

# Two test processes share two cores: one torch thread each, in the programs they start as well. Read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a scheduler tells the ranks of its own job is not meant for the tests.
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the programs they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes depends on the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture
def garbage_collected() -> Iterator[None]:
    """Collects what a test leaves behind while its own filters of warnings hold."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def direct_reads(request: pytest.FixtureRequest) -> None:
    """Skip what asks for the reader `direct` where the file system of temporary folders has no O_DIRECT."""
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("reader") == "direct":
        from pipeline.read.auto import supports_direct

        probe = request.getfixturevalue("tmp_path") / "probe"
        probe.touch()
        if not supports_direct(probe):
            pytest.skip("the file system of temporary folders has no O_DIRECT")
        probe.unlink()


@pytest.fixture(scope="session")
def layouts() -> Path:
    """The folder of true records of public sets; skips the test where none is given."""
    folder = os.environ.get("REELSHARD_LAYOUTS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no records of public sets here: set REELSHARD_LAYOUTS to a folder that holds them")
    return Path(folder)


@pytest.fixture
def browser() -> Iterator[Browser]:
    """The distribution's Chromium, without a window; where it has to be there, tests fail without it."""
    from tests.browser import find_chromium, open_browser

    path = find_chromium()
    if path is None:
        missing = (
            "no Chromium is installed, in which pages are looked at: `apt-get install chromium`, or your system's own"
        )
        if os.environ.get("REELSHARD_NEEDS_CHROMIUM"):
            pytest.fail(missing)
        pytest.skip(missing)
    with open_browser(path) as opened:
        yield opened


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Ten small videos and an empty file, for tests that build them; not to be changed."""
    from shards.builder import load_folder
    from tests.builds import write_videos

    return load_folder(write_videos(tmp_path_factory.mktemp("videos"), 10))


@pytest.fixture(scope="session")
def expected(source: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of their data set, built in one go."""
    from tests.builds import build, contents

    out = tmp_path_factory.mktemp("expected")
    build(source, out)
    return contents(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a small disk is made by mounting a tmpfs, which takes root")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"a small disk is made by mounting a tmpfs, which is not allowed here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
