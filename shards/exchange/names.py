"""How what others made is joined to the samples of a data set: by key, or else by the id of the video."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from shards.dataset import ShardDataset
from shards.format.errors import MissingDataError

NAMES = ("key", "video_id", "id")  # what a row may call its sample by; the first that is there counts
NUM_NAMED = 3


def match_samples(dataset: ShardDataset, rows: Container[str]) -> list[str | None]:
    """For each sample the name of its row: the sample's key, or else its `video_id`; None where there is no row.

    The JSON of a sample is read only where no row has its key. Several samples of one video may share a row that gives
    the video's id.
    """
    return [next((name for name in _names_of(dataset, n) if name in rows), None) for n in range(len(dataset))]


def _names_of(dataset: ShardDataset, number: int) -> Iterator[str]:
    yield dataset.key(number)
    if "json" in dataset.schema:
        video = dataset.metadata(number).get("video_id")
        if isinstance(video, str | int) and not isinstance(video, bool):
            yield str(video)


def refuse_unmatched(what: str, lacks: str, dataset: ShardDataset, matched: list[str | None], cure: str = "") -> None:
    """Refuse samples without a row.

    Args:
        what: has the rows.
        lacks: what there is not, such as "no row".
        dataset: the samples.
        matched: the name of each sample's row, or None.
        cure: what to do about it.

    Raises:
        MissingDataError: there are some; a few are named.
    """
    keys = [dataset.key(number) for number, name in enumerate(matched) if name is None]
    if len(keys) == len(matched):
        raise MissingDataError(
            f"{what} names no sample of {dataset.directory}: rows are matched by a sample's key, which looks like "
            f"{dataset.key(0)!r}, or by its video_id"
        )
    if keys:
        raise MissingDataError(f"{what} has {lacks} for {some(keys, 'sample')}{cure}")


def some(names: Iterable[str], unit: str) -> str:
    """Names in words, the first few and how many there are."""
    listed = list(names)
    more = f" and {len(listed) - NUM_NAMED} more" if len(listed) > NUM_NAMED else ""
    return f"{len(listed)} {unit}{'s' if len(listed) != 1 else ''} ({', '.join(map(repr, listed[:NUM_NAMED]))}{more})"
