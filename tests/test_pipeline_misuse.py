"""What people do to a loader beside iterating: each works, or is one clear error."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.order.draws import TubeMask
from pipeline.read.decoders import Outputs
from pipeline.reads import Reads
from shards.dataset import ShardDataset
from tests.datasets import POSITIONS, make_dataset, tubes_sample

GATHER = {"clip": "visible", "target": "masked"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("set"))


@pytest.fixture
def loader(dataset: ShardDataset) -> Iterator[ShardLoader]:
    with ShardLoader(dataset, LoaderConfig(global_batch_size=2, slabs=2), TubeMask(num_positions=POSITIONS)) as loader:
        yield loader


class Slow:
    """A decoder that waits until it may go on."""

    outputs: ClassVar[Outputs] = {"read": ("|b1", ())}

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, piece: memoryview, out: Mapping[str, NDArray[Any]], key: int) -> None:
        self.begun.set()
        assert self.may_go_on.wait(60)
        out["read"][...] = True


def end_from_another_thread(dataset: ShardDataset, method: str) -> BaseException:
    """Wait for a batch in a thread, end the iteration from this one, and return what the other thread got."""
    decoder = Slow()
    config = LoaderConfig(global_batch_size=2, threads=1)
    loader = ShardLoader(dataset, config, reads=Reads(fields=("json",), decoders={"json": decoder}))
    caught: list[BaseException] = []

    def consume() -> None:
        try:
            list(loader)
        except BaseException as error:
            caught.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert decoder.begun.wait(60)
    ender = threading.Thread(target=lambda: loader.close() if method == "close" else next(iter(loader)))
    ender.start()
    while loader._iteration is not None and not loader._iteration._ended_by:
        pass  # until it has begun to end
    decoder.may_go_on.set()
    for thread in (consumer, ender):
        thread.join(60)
        assert not thread.is_alive()
    loader.close()
    (error,) = caught
    return error


def test_close_from_another_thread_ends_the_consumer_with_a_clear_error(dataset: ShardDataset) -> None:
    error = end_from_another_thread(dataset, "close")
    assert isinstance(error, RuntimeError)
    assert str(error) == "this iteration was ended by close()"


def test_a_newer_iteration_in_another_thread_ends_the_consumer_with_a_clear_error(dataset: ShardDataset) -> None:
    error = end_from_another_thread(dataset, "iter")
    assert isinstance(error, RuntimeError)
    assert str(error) == "this iteration was ended by a newer one over the same loader"


def test_closing_again_and_again_from_many_threads_does_no_harm(loader: ShardLoader) -> None:
    for _ in range(20):
        iterator = iter(loader)
        next(iterator)
        threads = [threading.Thread(target=loader.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        with pytest.raises(RuntimeError, match=r"ended by close\(\)"):
            list(iterator)
        for thread in threads:
            thread.join()
    assert list(loader)


def open_files(folder: Path) -> list[Path]:
    """Those in a folder that this process has open."""
    links = Path("/proc/self/fd").iterdir()
    return [path for link in links if link.is_symlink() and (path := link.readlink()).is_relative_to(folder)]


def run_signalled(loader: ShardLoader, place: int) -> tuple[int, str | None]:
    """Read the loader; a signal whose handler closes it arrives at the `place`-th line this thread runs in pipeline/.

    Returns:
        How many lines were run, and what the reading ended with: None where it came to its end.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal lines
        if f"{os.sep}pipeline{os.sep}" not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines += 1
            if lines == place:
                signal.raise_signal(signal.SIGUSR1)
        return trace

    handler, tracer = signal.signal(signal.SIGUSR1, lambda *_: loader.close()), sys.gettrace()
    sys.settrace(trace)
    try:
        list(loader)
    except RuntimeError as error:
        return lines, str(error)
    finally:
        sys.settrace(tracer)
        signal.signal(signal.SIGUSR1, handler)
    return lines, None


