"""The loader: exact epochs on any number of ranks, exact resume, equal bytes from every reader."""

from __future__ import annotations

import json
import shlex
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig, Reader
from pipeline.iteration import THREAD_NAME
from pipeline.loader import ShardLoader
from pipeline.order.draws import Positions, RandomMask, TubeMask
from pipeline.reads import Reads
from pipeline.stream import StreamLoader
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import POSITIONS, make_dataset, tubes_sample
from tests.marks import reads_with_stock_webdataset

MASK = TubeMask(num_positions=POSITIONS)
GATHER = {"clip": "visible", "target": "masked"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("set"), num_samples=23, samples_per_shard=5)


def copied(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in batch.items()}


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def epoch_of(loader: ShardLoader) -> list[dict[str, torch.Tensor]]:
    return [copied(batch) for batch in loader]


worlds = st.sampled_from((1, 2, 3, 4))


@given(
    world=worlds,
    other_world=worlds,
    per_rank=st.integers(1, 3),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_epochs_are_exact_on_any_world_and_resume_on_another(
    dataset: ShardDataset,
    world: int,
    other_world: int,
    per_rank: int,
    drop_last: bool,
    shuffle: bool,
    threads: int,
    seed: int,
    data: st.DataObject,
) -> None:
    config = LoaderConfig(
        global_batch_size=12 * per_rank if per_rank < 2 else 12,
        seed=seed,
        shuffle=shuffle,
        drop_last=drop_last,
        threads=threads,
        gather=GATHER,
    )

    def loaders(size: int) -> list[ShardLoader]:
        return [ShardLoader(dataset, config, MASK, World(rank=rank, size=size)) for rank in range(size)]

    def global_batches(parts: list[list[dict[str, torch.Tensor]]]) -> list[dict[str, torch.Tensor]]:
        assert len({len(part) for part in parts}) == 1  # every rank has the same number of batches
        joined = zip(*parts, strict=True)
        return [{name: torch.cat([part[name] for part in batch]) for name in batch[0]} for batch in joined]

    whole = ShardLoader(dataset, config, MASK)
    reference = epoch_of(whole) + epoch_of(whole)
    ranks = loaders(world)
    split = global_batches([epoch_of(loader) + epoch_of(loader) for loader in ranks])
    assert len(split) == len(reference) == 2 * len(whole)
    for one, two in zip(split, reference, strict=True):
        assert_equal(one, two)

    for epoch in (reference[: len(whole)], reference[len(whole) :]):
        seen = torch.cat([batch["index"][batch["valid"]] for batch in epoch]).tolist()
        assert len(set(seen)) == len(seen)
        assert len(seen) == (len(whole) * 12 if drop_last else len(dataset))

    stop = data.draw(st.integers(0, len(reference) - 1))
    first = loaders(world)[0]
    iterator = (batch for _ in range(2) for batch in first)
    for _ in range(stop):
        next(iterator)
    state = json.loads(json.dumps(first.state_dict()))
    resumed = loaders(other_world)
    for loader in resumed:
        loader.load_state_dict(state)
    epochs_left = 2 - stop // len(whole)
    rest = global_batches([[b for _ in range(epochs_left) for b in epoch_of(loader)] for loader in resumed])
    for one, two in zip(rest, reference[stop:], strict=True):
        assert_equal(one, two)


def test_restoring_at_every_step_gives_the_same_rest(dataset: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=4, drop_last=False, gather=GATHER)
    whole = ShardLoader(dataset, config, MASK)
    states, batches = [whole.state_dict()], []
    for _ in range(2):
        for batch in whole:
            batches.append(copied(batch))
            states.append(whole.state_dict())
    for step, state in enumerate(states[:-1]):
        loader = ShardLoader(dataset, config, MASK)
        loader.load_state_dict(state)
        rest = [copied(batch) for _ in range(2 - step // len(whole)) for batch in loader]
        assert len(rest) == len(batches) - step
        for one, two in zip(rest, batches[step:], strict=True):
            assert_equal(one, two)
        assert loader.state_dict() == states[-1]


def test_the_state_is_small_and_names_everything_it_depends_on(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4))
    state = loader.state_dict()
    assert len(json.dumps(state)) < 1000
    for name, value in (("seed", 9), ("global_batch_size", 8), ("dataset", "x"), ("shuffle", 0), ("drop_last", 0)):
        with pytest.raises(ValueError, match=name) as caught:
            loader.load_state_dict({**state, name: value})
        assert repr(value) in str(caught.value)
        assert repr(state[name]) in str(caught.value)
    with pytest.raises(ValueError, match="the epoch has 5 batches"):
        loader.load_state_dict({**state, "batch": 5})


@pytest.mark.parametrize("gather", [{}, GATHER])
@pytest.mark.parametrize("verify", ["never", "sample", "first", "always"])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("reader", ["mmap", "pread", "direct", "auto"])
def test_every_reader_yields_what_was_written(
    dataset: ShardDataset,
    monkeypatch: pytest.MonkeyPatch,
    reader: Reader,
    compiled: bool,
    verify: str,
    gather: dict[str, str],
) -> None:
    monkeypatch.setattr("pipeline.read.readers.LEAST_MAPPED_BYTES", 1000)  # arrays are above it in real sets
    if not compiled:
        monkeypatch.setattr("pipeline.read.files.COMPILED", False)
        monkeypatch.setattr("pipeline.read.auto.COMPILED", False)
    config = LoaderConfig(
        global_batch_size=5,
        fields=("clip", "target", "label", "json"),
        reader=reader,
        verify=verify,  # type: ignore[arg-type]
        gather=gather,
    )
    count = 0
    for batch in ShardLoader(dataset, config, MASK):
        offsets = batch["json_offsets"].tolist()
        for row, number in enumerate(batch["index"].tolist()):
            sample = tubes_sample(number)
            clip, target = sample["clip"], sample["target"]
            assert isinstance(clip, np.ndarray)
            assert isinstance(target, np.ndarray)
            if gather:
                clip, target = clip[batch["visible"][row]], target[batch["masked"][row]]
            assert np.array_equal(batch["clip"][row].numpy(), clip)
            assert np.array_equal(batch["target"][row].numpy(), target)
            assert batch["label"][row] == number % 3
            assert batch["json"][offsets[row] : offsets[row + 1]].numpy().tobytes() == sample["json"]
            count += 1
    assert count == 20


@reads_with_stock_webdataset
def test_the_general_path_yields_the_same_batches(dataset: ShardDataset) -> None:
    fields = ("clip", "target", "label", "json")
    fast = ShardLoader(dataset, LoaderConfig(global_batch_size=5, shuffle=False, drop_last=False, fields=fields))
    urls = [str(dataset.tar_path(shard)) for shard in range(dataset.num_shards)]
    general = StreamLoader(urls, 5, fields=fields)
    for one, two in zip(fast, general, strict=True):
        valid = one["valid"]
        for name in (*fields, "json_offsets", "index"):
            kept = one[name][: len(two[name])] if name.startswith("json") else one[name][valid]
            assert torch.equal(kept, two[name]), name


@reads_with_stock_webdataset
def test_a_pipe_runs_only_when_it_was_asked_for(dataset: ShardDataset) -> None:
    url = f"pipe:cat {shlex.quote(str(dataset.tar_path(0)))}"
    with pytest.raises(ValueError, match="shell command"):
        StreamLoader([url], 5)
    (batch,) = StreamLoader([url], 5, allow_pipe=True)
    assert np.array_equal(batch["clip"][2].numpy(), tubes_sample(2)["clip"])


def test_batches_that_are_held_are_never_overwritten(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=2, slabs=2))
    held = list(loader)
    assert loader.stats().num_slabs >= len(held)
    for batch in held:
        for row, number in enumerate(batch["index"].tolist()):
            assert np.array_equal(batch["clip"][row].numpy(), tubes_sample(number)["clip"])


def test_a_view_of_one_tensor_keeps_its_slab_and_dropping_it_frees_the_ring(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=2, slabs=2))
    views = [batch["target"][0, :1] for batch in loader]
    copies = [view.clone() for view in views]
    for batch in loader:
        del batch
    for view, copy in zip(views, copies, strict=True):
        assert torch.equal(view, copy)
    del views, view
    for batch in loader:
        del batch
    assert loader.stats().num_slabs <= 3


