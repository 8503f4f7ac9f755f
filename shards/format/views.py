"""Which view of its videos a data set shows. What is used together has to show the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from shards.format.errors import ShardError
from shards.format.manifest import Manifest
from shards.format.publish import canonical_json


def view_of(manifest: Manifest) -> dict[str, Any] | None:
    """The view that the clips were cut by, its hash as `hash`, or None where nobody wrote it down."""
    view = manifest.provenance.get("view")
    return view if isinstance(view, dict) else None


def view_hash(manifest: Manifest) -> str | None:
    """The hash of the view that the clips were cut by, or None where nobody wrote it down (tars made elsewhere)."""
    return hash_of(view_of(manifest))


def hash_of(view: Mapping[str, Any] | None) -> str | None:
    """The hash of a view as it was written down, or None."""
    found = (view or {}).get("hash")
    return found if isinstance(found, str) else None


def single_view_hash(manifest: Manifest) -> str | None:
    """The hash of the view of one clip and one crop which a data set of several views a video goes with, or None.

    Of a data set with one view a video it is that view's own. What was trained on such clips may be tested on several
    of a video: sets belong together whose hashes by this function are the same.
    """
    return single_hash_of(view_of(manifest))


def single_hash_of(view: Mapping[str, Any] | None) -> str | None:
    """The same of a view as it was written down."""
    if view is None or not {"clips", "crops"} & view.keys():
        return hash_of(view)
    spec = {name: value for name, value in view.items() if name not in ("hash", "clips", "crops")}
    return hash_of_view(spec | ({"crop": "centre"} if "crop" in spec else {}))


def hash_of_view(spec: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON of a view, all that decides the pixels."""
    return hashlib.sha256(canonical_json(dict(spec))).hexdigest()


def refuse_other_views(views: Mapping[str, str | None]) -> str:
    """Compare the views of what is to be used together.

    A data set whose view nobody wrote down is not refused, since nothing is known against it; that it was not compared
    is said instead.

    Args:
        views: what each is called in messages -> hash of its view, or None.

    Returns:
        "the same view", or which were not compared: for the terminal.

    Raises:
        ShardError: two views differ; both are named.
    """
    known = {name: found for name, found in views.items() if found is not None}
    first = next(iter(known), "")
    for name, found in known.items():
        if found != known[first]:
            raise ShardError(
                f"the views differ: {first} was cut by view {known[first][:12]}, {name} by view {found[:12]}; build "
                "both with the same `view` section (`reelshard show` prints it)"
            )
    unknown = [name for name in views if name not in known]
    return f"view not recorded in {', '.join(unknown)}, not compared" if unknown else "the same view"
