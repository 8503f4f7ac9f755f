"""Which samples of a data set are asked for: by key or by label, page by page, of any number of samples."""

from __future__ import annotations

import os
import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.read.labels import label_of
from shards.dataset import ShardDataset

UNREAD, NONE = -2, -1
Numbers = NDArray[np.int64]


class Catalogue:
    """Finds samples. Keys come from the sidecars; labels from the JSON members, read in the background, once."""

    def __init__(self, dataset: ShardDataset) -> None:
        """Begin to read labels, where the data set has any."""
        self._dataset = dataset
        self._labels = np.full(len(dataset), UNREAD, np.int64)
        self._num_read = 0
        self._closed = threading.Event()
        self._find_key = lru_cache(maxsize=16)(self._scan_keys)
        self._thread = threading.Thread(target=self._read_labels, name="labels", daemon=True)
        if "json" in dataset.schema:
            self._thread.start()
        else:
            self._labels[:] = NONE
            self._num_read = len(dataset)

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def num_read(self) -> int:
        """Samples whose labels are known so far."""
        return self._num_read

    def label(self, number: int) -> int | None:
        """A sample's label; None where it has none, or where it was not read yet."""
        label = int(self._labels[number])
        return None if label in (UNREAD, NONE) else label

    def counts(self) -> dict[int, int]:
        """Samples of each label, as far as they are read; -1 is none."""
        labels, counts = np.unique(self._labels[self._labels != UNREAD], return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    def find(self, key: str, label: int | None) -> Numbers | None:
        """Numbers of the samples whose key contains `key`, or is it after "#", with this label; None for all."""
        if not key and label is None:
            return None
        if key.startswith("#") and key[1:].isdecimal():
            number = int(key[1:])
            found = np.array([number] if number < len(self._dataset) else [], np.int64)
        elif key:
            found = self._find_key(key)
        else:
            return np.flatnonzero(self._labels == label)
        return found if label is None else found[self._labels[found] == label]

    def page(self, key: str, label: int | None, offset: int, limit: int) -> tuple[int, list[int]]:
        """How many samples there are, and the numbers of some of them."""
        found = self.find(key, label)
        if found is None:
            return len(self._dataset), list(range(offset, min(offset + limit, len(self._dataset))))
        return len(found), found[offset : offset + limit].tolist()

    def _scan_keys(self, key: str) -> Numbers:
        dataset, first, found = self._dataset, 0, []
        for shard, info in enumerate(dataset.manifest.shards):
            rows = dataset.index(shard).rows_with(key)
            found.append(np.array(rows, np.int64) + first)
            first += info.num_samples
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _read_labels(self) -> None:
        first = 0
        for shard, info in enumerate(self._dataset.manifest.shards):
            if self._closed.is_set():
                return
            labels = self._labels_of(shard, info.num_samples)
            self._labels[first : first + len(labels)] = labels
            first += info.num_samples
            self._num_read = first

    def _labels_of(self, shard: int, num_samples: int) -> list[int]:
        """What cannot be read has no label here; the sample's own page says what is wrong with it."""
        try:
            extents = self._dataset.extents(shard, "json")
            with self._dataset.tar_path(shard, self._dataset.schema["json"].group).open("rb") as tar:
                places = zip(extents.offsets.tolist(), extents.sizes.tolist(), strict=True)
                return [_label(os.pread(tar.fileno(), size, offset)) for offset, size in places]
        except (OSError, ValueError):
            return [NONE] * num_samples


def _label(data: bytes) -> int:
    try:
        label = label_of(data)
    except ValueError:
        return NONE
    return label if label >= 0 else NONE
