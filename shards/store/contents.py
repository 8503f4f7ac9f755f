"""A data set in a store: its manifest, and the names of what lies beside its shards."""

from __future__ import annotations

from shards.format.beside import FAILURES_NAME, ORIGIN_NAME, PLAN_NAME, projection_name
from shards.format.beside_group import beside_group
from shards.format.errors import MissingDataError
from shards.format.index import TAR_SUFFIX
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.store.base import Store


def read_manifest(store: Store) -> Manifest:
    """The manifest of the data set in a store.

    Raises:
        MissingDataError: there is none.
        ManifestError: it is damaged.
    """
    try:
        return Manifest.parse(store.get(MANIFEST_NAME), f"{store.url}/{MANIFEST_NAME}")
    except MissingDataError as error:
        raise MissingDataError(f"there is no data set at {store.url}: {error}") from None


def names_beside(store: Store, manifest: Manifest) -> list[str]:
    """The small files of a data set beside its manifest, tars and sidecars: listed, or those that there may be."""
    if store.url.partition("://")[0] in ("http", "https"):
        groups = ("", *manifest.groups)
        named = [beside_group(name, group) for name in (PLAN_NAME, FAILURES_NAME) for group in groups]
        return [*named, *(projection_name(group) for group in groups), ORIGIN_NAME]
    names = (name for name, _ in store.list())
    return [name for name in names if "/" not in name and not name.endswith((TAR_SUFFIX, ".idx", MANIFEST_NAME))]
