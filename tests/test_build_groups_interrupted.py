"""Kills, signals, a full disk, a second command: a field group is whole or not there, and the samples stay readable."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.adopt import index_directory
from shards.builder import BuildSummary, InProcess, Source
from shards.builder.add_group import add_table, add_teacher_group
from shards.dataset import ShardDataset
from shards.drop_group import drop_group
from shards.exchange.zarr import add_zarr, export_targets
from shards.format.errors import ShardError
from shards.progress import Progress, untold
from shards.verify import verify_dataset
from tests.builds import CONFIG, ROOT, VIEW, build, contents, start_python
from tests.teachers import MeanTeacher

# argv: set, group, samples after which to say so and wait (0: say so first, and never wait)
ADDER = """
import sys
from pathlib import Path
from tests.test_build_groups_interrupted import add
done, last = 0, int(sys.argv[3])
def progress(count, failed):
    global done
    done += count
    if done == last:
        print("here", flush=True)
        sys.stdin.readline()
if not last:
    print("here", flush=True)
add(Path(sys.argv[1]), sys.argv[2], progress)
"""


def add(out: Path, group: str, progress: object = None) -> ShardDataset:
    """Two teachers: each group has its own."""
    teacher = MeanTeacher(VIEW.clip_shape, version=len(group), scale=1 / len(group))
    dataset = ShardDataset.open(out)
    add_teacher_group(dataset, group, InProcess(teacher), CONFIG, progress=progress)  # type: ignore[arg-type]
    return ShardDataset.open(out)


@pytest.fixture(scope="session")
def built(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set; not to be changed."""
    out = tmp_path_factory.mktemp("built")
    build(source, out)
    return out


