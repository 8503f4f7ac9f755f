"""The on-disk format: write, index, read, verify; and the builder. Never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.imports import offer

if TYPE_CHECKING:
    from shards.adopt import index_directory as index_directory
    from shards.builder import BuildConfig as BuildConfig
    from shards.builder import ViewSpec as ViewSpec
    from shards.builder import build_dataset as build_dataset
    from shards.builder import open_source as open_source
    from shards.dataset import ShardDataset as ShardDataset
    from shards.format.errors import DamagedShardError as DamagedShardError
    from shards.format.errors import MissingDataError as MissingDataError
    from shards.format.errors import ShardError as ShardError
    from shards.format.manifest import Manifest as Manifest
    from shards.format.schema import Field as Field
    from shards.format.schema import Schema as Schema
    from shards.verify import verify_dataset as verify_dataset
    from shards.writer import ShardWriter as ShardWriter

_PUBLIC = {
    "BuildConfig": "shards.builder",
    "DamagedShardError": "shards.format.errors",
    "Field": "shards.format.schema",
    "Manifest": "shards.format.manifest",
    "MissingDataError": "shards.format.errors",
    "Schema": "shards.format.schema",
    "ShardDataset": "shards.dataset",
    "ShardError": "shards.format.errors",
    "ShardWriter": "shards.writer",
    "ViewSpec": "shards.builder",
    "build_dataset": "shards.builder",
    "index_directory": "shards.adopt",
    "open_source": "shards.builder",
    "verify_dataset": "shards.verify",
}
__all__ = list(_PUBLIC)
__getattr__, __dir__ = offer(__name__, _PUBLIC)
