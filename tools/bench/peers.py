"""What people use today, each by its own recommended path. Only webdataset is a dependency of this project.

Every peer has a few settings, and the benchmark keeps its best. A peer that cannot mask while reading gathers the kept
positions as early as it can, in its workers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from shards.dataset import ShardDataset
from tools.bench.check import Arrived
from tools.bench.contenders import GATHER, Case

Sample = dict[str, NDArray[Any]]


class Gather:
    """Keeps the positions of a random tube mask, sample by sample, inside a peer's worker."""

    def __init__(self, dataset: ShardDataset, case: Case) -> None:
        """Prepare."""
        self._mask = case.mask(dataset)
        self._numbers = count()

    def __call__(self, sample: Mapping[str, NDArray[Any]]) -> Sample:
        """`clip` and `target`, and `visible` and `masked` where there is a mask."""
        if self._mask is None:
            return {name: sample[name] for name in GATHER}
        drawn = {name: rows[0] for name, rows in self._mask.draw(0, 0, np.array([next(self._numbers)])).items()}
        return {name: sample[name][drawn[mask]] for name, mask in GATHER.items()} | drawn


def arrived(batch: Mapping[str, Any]) -> Arrived:
    """A collated batch of tensors or arrays."""
    arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return Arrived(arrays["clip"], arrays["target"], arrays.get("visible"), arrays.get("masked"))


class StockWebDataset:
    """`webdataset` with its own decoding, shard and sample shuffle, batching in the workers, and its WebLoader."""

    settings = (0, 1, 2)

    def __init__(self, dataset: ShardDataset, case: Case, setting: int) -> None:
        """Build the pipeline; `setting` is the number of worker processes."""
        import webdataset

        gather = self._gather(dataset, case)
        urls = [str(dataset.tar_path(shard)) for shard in range(dataset.num_shards)]
        pipeline = (
            webdataset.WebDataset(urls, shardshuffle=len(urls), seed=case.seed, empty_check=False)
            .shuffle(100)
            .decode()
            .map(lambda sample: gather({"clip": sample["clip.npy"], "target": sample["target.npy"]}))
            .batched(case.batch_size, partial=False, collation_fn=torch.utils.data.default_collate)
        )
        context = {"multiprocessing_context": "fork"} if setting else {}
        self._loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=setting, **context)

    def _gather(self, dataset: ShardDataset, case: Case) -> Gather:
        return Gather(dataset, case)

    def epoch(self) -> Iterator[Arrived | int]:
        """Batches of one pass."""
        for batch in self._loader:
            yield arrived(batch)


class WholeWebDataset(StockWebDataset):
    """`webdataset` as it comes: whole samples, also where a mask keeps a part of them; the GPU would pick it out."""

    def _gather(self, dataset: ShardDataset, case: Case) -> Gather:
        return Gather(dataset, replace(case, mask_ratio=None))


