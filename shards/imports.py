"""Public names that are imported when they are first used; and where modules went that lay elsewhere before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "pipeline.auto": "pipeline.read.auto",
    "pipeline.bits": "pipeline.order.bits",
    "pipeline.checks": "pipeline.read.checks",
    "pipeline.decoders": "pipeline.read.decoders",
    "pipeline.destinations": "pipeline.batch.destinations",
    "pipeline.fetch": "pipeline.read.fetch",
    "pipeline.files": "pipeline.read.files",
    "pipeline.gather": "pipeline.read.gather",
    "pipeline.general": "pipeline.stream",
    "pipeline.labels": "pipeline.read.labels",
    "pipeline.masking": "pipeline.order.draws",
    "pipeline.mixing": "pipeline.mixed",
    "pipeline.planner": "pipeline.batch.planner",
    "pipeline.quarantine": "pipeline.read.quarantine",
    "pipeline.readers": "pipeline.read.readers",
    "pipeline.schedule": "pipeline.order.schedule",
    "pipeline.slab": "pipeline.batch.slab",
    "shards.beside": "shards.format.beside",
    "shards.build": "shards.builder",
    "shards.builder.clips": "shards.builder.samples.clip",
    "shards.builder.cluster": "shards.builder.engines.ray",
    "shards.builder.cluster_round": "shards.builder.engines.ray_round",
    "shards.builder.container": "shards.builder.decode.container",
    "shards.builder.decord_reader": "shards.builder.decode.decord_reader",
    "shards.builder.engine": "shards.builder.engines.base",
    "shards.builder.isolate": "shards.builder.decode.isolate",
    "shards.builder.locate": "shards.builder.sources.locate",
    "shards.builder.preflight": "shards.builder.readiness",
    "shards.builder.probe": "shards.builder.decode.stream_facts",
    "shards.builder.processes": "shards.builder.engines.processes",
    "shards.builder.pyav_reader": "shards.builder.decode.pyav_reader",
    "shards.builder.report": "shards.builder.journal",
    "shards.builder.timeline": "shards.builder.decode.timeline",
    "shards.builder.view": "shards.builder.decode.view",
    "shards.errors": "shards.format.errors",
    "shards.files": "shards.format.files",
    "shards.index": "shards.format.index",
    "shards.layout": "shards.format.layout",
    "shards.manifest": "shards.format.manifest",
    "shards.members": "shards.format.members",
    "shards.npy": "shards.format.npy",
    "shards.parse": "shards.format.parse",
    "shards.publish": "shards.format.publish",
    "shards.ragged": "shards.format.packed",
    "shards.schema": "shards.format.schema",
    "shards.tar": "shards.format.tar",
    "shards.views": "shards.format.views",
    "shards.zarr_cache": "shards.exchange.zarr",
    "shards.zarr_store": "shards.exchange.zarr_store",
}


class MovedFinder:
    """Asked by the interpreter after all others, so only for a module that is nowhere."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Refuse an old place.

        Raises:
            ModuleNotFoundError: it names the new one.
        """
        if name in MOVED:
            raise ModuleNotFoundError(f"{name} is {MOVED[name]} now: change the import", name=name)
        return None


def offer(package: str, public: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package, and let imports from old places name the new ones.

    Args:
        package: its `__name__`.
        public: name -> the module that has it, imported when the name is first used.
    """
    if MovedFinder not in sys.meta_path:
        sys.meta_path.append(MovedFinder)

    def get(name: str) -> object:
        if name in public:
            return getattr(import_module(public[name]), name)
        MovedFinder.find_spec(f"{package}.{name}")
        raise AttributeError(f"{package} has no {name!r}; it offers {', '.join(public)}", name=name)

    return get, lambda: sorted({*vars(sys.modules[package]), *public})