def test_memory_stays_at_its_slabs_when_batches_are_dropped(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=2, slabs=3))
    for _ in range(10):
        for batch in loader:
            assert batch["valid"].all()
    assert loader.stats().num_slabs == 3


def test_padding_is_zero_and_marked(dataset: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=10, drop_last=False, fields=("clip", "target", "label"), slabs=2)
    loader = ShardLoader(dataset, config)
    for _ in range(2):  # slabs were used before
        *_, last = loader
        assert last["valid"].tolist() == [True] * 3 + [False] * 7
        assert last["index"][3:].tolist() == [-1] * 7
        assert last["label"][3:].tolist() == [-1] * 7
        assert not last["clip"][3:].any()
        assert not last["target"][3:].any()
    assert loader.stats().num_padded == 14


def test_another_epoch_has_another_order_and_other_masks(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=23, gather=GATHER), MASK)
    epochs = [next(iter(epoch_of(loader))) for _ in range(4)]
    for one, two in pairwise(epochs):
        assert not torch.equal(one["index"], two["index"])
        one_order, two_order = one["index"].argsort(), two["index"].argsort()
        assert not torch.equal(one["visible"][one_order], two["visible"][two_order])


def test_without_shuffling_the_order_is_that_of_the_shards(dataset: ShardDataset) -> None:
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4, shuffle=False))
    assert torch.cat([batch["index"] for batch in loader]).tolist() == list(range(20))


