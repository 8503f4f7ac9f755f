"""The general path: tars without a sidecar, or behind a pipe, streamed by the `webdataset` package itself.

Slow, sequential, unshuffled and without resume; every fast path is tested equal to it. Stock WebDataset ends silently
at a damaged tar header, so for files on disk `reelshard index` and `ShardLoader` are the better choice.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import braceexpand
import numpy as np
import torch
import webdataset
from numpy.typing import NDArray

from pipeline.batch.batch import Batch
from pipeline.read.labels import label_of
from pipeline.stats import LoaderStats
from pipeline.world import World
from shards.format.errors import ShardError, UnsafeMemberError
from shards.format.parse import PICKLE_SUFFIXES

_INSTEAD = "index the tars with `reelshard index` and read them with ShardLoader"
_NOT_KNOWN = f"how many batches a stream has is not known before its end: {_INSTEAD}"
_NO_RESUME = f"a stream is read from its beginning and cannot resume: {_INSTEAD}"


class StreamLoader:
    """Yields batches of whole samples from tar URLs, in the order of the stream, with the field names of `ShardLoader`.

    Array members `KEY.clip.npy` become `clip [B, ...]`, other members ragged bytes with offsets. `label` comes from the
    JSON member. `index` counts samples of this rank's stream. The last batch may be smaller.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        batch_size: int,
        *,
        fields: Sequence[str] = ("clip", "target"),
        allow_pipe: bool = False,
        world: World | None = None,
    ) -> None:
        """Prepare; nothing is opened before the first batch is asked for.

        Args:
            urls: paths or URLs, with brace notation where it is one string.
            batch_size: samples in a batch of this rank.
            fields: members to keep.
            allow_pipe: whether `pipe:` URLs, which run a shell command, are wanted.
            world: shards are dealt to the ranks in turn, so ranks may get different numbers of batches.

        Raises:
            ValueError: a `pipe:` URL without `allow_pipe`, or no URL for this rank.
        """
        world = world or World()
        expanded = list(braceexpand.braceexpand(urls)) if isinstance(urls, str) else list(urls)
        pipes = [url for url in expanded if url.startswith("pipe:")]
        if pipes and not allow_pipe:
            raise ValueError(f"{pipes[0]!r} would run a shell command; pass allow_pipe=True if that is what you want")
        self._urls = expanded[world.rank :: world.size]
        if not self._urls:
            raise ValueError(f"{len(expanded)} shards cannot be dealt to {world.size} ranks: each needs one at least")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._batch_size, self._fields = batch_size, tuple(fields)
        self.epoch = 0
        self._passes: list[Generator[Batch, None, None]] = []
        self._counts = {"num_batches": 0, "num_samples": 0, "num_bytes": 0}

    def __iter__(self) -> Iterator[Batch]:
        """One pass over the stream. A new one ends an older one that was left unfinished.

        Raises:
            ShardError: a sample lacks a field, or arrays of one field differ in shape.
            UnsafeMemberError: a member is a pickle, or an array of objects.
        """
        self.close()
        batches = self._batches()
        self._passes.append(batches)
        for batch in batches:
            self._counts["num_batches"] += 1
            self._counts["num_samples"] += len(batch["valid"])
            self._counts["num_bytes"] += sum(batch[name].nbytes for name in self._fields if name != "label")
            yield batch
        self.epoch += 1

    def __len__(self) -> int:
        """Not known, which `list` and others take from a TypeError."""
        raise TypeError(_NOT_KNOWN)

    def num_batches(self, epoch: int) -> NoReturn:
        """Not known: ValueError."""
        raise ValueError(_NOT_KNOWN)

    def state_dict(self) -> NoReturn:
        """There is no resume: ValueError."""
        raise ValueError(_NO_RESUME)

    def load_state_dict(self, state: Mapping[str, Any]) -> NoReturn:
        """There is no resume: ValueError."""
        raise ValueError(_NO_RESUME)

    def stats(self) -> LoaderStats:
        """How much was read so far; where the time went is not known."""
        return LoaderStats(reader="webdataset", **self._counts)

    def close(self) -> None:
        """End a pass; the next one begins anew."""
        while self._passes:
            self._passes.pop().close()

    def _batches(self) -> Generator[Batch, None, None]:
        samples: list[dict[str, NDArray[np.generic] | bytes]] = []
        number = 0
        for raw in webdataset.WebDataset(self._urls, shardshuffle=False, empty_check=False):
            samples.append(self._decode(raw))
            if len(samples) == self._batch_size:
                yield self._collate(samples, number)
                number += 1
                samples = []
        if samples:
            yield self._collate(samples, number)

    def _decode(self, raw: Mapping[str, bytes | str]) -> dict[str, NDArray[np.generic] | bytes]:
        key = str(raw["__key__"])
        for name in raw:
            if name.rpartition(".")[2] in PICKLE_SUFFIXES:
                raise UnsafeMemberError(f"sample {key}: member {name!r} is a pickle, which can run code when read")
        sample: dict[str, NDArray[np.generic] | bytes] = {}
        for name in self._fields:
            member = "json" if name == "label" else name
            data = raw.get(f"{member}.npy", raw.get(member))
            if not isinstance(data, bytes):
                raise ShardError(f"sample {key} has no member {member!r}; it has {sorted(raw)}")
            if name == "label":
                sample[name] = np.array(_label(key, data), np.int64)
            else:
                sample[name] = _array(key, member, data) if f"{member}.npy" in raw or member == "npy" else data
        return sample

    def _collate(self, samples: Sequence[Mapping[str, NDArray[np.generic] | bytes]], number: int) -> Batch:
        first = number * self._batch_size
        tensors = {
            "index": torch.arange(first, first + len(samples)),
            "valid": torch.ones(len(samples), dtype=torch.bool),
        }
        for name in self._fields:
            arrays = [value for sample in samples if isinstance(value := sample[name], np.ndarray)]
            if arrays:
                if len({array.shape for array in arrays}) > 1:
                    raise ShardError(f"field {name}: arrays of different shapes cannot form a batch")
                tensors[name] = torch.from_numpy(np.stack(arrays))
                continue
            pieces = [value for sample in samples if isinstance(value := sample[name], bytes)]
            tensors[name] = torch.from_numpy(np.frombuffer(bytearray().join(pieces), np.uint8))
            tensors[f"{name}_offsets"] = torch.tensor([0, *np.cumsum([len(piece) for piece in pieces]).tolist()])
        return Batch(tensors, epoch=self.epoch, number=number)


def _array(key: str, member: str, data: bytes) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise UnsafeMemberError(f"sample {key}, member {member!r}: {error}") from None
    return array


def _label(key: str, data: bytes) -> int:
    try:
        return label_of(data)
    except ValueError as error:
        raise ShardError(f"sample {key}: the JSON member has no readable label: {error}") from None