class Dali:
    """NVIDIA DALI's webdataset reader on the CPU: raw members, whose npy headers are skipped; gathered afterwards."""

    settings = (1, 2, 4)

    def __init__(self, dataset: ShardDataset, case: Case, setting: int) -> None:
        """Build the pipeline; `setting` is the number of threads."""
        from nvidia.dali import fn, pipeline_def, types

        self._dataset, self._case = dataset, case
        self._mask = case.mask(dataset)
        paths = [str(dataset.tar_path(shard)) for shard in range(dataset.num_shards)]

        @pipeline_def(batch_size=case.batch_size, num_threads=setting, device_id=None, seed=case.seed)  # type: ignore[untyped-decorator]
        def pipeline() -> Any:
            outputs = fn.readers.webdataset(
                paths=paths,
                ext=["clip.npy", "target.npy"],
                dtypes=[types.UINT8, types.UINT8],
                random_shuffle=True,
                initial_fill=100,
                missing_component_behavior="error",
            )
            return tuple(outputs)

        self._pipeline = pipeline()
        self._pipeline.build()

    def epoch(self) -> Iterator[Arrived | int]:
        """As many whole batches as the data set has."""
        for number in range(len(self._dataset) // self._case.batch_size):
            outputs = dict(zip(GATHER, self._pipeline.run(), strict=True))
            arrays = {name: self._payloads(name, np.asarray(outputs[name].as_tensor())) for name in GATHER}
            if self._mask is None:
                yield Arrived(arrays["clip"], arrays["target"])
                continue
            drawn = self._mask.draw(0, number, np.arange(self._case.batch_size))
            kept = {}
            for name, mask in GATHER.items():
                rows, positions = arrays[name], drawn[mask]
                kept[name] = np.empty((*positions.shape, *rows.shape[2:]), rows.dtype)
                for row, chosen, out in zip(rows, positions, kept[name], strict=True):
                    row.take(chosen, axis=0, out=out, mode="clip")
            yield Arrived(kept["clip"], kept["target"], drawn["visible"], drawn["masked"])

    def _payloads(self, name: str, members: NDArray[np.uint8]) -> NDArray[Any]:
        field = self._dataset.schema[name]
        payloads = members[:, -field.num_bytes :].view(np.dtype(field.dtype))  # a view: nothing is copied
        return payloads.reshape(len(members), *field.fixed_shape)


class LitData:
    """Lightning's litdata: its own chunks, written by its own writer, read by its StreamingDataLoader."""

    settings = (0, 1, 2)

    def __init__(self, dataset: ShardDataset, case: Case, setting: int) -> None:
        """Convert the data set once, beside it; `setting` is the number of workers."""
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming.writer import BinaryWriter

        directory = dataset.directory.with_name(dataset.directory.name + ".litdata")
        if not (directory / "index.json").exists():
            shutil.rmtree(directory, ignore_errors=True)
            writer = BinaryWriter(str(directory), chunk_bytes="64MB")
            for number in range(len(dataset)):
                writer[number] = {name: torch.from_numpy(np.array(dataset.read(number, name))) for name in GATHER}
            writer.done()
            writer.merge()
        gather = Gather(dataset, case)

        class Gathered(StreamingDataset):  # type: ignore[misc]
            def __getitem__(self, index: Any) -> Sample:
                sample = super().__getitem__(index)
                return gather({name: value.numpy() for name, value in sample.items()})

        data = Gathered(str(directory), shuffle=True, drop_last=True, seed=case.seed)
        self._loader = StreamingDataLoader(data, batch_size=case.batch_size, num_workers=setting, drop_last=True)

    def epoch(self) -> Iterator[Arrived | int]:
        """Batches of one pass."""
        for batch in self._loader:
            yield arrived(batch)


class MosaicStreaming:
    """MosaicML's streaming: its own MDS shards, StreamingDataset and a torch DataLoader."""

    settings = (0, 1, 2)

    def __init__(self, dataset: ShardDataset, case: Case, setting: int) -> None:
        """Convert the data set once, beside it; `setting` is the number of workers."""
        from streaming import MDSWriter, StreamingDataset

        directory = dataset.directory.with_name(dataset.directory.name + ".mds")
        if not (directory / "index.json").exists():
            shutil.rmtree(directory, ignore_errors=True)
            columns = dict.fromkeys(GATHER, "bytes")
            with MDSWriter(out=str(directory), columns=columns, size_limit=1 << 28) as writer:
                for number in range(len(dataset)):
                    writer.write({name: np.array(dataset.read(number, name)).tobytes() for name in GATHER})
        gather, schema = Gather(dataset, case), dataset.schema

        class Gathered(StreamingDataset):  # type: ignore[misc]
            def __getitem__(self, index: Any) -> Sample:
                raw = super().__getitem__(index)
                arrays = {}
                for name in GATHER:
                    payload = np.frombuffer(raw[name], schema[name].dtype)
                    arrays[name] = payload.reshape(schema[name].fixed_shape)
                return gather(arrays)

        data = Gathered(local=str(directory), shuffle=True, batch_size=case.batch_size, shuffle_seed=case.seed)
        self._loader: DataLoader[Any] = DataLoader(
            data, batch_size=case.batch_size, num_workers=setting, drop_last=True
        )

    def epoch(self) -> Iterator[Arrived | int]:
        """Batches of one pass."""
        for batch in self._loader:
            yield arrived(batch)


class Memmap:
    """What many write by hand: one array a field on disk, `np.memmap`, and torch's DataLoader."""

    settings = (0, 1, 2)

    def __init__(self, dataset: ShardDataset, case: Case, setting: int) -> None:
        """Write the arrays once, beside the data set; `setting` is the number of workers."""
        directory = dataset.directory.with_name(dataset.directory.name + ".memmap")
        shapes = {name: (len(dataset), *dataset.schema[name].fixed_shape) for name in GATHER}
        if not directory.exists():
            unfinished = directory.with_name(directory.name + ".tmp")
            unfinished.mkdir(exist_ok=True)
            for name, shape in shapes.items():
                array = open_memmap(unfinished / f"{name}.npy", "w+", dataset.schema[name].dtype, shape)
                for number in range(len(dataset)):
                    array[number] = dataset.read(number, name)
                array.flush()
            unfinished.rename(directory)
        arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in GATHER}
        generator = torch.Generator().manual_seed(case.seed)
        self._loader: DataLoader[Any] = DataLoader(
            _Rows(arrays, Gather(dataset, case)),
            batch_size=case.batch_size,
            shuffle=True,
            generator=generator,
            num_workers=setting,
            drop_last=True,
            persistent_workers=setting > 0,
        )

    def epoch(self) -> Iterator[Arrived | int]:
        """Batches of one pass."""
        for batch in self._loader:
            yield arrived(batch)


class _Rows(torch.utils.data.Dataset[Sample]):
    """A sample a row of each array."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], gather: Gather) -> None:
        self._arrays, self._gather = arrays, gather

    def __len__(self) -> int:
        return len(self._arrays["clip"])

    def __getitem__(self, index: int) -> Sample:
        return self._gather({name: array[index] for name, array in self._arrays.items()})


PEERS: dict[str, type[StockWebDataset] | type[Dali] | type[LitData] | type[MosaicStreaming] | type[Memmap]] = {
    "webdataset": StockWebDataset,
    "webdataset-whole": WholeWebDataset,
    "dali": Dali,
    "mosaicml": MosaicStreaming,
    "litdata": LitData,
    "memmap": Memmap,
}