def test_what_is_read_of_a_sample_is_drawn_by_the_threads_that_read_it(tmp_path: Path) -> None:
    """The consumer's thread, which launches a GPU's kernels too, does not spend a mask's time on every clip."""
    drawn_by: list[str] = []

    class Noted(RandomMask):
        def draw(self, *args: Any, **kwargs: Any) -> dict[str, Positions]:
            drawn_by.append(threading.current_thread().name)
            return super().draw(*args, **kwargs)

    dataset = make_dataset(tmp_path)
    num_tokens = POSITIONS * 2
    config = LoaderConfig(global_batch_size=4, drop_last=False)
    for batch in ShardLoader(dataset, config, Noted(num_positions=num_tokens)):
        expected = RandomMask(num_positions=num_tokens).draw(config.seed, 0, batch["index"].clamp(min=0).numpy())
        for name, positions in expected.items():
            assert np.array_equal(batch[name].numpy(), positions)
    assert drawn_by
    assert all(name.startswith(THREAD_NAME) for name in drawn_by)


@pytest.mark.parametrize(("threads", "parts"), [(1, [100]), (2, [50, 50]), (3, [32, 34, 34]), (8, [4, 32, 32, 32])])
def test_threads_have_equal_parts_of_a_batch_but_no_small_ones(tmp_path: Path, threads: int, parts: list[int]) -> None:
    drawn: list[int] = []

    class Noted(TubeMask):
        def draw(self, seed: int, epoch: int, samples: Positions, *args: Any) -> dict[str, Positions]:
            drawn.append(len(samples))
            return super().draw(seed, epoch, samples, *args)

    dataset = make_dataset(tmp_path, num_samples=100, samples_per_shard=50)
    config = LoaderConfig(global_batch_size=100, threads=threads)
    loader = ShardLoader(dataset, config, reads=Reads(draws=(Noted(num_positions=POSITIONS),), held_out=True))
    assert len(list(loader)) == 1
    assert sorted(drawn) == parts