@pytest.fixture(scope="session")
def twice(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Its files after two teachers were added in one go each."""
    out = tmp_path_factory.mktemp("twice") / "set"
    shutil.copytree(built, out)
    for group in ("one", "other"):
        add(out, group)
    assert verify_dataset(out).problems == ()
    return contents(out)


@pytest.fixture
def out(built: Path, tmp_path: Path) -> Path:
    """A copy of the data set."""
    return Path(shutil.copytree(built, tmp_path / "set"))


def killed(out: Path, group: str, last: int, number: int = signal.SIGKILL) -> str:
    """Stop an add-field after `last` samples; returns what it said."""
    with start_python(ADDER, out, group, last) as adder:
        assert adder.stdout is not None
        assert adder.stdout.readline() == "here\n"
        adder.send_signal(number)
        _, errors = adder.communicate(timeout=60)
    return errors


@pytest.mark.parametrize("last", [1, 7])
def test_two_teachers_each_killed_and_resumed_leave_the_same_bytes(
    out: Path, twice: dict[str, bytes], last: int
) -> None:
    samples = contents(out)
    for group in ("one", "other"):
        killed(out, group, last)
        assert not set(ShardDataset.open(out).schema.groups) - {"", "one"}
        assert all(contents(out)[name] == data for name, data in samples.items() if name != "dataset.json")
        add(out, group)
    assert contents(out) == twice


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.6), st.floats(0, 0.6))
def test_an_add_field_killed_at_any_moment_ends_with_the_same_bytes(
    built: Path, twice: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, first: float, second: float
) -> None:
    out = Path(shutil.copytree(built, tmp_path_factory.mktemp("killed") / "set"))
    for group, seconds in (("one", first), ("other", second)):
        with start_python(ADDER, out, group, 0) as adder:
            assert adder.stdout is not None
            adder.stdout.readline()  # imports are over
            with contextlib.suppress(subprocess.TimeoutExpired):
                adder.wait(seconds)
            adder.kill()
            adder.communicate()
        assert len(ShardDataset.open(out)) == 10
        add(out, group)
    assert contents(out) == twice


def test_ctrl_c_says_what_remains_and_a_stopped_group_is_no_group(out: Path) -> None:
    before = contents(out)
    errors = killed(out, "one", 7, signal.SIGINT)
    finished = len(list(out.glob("train.one-*.idx")))
    assert f"{finished} of 4 shards are finished and kept, {4 - finished} remain" in errors
    assert not list(out.glob("*.tmp"))
    assert ShardDataset.open(out).schema.groups == ("",)
    assert verify_dataset(out).problems == ()
    drop_group(out, "one")
    assert contents(out) == before


def test_a_build_that_is_run_again_leaves_what_a_stopped_add_field_has_finished(
    out: Path, source: Source, twice: dict[str, bytes]
) -> None:
    killed(out, "one", 7)
    shards = {path: path.stat().st_ino for path in out.glob("train.one-*.tar")}
    assert shards
    assert build(source, out).num_resumed == 11
    add(out, "one")
    assert {path: path.stat().st_ino for path in shards} == shards
    add(out, "other")
    assert contents(out) == twice


def test_a_second_command_is_told_who_is_at_work(out: Path, source: Source) -> None:
    with start_python(ADDER, out, "one", 2) as adder:
        assert adder.stdout is not None
        assert adder.stdout.readline() == "here\n"
        said = rf"another process \(pid {adder.pid} on .*\) is building"
        for attempt in (
            lambda: add(out, "one"),
            lambda: add(out, "other"),
            lambda: drop_group(out, "one"),
            lambda: build(source, out),
        ):
            with pytest.raises(ShardError, match=said):
                attempt()
        adder.communicate("\n", timeout=60)
    assert ShardDataset.open(out).schema.groups == ("", "one")
    assert verify_dataset(out).problems == ()


def test_a_group_that_was_finished_but_not_named_is_found_with_where_it_came_from(
    out: Path, source: Source, twice: dict[str, bytes]
) -> None:
    for group in ("one", "other"):
        add(out, group)
    (out / "dataset.json").unlink()
    build(source, out)
    assert contents(out) == twice
    (out / "dataset.json").unlink()
    assert index_directory(out).about("one")["teacher"]["version"] == 3
    assert verify_dataset(out).problems == ()


def test_index_says_of_a_group_that_was_begun_how_to_go_on(out: Path) -> None:
    killed(out, "one", 7)
    with pytest.raises(ShardError, match=r"'one' has \d shards, the main .*same `reelshard add-field`.*drop-field`"):
        index_directory(out)
    drop_group(out, "one")
    assert index_directory(out) == ShardDataset.open(out).manifest


def test_a_lost_shard_of_a_group_is_made_again_by_the_same_command(out: Path, twice: dict[str, bytes]) -> None:
    for group in ("one", "other"):
        add(out, group)
    (out / "train.one-00002-of-00004.tar").unlink()
    assert add_teacher_group_again(out) == 8
    assert contents(out) == twice


def add_teacher_group_again(out: Path) -> int:
    teacher = MeanTeacher(VIEW.clip_shape, version=3, scale=1 / 3)
    return add_teacher_group(ShardDataset.open(out), "one", InProcess(teacher), CONFIG).num_resumed


def test_a_full_disk_stops_an_add_field_which_goes_on_when_there_is_room(
    built: Path, small_disk: Path, twice: dict[str, bytes]
) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    out = Path(shutil.copytree(built, small_disk / "set"))
    used = subprocess.run(["df", "-k", "--output=used", small_disk], check=True, capture_output=True, text=True)
    room = int(used.stdout.split()[-1]) + 48
    subprocess.run(["mount", "-o", f"remount,size={room}k", small_disk], check=True)
    with pytest.raises(ShardError, match=r"no room is left on the disk: \d of 4 shards are finished and kept"):
        add(out, "one")
    assert not list(out.glob("*.tmp"))
    assert len(ShardDataset.open(out)) == 10
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    for group in ("one", "other"):
        add(out, group)
    assert contents(out) == twice


def test_tables_and_caches_resume_too(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    dataset = ShardDataset.open(out)
    export_targets(dataset, tmp_path / "cache")
    (tmp_path / "t.csv").write_text("key,n\n" + "".join(f"{dataset.key(n)},{n}\n" for n in range(10)))

    class Stop:
        """Stops after so many samples."""

        def __init__(self, left: int) -> None:
            self.left = left

        def __call__(self, done: int, failed: int = 0) -> None:
            self.left -= done
            if self.left <= 0:
                raise KeyboardInterrupt

    def make(progress: Progress, kind: str) -> BuildSummary:
        dataset = ShardDataset.open(out)
        if kind == "a":
            return add_table(dataset, "a", tmp_path / "t.csv", progress=progress)
        return add_zarr(dataset, "b", tmp_path / "cache", progress=progress)

    for kind in ("a", "b"):
        with pytest.raises(KeyboardInterrupt, match=r"\d of 4 shards are finished and kept"):
            make(Stop(9), kind)
        assert 3 <= make(untold, kind).num_resumed < 10
    both = ShardDataset.open(out)
    assert verify_dataset(out).problems == ()
    for number in range(10):
        sample = both[number]
        assert int(np.asarray(sample["n"])) == number
        assert np.array_equal(np.asarray(sample["b"]), np.asarray(sample["target"]))


DROPPER = """
import os, sys
from pathlib import Path
from shards import drop_group as module
calls = 0
unlink = Path.unlink
def stop(self, *arguments, **options):
    global calls
    if self.parent == Path(sys.argv[1]):
        calls += 1
        if calls > int(sys.argv[2]):
            os.kill(os.getpid(), 9)
    unlink(self, *arguments, **options)
Path.unlink = stop
module.drop_group(Path(sys.argv[1]), "one")
"""


@pytest.mark.parametrize("files", [0, 1, 5, 9])
def test_a_drop_that_is_killed_leaves_a_set_that_opens_and_is_finished_by_another(
    out: Path, source: Source, files: int
) -> None:
    before = contents(out)
    add(out, "one")
    with start_python(DROPPER, out, files) as dropper:
        dropper.communicate(timeout=60)
    assert dropper.returncode == -signal.SIGKILL
    assert ShardDataset.open(out).schema.groups == ("",)
    assert verify_dataset(out).problems == ()
    drop_group(out, "one")
    assert contents(out) == before


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_command_in_one_line(out: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    from tests.test_model_teacher import save_backbone

    save_backbone(tmp_path / "videomae")
    command = [sys.executable, "-m", "tools", "add-field", out, "--name", "one", "--teacher", tmp_path / "videomae"]
    held = subprocess.Popen(
        [*map(str, command), "--device", "cpu"], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with held:
        while not (out / "plan.one.json").exists() and held.poll() is None:
            pass
        held.send_signal(number)
        said, errors = held.communicate(timeout=60)
    if held.returncode == 0:  # it was done before the signal came
        assert "for 10 samples in 4 shards" in said
    else:
        assert held.returncode == status
        assert "Traceback" not in errors
        assert [line for line in errors.splitlines() if line.startswith("reelshard:")][-1:]
    assert subprocess.run([*map(str, command), "--device", "cpu"], cwd=ROOT, check=False).returncode == 0
    assert verify_dataset(out).problems == ()
