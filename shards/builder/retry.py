"""Try failed videos again: which finished shards would come out differently today."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

from shards.builder.decode.isolate import DecodePool
from shards.builder.failure import FailureRecord
from shards.builder.journal import ShardReport, known_failures
from shards.builder.plan import Plan
from shards.builder.prepare import Outcome


def shards_to_retry(plan: Plan, reports: Iterable[ShardReport]) -> set[int]:
    """Decode the failed items of finished shards again, without building anything.

    Returns:
        The shards in which an item can be decoded now, or fails in another way.
    """
    decoders = DecodePool(plan, plan.config.num_workers)
    try:
        tries: list[tuple[FailureRecord, Future[Outcome]]] = []
        for report in reports:
            items = {item.key: item for item in plan.shard_items(report.shard) if item.problem is None}
            known = known_failures(plan, report.shard)
            tries += [
                (failure, decoders.submit(report.shard, items[failure.key]))
                for failure in report.failures
                if failure not in known
            ]
        return {failure.shard for failure, outcome in tries if outcome.result().failure != failure}
    finally:
        decoders.shutdown()