def test_a_signals_handler_may_close_a_loader_that_its_own_thread_is_using(loader: ShardLoader) -> None:
    number, ended = run_signalled(loader, 0)
    assert number > 100
    assert ended is None
    step = max(1, number // 300)  # anywhere in planning, waiting and closing
    endings = set()
    for place in range(1, number, step):
        endings.add(ended := run_signalled(loader, place)[1])
        assert ended is None or not open_files(loader.dataset.directory)
    assert endings - {None} == {"this iteration was ended by close()"}


@pytest.mark.parametrize("copy_it", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_loader_is_not_pickled_or_copied_and_says_what_to_do(loader: ShardLoader, copy_it: Any) -> None:
    for thing in (loader, DeviceLoader(loader, "cpu"), MixedLoader({"a": loader}, {"a": 1.0})):
        with pytest.raises(TypeError, match=r"cannot be pickled or copied: .* state_dict\(\).*num_workers=0"):
            copy_it([thing] if copy_it is not copy.copy else loader)


@pytest.mark.filterwarnings("ignore:Got pickle error:UserWarning")
def test_workers_that_are_spawned_are_refused_likewise(loader: ShardLoader) -> None:
    with pytest.raises(TypeError, match="num_workers=0"):
        iter(DataLoader(loader, batch_size=None, num_workers=1, multiprocessing_context="spawn"))


def test_a_data_set_can_be_sent_to_another_process(dataset: ShardDataset) -> None:
    number = dataset.index_of("000007")
    sent = pickle.loads(pickle.dumps(dataset))
    assert sent.index_of("000007") == number
    assert np.array_equal(sent[number]["clip"], tubes_sample(7)["clip"])


class Awkward:
    def __repr__(self) -> str:
        return "awkward\n" * 1000


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"epoch": None}, "as epoch, got None"),
    ({"epoch": "1"}, "as epoch, got '1'"),
    ({"epoch": 1.0}, "as epoch, got 1.0"),
    ({"epoch": True}, "as epoch, got True"),
    ({"epoch": -1}, "as epoch, got -1"),
    ({"epoch": 2**63}, f"as epoch, got {2**63}"),
    ({"epoch": 10**5000}, "as epoch, got a number of 16610 bits"),
    ({"epoch": [1]}, r"as epoch, got \[1\]"),
    ({"epoch": Awkward()}, "as epoch, got awkward awkward"),
    ({"batch": -1}, "as batch, got -1"),
    ({"batch": 10**30}, f"as batch, got {10**30}"),
    ({"batch": None}, "as batch, got None"),
    ({"seed": np.arange(3)}, r"seed is array\(\[0, 1, 2\]\) in the state and 0 here"),
    ({"seed": True}, "seed is True in the state"),
    ({"dataset": 10**5000}, "dataset is a number of 16610 bits in the state"),
]


@pytest.mark.parametrize(("change", "message"), NONSENSE, ids=[str(number) for number in range(len(NONSENSE))])
def test_a_state_of_nonsense_is_refused_with_what_was_got_and_changes_nothing(
    loader: ShardLoader, change: dict[str, Any], message: str
) -> None:
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(ValueError, match=message) as caught:
        loader.load_state_dict({**state, **change})
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
    assert loader.state_dict() == state
    mixed = MixedLoader({"a": loader}, {"a": 1.0})
    before = mixed.state_dict()
    with pytest.raises(ValueError, match=message if "dataset" not in change else "state"):
        mixed.load_state_dict({**before, "sources": {"a": {**state, **change}}})
    if not {"seed", "dataset"} & set(change):
        with pytest.raises(ValueError, match=message):
            mixed.load_state_dict({**before, **change})
    assert mixed.state_dict() == before


@pytest.mark.parametrize("missing", ["epoch", "batch"])
def test_a_state_without_its_position_is_refused(loader: ShardLoader, missing: str) -> None:
    state = {name: value for name, value in loader.state_dict().items() if name != missing}
    with pytest.raises(ValueError, match=f"as {missing}, got none"):
        loader.load_state_dict(state)


@pytest.mark.parametrize("state", [None, [], "state", 3])
def test_what_is_no_state_at_all_is_refused(loader: ShardLoader, state: Any) -> None:
    for target in (loader, MixedLoader({"a": loader}, {"a": 1.0})):
        with pytest.raises(ValueError, match=r"must be a mapping, as state_dict\(\) returns it, got"):
            target.load_state_dict(state)


@pytest.mark.parametrize("sources", [None, 3, {}, {"b": {}}, {"a": {}, "b": {}}])
def test_a_mixture_needs_the_states_of_all_its_sources(loader: ShardLoader, sources: Any) -> None:
    mixed = MixedLoader({"a": loader}, {"a": 1.0})
    with pytest.raises(ValueError, match=r"needs the states of \['a'\], got"):
        mixed.load_state_dict({**mixed.state_dict(), "sources": sources})


def test_a_mixture_is_where_it_was_when_one_of_its_sources_refuses(dataset: ShardDataset) -> None:
    loaders = {name: ShardLoader(dataset, LoaderConfig(global_batch_size=2)) for name in "ab"}
    mixed = MixedLoader(loaders, {"a": 1.0, "b": 1.0})
    states = [mixed.state_dict()]
    for _ in mixed:
        states.append(mixed.state_dict())
    wrong = {**states[3], "sources": {**states[3]["sources"], "b": {}}}
    with pytest.raises(ValueError, match="the loader's state does not fit"):
        mixed.load_state_dict(wrong)
    assert mixed.state_dict() == states[-1]
