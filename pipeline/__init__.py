"""Order, fetch, batch, device: the streaming loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.imports import offer

if TYPE_CHECKING:
    from pipeline.batch.batch import Batch as Batch
    from pipeline.config import LoaderConfig as LoaderConfig
    from pipeline.device import DeviceLoader as DeviceLoader
    from pipeline.loader import ShardLoader as ShardLoader
    from pipeline.mixed import MixedLoader as MixedLoader
    from pipeline.order.draws import MultiBlockMask as MultiBlockMask
    from pipeline.order.draws import RandomMask as RandomMask
    from pipeline.order.draws import TubeMask as TubeMask
    from pipeline.order.windows import Window as Window
    from pipeline.reads import Reads as Reads
    from pipeline.source import BatchSource as BatchSource
    from pipeline.stream import StreamLoader as StreamLoader
    from pipeline.world import World as World

_PUBLIC = {
    "Batch": "pipeline.batch.batch",
    "BatchSource": "pipeline.source",
    "DeviceLoader": "pipeline.device",
    "LoaderConfig": "pipeline.config",
    "MixedLoader": "pipeline.mixed",
    "MultiBlockMask": "pipeline.order.draws",
    "RandomMask": "pipeline.order.draws",
    "Reads": "pipeline.reads",
    "ShardLoader": "pipeline.loader",
    "StreamLoader": "pipeline.stream",
    "TubeMask": "pipeline.order.draws",
    "Window": "pipeline.order.windows",
    "World": "pipeline.world",
}
__all__ = list(_PUBLIC)
__getattr__, __dir__ = offer(__name__, _PUBLIC)
